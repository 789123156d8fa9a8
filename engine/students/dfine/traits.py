"""Traits of D-FINE."""

from __future__ import annotations

from engine.registry import register
from engine.students.dfine.settings import DFineSettings
from engine.traits import PublishedBase, StudentTraits

DFINE = register(
    StudentTraits(
        name="DFine",
        slug="dfine",
        title="D-FINE",
        summary="boxes of a fixed list of classes",
        annotations="boxes",
        can_learn_masks=True,
        settings=DFineSettings,
        model="engine.students.dfine.model:DFine",
        model_types=("d_fine",),
        transformers_classes=frozenset({"DFineForObjectDetection"}),
        sizes={
            "femto": 415_000,
            "pico": 1_233_000,
            "nano": 3_783_000,
            "small": 10_322_000,
            "medium": 19_590_000,
            "large": 31_290_000,
        },
        learning_rates=dict.fromkeys(("small", "medium", "large"), 2e-4),
        licence="Apache-2.0",
        published=(
            PublishedBase("ustc-community/dfine-nano-coco", 3_800_000, "Apache-2.0", "nano"),
            PublishedBase("ustc-community/dfine-small-coco", 10_300_000, "Apache-2.0", "small"),
            PublishedBase("ustc-community/dfine-medium-coco", 19_600_000, "Apache-2.0", "medium"),
            PublishedBase("ustc-community/dfine-large-coco", 31_000_000, "Apache-2.0", "large"),
        ),
    )
)
