"""Augmentation chosen by the traits of the objects and of their environment."""

from engine.augmentation.augmenter import Augmenter
from engine.augmentation.mixing import Mixer
from engine.augmentation.preview import contact_sheet
from engine.augmentation.selection import ChosenTransform, LeftOut, describe, left_out, select, table_markdown

__all__ = [
    "Augmenter",
    "ChosenTransform",
    "LeftOut",
    "Mixer",
    "contact_sheet",
    "describe",
    "left_out",
    "select",
    "table_markdown",
]
