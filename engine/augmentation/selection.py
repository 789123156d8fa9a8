"""From what images may look like to the transforms that show it. Pure; needs no albumentations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.augmentation.transform_table import FORBIDS, NEUTRAL, ROWS, Effect, Forbid, Levels, Row, Trait
from engine.spec import (
    AugmentationSpec,
    Background,
    Characteristic,
    EnvironmentSpec,
    Intensity,
    Lighting,
    Motion,
    Viewpoint,
    Weather,
)


@dataclass(frozen=True)
class ChosenTransform:
    """One transform of a pipeline.

    Attributes:
        slot: What it changes.
        name: Name of the transform.
        params: Its arguments at the intensity asked for, less ``p``.
        probability: Share of the images that it is applied to.
        needs_masks: Left out for samples without masks.
        because: Why it belongs.
    """

    slot: str
    name: str
    params: Mapping[str, Any]
    probability: float
    needs_masks: bool
    because: str


@dataclass(frozen=True)
class LeftOut:
    """A transform that some traits asked for and another forbids."""

    slot: str
    name: str
    forbidden_by: Trait
    because: str


def select(spec: AugmentationSpec) -> tuple[ChosenTransform, ...]:
    """The transforms of a pipeline, in the order in which they are applied; none at intensity ``none``.

    An intensity that is not set is ``medium``.
    """
    intensity = spec.intensity or Intensity.MEDIUM
    if intensity is Intensity.NONE:
        return ()
    level = list(Intensity).index(intensity) - 1
    chosen = []
    for row in _asked(spec):
        forbids = _forbids(row, spec)
        if any(not forbid.unless_masks for forbid in forbids):
            continue
        params = {name: _at(value, level) for name, value in row.params.items()}
        needs_masks = row.needs_masks or bool(forbids)
        chosen.append(ChosenTransform(row.slot, row.transform, params, row.p[level], needs_masks, row.because))
    return tuple(chosen)


def left_out(spec: AugmentationSpec) -> tuple[LeftOut, ...]:
    """What would have been chosen, had no trait forbidden it: a trait that forbids always wins."""
    if spec.intensity is Intensity.NONE:
        return ()
    return tuple(
        LeftOut(row.slot, row.transform, forbid.when, forbid.because)
        for row in _asked(spec)
        for forbid in _forbids(row, spec)[:1]
        if not forbid.unless_masks
    )


def describe(chosen: Sequence[ChosenTransform], missing: Sequence[LeftOut] = ()) -> str:
    """A pipeline in words, one line a transform."""
    lines = [
        f"{c.slot:<20} {c.probability:>4.0%}  {_call(c.name, c.params)}"
        f"{' (with masks only)' if c.needs_masks else ''}: {c.because}"
        for c in chosen
    ]
    lines += [f"{m.slot:<20} left out, {trait_name(m.forbidden_by)}: {m.because}" for m in missing]
    return "\n".join(lines) or "images stay as they are"


def trait_name(trait: Trait) -> str:
    """As it is written in a manifest: ``small_objects``, ``weather: rain``."""
    return trait.value if isinstance(trait, Characteristic) else f"{type(trait).__name__.lower()}: {trait.value}"


def table_markdown() -> str:
    """The whole table as a page of documentation."""
    rows = "\n".join(
        f"| {row.slot} | {', '.join(f'`{trait_name(t)}`' for t in row.when) or 'everyone'} | `{row.transform}` "
        f"| {' / '.join(f'{p:.0%}' for p in row.p)} | {'<br>'.join(_params(row)) or '–'} "
        f"| {', '.join(effect.value for effect in _ordered(row.effects)) or '–'} "
        f"| {row.because}{' *Only with masks.*' if row.needs_masks else ''} |"
        for row in ROWS
    )
    forbids = "\n".join(
        f"| `{trait_name(f.when)}` | {', '.join(effect.value for effect in _ordered(f.effects))} "
        f"| {f.because}{' *Only without masks.*' if f.unless_masks else ''} |"
        for f in FORBIDS
    )
    neutral = "\n".join(f"- `{trait_name(trait)}`: {because}" for trait, because in NEUTRAL)
    return f"{_HEAD}\n{rows}\n{_FORBIDS_HEAD}\n{forbids}\n{_NEUTRAL_HEAD}\n{neutral}\n"


ALL_TRAITS: tuple[Trait, ...] = (*Characteristic, *Lighting, *Weather, *Motion, *Viewpoint, *Background)


def traits(spec: AugmentationSpec) -> tuple[Trait, ...]:
    """What was asked for. Compare traits by identity: ``weather: none`` equals ``motion: none`` as text."""
    environment = (getattr(spec.environment, name) for name in EnvironmentSpec.model_fields)
    return (*spec.characteristics, *(value for value in environment if value is not None))


def _asked(spec: AugmentationSpec) -> list[Row]:
    """The last row of each slot that someone asked for, in the order of the table."""
    present = traits(spec)
    last = {row.slot: row for row in ROWS if not row.when or any(_is_in(trait, present) for trait in row.when)}
    return [row for row in ROWS if last.get(row.slot) is row]


def _forbids(row: Row, spec: AugmentationSpec) -> list[Forbid]:
    """What stands against a row, what masks do not help against first."""
    present = traits(spec)
    against = [forbid for forbid in FORBIDS if forbid.effects & row.effects and _is_in(forbid.when, present)]
    return sorted(against, key=lambda forbid: forbid.unless_masks)


def _is_in(trait: Trait, present: Sequence[Trait]) -> bool:
    return any(trait is other for other in present)


def _at(value: Any, level: int) -> Any:
    return value[level] if isinstance(value, Levels) else value


def _call(name: str, params: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in params.items())})"


def _params(row: Row) -> Iterator[str]:
    for key, value in row.params.items():
        yield f"{key} {' / '.join(str(one) for one in value)}" if isinstance(value, Levels) else f"{key} {value}"


def _ordered(effects: frozenset[Effect]) -> list[Effect]:
    return [effect for effect in Effect if effect in effects]


_HEAD = """# Augmentation: what is changed for whom, and why

Say what the objects are like (`characteristics`), where they are seen (`environment`) and how strongly images may be
changed (`intensity`: none, low, medium or high); nothing has to be said. Boxes and masks follow every change:

    spec:
      augmentation:
        characteristics: [small_objects, reflective_surface]
        environment: {lighting: variable, weather: rain, motion: camera, viewpoint: overhead, background: cluttered}
        intensity: medium

Look at the result before a GPU is paid for: `teacher augment --data … --preview sheet.png`.

This page is generated from `engine/augmentation/transform_table.py`. Transforms are applied from top to bottom, each to
the given share of the images; values are for low / medium / high. If several rows of one kind apply, the last one is
used.
Transforms are those of albumentations 2.0, and `ObjectCrop`, a window around an object.

An object of which less than 15 %, or less than a pixel, is left in view is dropped. Boxes are read off the masks
wherever a transform does not keep boxes upright. Images under 32 pixels stay as they are.

## What is done

| what | for | transform | share | parameters | effects | because |
|---|---|---|---|---|---|---|"""

_FORBIDS_HEAD = """
## What is forbidden

A trait that forbids wins over every trait that asks; what was left out for this reason is listed.

| for | nothing that | because |
|---|---|---|"""

_NEUTRAL_HEAD = """
## What changes nothing
"""
