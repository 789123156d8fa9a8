"""Table of transforms by traits of objects and environment, with reasons, from ``transforms.yaml``.

``ROWS`` are in the order in which they are applied. ``FORBIDS`` exclude effects that are wrong for a trait, and win
over every row. ``NEUTRAL`` traits neither request nor forbid anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from typing import Any, NamedTuple

from engine.spec import Background, Characteristic, Lighting, Motion, Viewpoint, Weather
from engine.text.plain_yaml import read_document

Trait = Characteristic | Lighting | Weather | Motion | Viewpoint | Background


class Effect(StrEnum):
    """Effects of transforms that are wrong for some objects."""

    MIRRORS = "mirrors"
    TURNS = "turns by large angles"
    TILTS = "tilts or slants"
    VIEWS = "changes the viewing angle"
    BENDS = "bends"
    SHRINKS = "shrinks"
    HIDES = "hides parts"
    RECOLOURS = "changes colours"
    FADES = "takes contrast away"
    BLURS = "takes detail away"
    SPECKLES = "adds texture"


class Levels(NamedTuple):
    """A parameter that grows with the intensity."""

    low: Any
    medium: Any
    high: Any


@dataclass(frozen=True)
class Row:
    """One transform.

    Attributes:
        slot: Property that is changed. At most one row of a slot is applied.
        transform: Name of a transform of albumentations, or of one in :mod:`engine.augmentation.custom_transforms`.
        p: Share of the images that it is applied to.
        params: Its arguments (see its documentation); :class:`Levels` if they differ by intensity.
        when: Traits, of which any requests it; empty: always requested.
        effects: Effects for which a trait may forbid it.
        needs_masks: Whether it is left out for samples without masks, since their boxes would be wrong after it.
        because: Reason for it.
    """

    slot: str
    transform: str
    because: str
    p: Levels
    params: Mapping[str, Any] = field(default_factory=dict)
    when: tuple[Trait, ...] = ()
    effects: frozenset[Effect] = frozenset()
    needs_masks: bool = False


@dataclass(frozen=True)
class Forbid:
    """Effects that a trait forbids; with ``unless_masks`` only if boxes cannot be computed from masks."""

    when: Trait
    effects: frozenset[Effect]
    because: str
    unless_masks: bool = False


TRAITS: Mapping[str, type[Trait]] = {
    "lighting": Lighting,
    "weather": Weather,
    "motion": Motion,
    "viewpoint": Viewpoint,
    "background": Background,
}
"""Kinds of traits of the environment, by their name in a manifest."""


def _trait(written: Any) -> Trait:
    """Return a trait as written in a manifest: ``dense``, ``{weather: rain}``."""
    if isinstance(written, str):
        return Characteristic(written)
    [(kind, value)] = written.items()
    return TRAITS[kind](value)


def _effects(names: list[str]) -> frozenset[Effect]:
    return frozenset(Effect[name.upper()] for name in names)


def _value(written: Any) -> Any:
    """Return a parameter: lists as tuples, and maps of the three intensities as :class:`Levels`."""
    if isinstance(written, dict):
        return Levels(**{name: _value(value) for name, value in written.items()})
    return tuple(map(_value, written)) if isinstance(written, list) else written


def _row(written: dict[str, Any]) -> Row:
    p, params, when = written.pop("p"), written.pop("params", {}), written.pop("when", [])
    return Row(
        p=Levels(*p),
        params={name: _value(value) for name, value in params.items()},
        when=tuple(map(_trait, when)),
        effects=_effects(written.pop("effects", [])),
        **written,
    )


def _forbid(written: dict[str, Any]) -> Forbid:
    return Forbid(when=_trait(written.pop("when")), effects=_effects(written.pop("effects")), **written)


def _read() -> tuple[tuple[Row, ...], tuple[Forbid, ...], tuple[tuple[Trait, str], ...]]:
    name = "transforms.yaml"
    text = resources.files("engine.augmentation").joinpath(name).read_text(encoding="utf-8")
    table: Any = read_document(text, where=name).value
    neutral = tuple((_trait(one["when"]), one["because"]) for one in table["neutral"])
    return tuple(map(_row, table["rows"])), tuple(map(_forbid, table["forbids"])), neutral


ROWS, FORBIDS, NEUTRAL = _read()
