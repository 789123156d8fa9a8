"""Select transforms by traits of objects and environment. Pure, without albumentations."""

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
        slot: Property that it changes.
        name: Name of the transform.
        params: Its arguments at the requested intensity, without ``p``.
        probability: Share of the images that it is applied to.
        needs_masks: Left out for samples without masks.
        because: Reason for it.
    """

    slot: str
    name: str
    params: Mapping[str, Any]
    probability: float
    needs_masks: bool
    because: str


@dataclass(frozen=True)
class LeftOut:
    """A transform that some traits request and another forbids."""

    slot: str
    name: str
    forbidden_by: Trait
    because: str


def select(spec: AugmentationSpec) -> tuple[ChosenTransform, ...]:
    """Return the transforms of a pipeline, in the order of application; none at intensity ``none``.

    The default intensity is ``medium``.
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
    """Return the transforms that would be chosen if no trait forbade them: a trait that forbids always wins."""
    if spec.intensity is Intensity.NONE:
        return ()
    return tuple(
        LeftOut(row.slot, row.transform, forbid.when, forbid.because)
        for row in _asked(spec)
        for forbid in _forbids(row, spec)[:1]
        if not forbid.unless_masks
    )


def describe(chosen: Sequence[ChosenTransform], missing: Sequence[LeftOut] = ()) -> str:
    """Describe a pipeline, one line per transform."""
    lines = [
        f"{c.slot:<20} {c.probability:>4.0%}  {_call(c.name, c.params)}"
        f"{' (with masks only)' if c.needs_masks else ''}: {c.because}"
        for c in chosen
    ]
    lines += [f"{m.slot:<20} left out, {trait_name(m.forbidden_by)}: {m.because}" for m in missing]
    return "\n".join(lines) or "images stay as they are"


def trait_name(trait: Trait) -> str:
    """Return the trait as written in a manifest: ``small_objects``, ``weather: rain``."""
    return trait.value if isinstance(trait, Characteristic) else f"{type(trait).__name__.lower()}: {trait.value}"


def table_markdown() -> str:
    """Return the whole table as a page of documentation."""
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
    """Return the requested traits. Compare them by identity: ``weather: none`` equals ``motion: none`` as text."""
    environment = (getattr(spec.environment, name) for name in EnvironmentSpec.model_fields)
    return (*spec.characteristics, *(value for value in environment if value is not None))


def _asked(spec: AugmentationSpec) -> list[Row]:
    """Return the last row of each slot that a trait requests, in the order of the table."""
    present = traits(spec)
    last = {row.slot: row for row in ROWS if not row.when or any(_is_in(trait, present) for trait in row.when)}
    return [row for row in ROWS if last.get(row.slot) is row]


def _forbids(row: Row, spec: AugmentationSpec) -> list[Forbid]:
    """Return what forbids a row; entries that hold even with masks come first."""
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


_HEAD = """# Augmentation: transforms, their traits and reasons

Describe the objects (`characteristics`), their surroundings (`environment`) and the strength of the changes
(`intensity`: none, low, medium or high); all of these are optional. Boxes and masks follow every change:

    spec:
      augmentation:
        characteristics: [small_objects, reflective_surface]
        environment: {lighting: variable, weather: rain, motion: camera, viewpoint: overhead, background: cluttered}
        intensity: medium

Preview the result before you pay for a GPU: `teacher augment --data … --preview sheet.png`.

`mosaic: 50` makes half of a detector's training views of windows of four images, and `paste: 50` copies up to four
objects of another training image into half of them. Both are off by default, and `teacher augment --mosaic 50 --paste
50` shows them; whether they help depends on the data, so compare the AP of two runs. An object is copied with its mask,
or without one as its box with a blended border, where it hides little of others; its size changes by up to 40 %. Crowds
are not copied, and stay regions to ignore. Teachers of masks, which are prompted by objects, do not get such views.

This page is generated from `engine/augmentation/transforms.yaml`. Transforms are applied from top to bottom, each to
the given share of the images; values are for low / medium / high. If several rows of one kind apply, the last one is
used. Transforms are those of albumentations 2.0, and `ObjectCrop`, a window around an object.

An object of which less than 15 %, or less than a pixel, stays in view is dropped. Boxes are computed from the masks
after transforms that do not keep boxes upright. Images with a side under 32 pixels are not changed.

## What is done

| what | for | transform | share | parameters | effects | because |
|---|---|---|---|---|---|---|"""

_FORBIDS_HEAD = """
## What is forbidden

A trait that forbids a transform wins over every trait that requests it; transforms left out for this reason are listed.

| for | nothing that | because |
|---|---|---|"""

_NEUTRAL_HEAD = """
## What changes nothing
"""
