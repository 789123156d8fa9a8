"""What users say of their objects decides what is done to their images."""

from __future__ import annotations

import warnings

import pytest

from engine.augmentation import describe, left_out, select
from engine.augmentation.pipeline import Pipeline
from engine.augmentation.selection import ALL_TRAITS, trait_name
from engine.augmentation.transform_table import FORBIDS, NEUTRAL, ROWS, Effect, Levels, Row
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

C = Characteristic
BASE = {"crop", "distance", "left and right", "tilt", "brightness", "colour", "focus", "compression"}

TURNED = {"left and right", "up and down", "quarter turn", "free turn"}


def spec(*characteristics: C, intensity: Intensity | None = None, **environment: object) -> AugmentationSpec:
    return AugmentationSpec(
        characteristics=list(characteristics), environment=EnvironmentSpec(**environment), intensity=intensity
    )


def slots(asked: AugmentationSpec) -> set[str]:
    return {chosen.slot for chosen in select(asked)}


def test_who_says_nothing_gets_the_mild_changes_that_suit_everyone() -> None:
    assert slots(spec()) == BASE


def test_intensity_none_changes_nothing() -> None:
    asked = spec(C.DENSE, intensity=Intensity.NONE, weather=Weather.RAIN)
    assert select(asked) == ()
    assert left_out(asked) == ()
    assert describe(select(asked)) == "images stay as they are"


def test_an_intensity_that_is_not_set_is_medium() -> None:
    assert select(spec()) == select(spec(intensity=Intensity.MEDIUM))


def test_a_higher_intensity_never_applies_a_transform_less_often() -> None:
    for row in ROWS:
        assert 0 < row.p.low <= row.p.medium <= row.p.high <= 1, row.slot


@pytest.mark.parametrize("intensity", [Intensity.LOW, Intensity.MEDIUM, Intensity.HIGH])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.slot}-{'-'.join(row.when)}")
def test_every_row_builds_as_written(row: Row, intensity: Intensity) -> None:
    """albumentations only warns of an argument that it does not know, and uses its default instead."""
    [chosen] = [c for c in select(spec_for(row, intensity)) if c.slot == row.slot]
    assert chosen.name == row.transform
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline([chosen])


def spec_for(row: Row, intensity: Intensity) -> AugmentationSpec:
    traits = row.when[:1]
    characteristics = [trait for trait in traits if isinstance(trait, Characteristic)]
    environment = {type(t).__name__.lower(): t for t in traits if not isinstance(t, Characteristic)}
    return spec(*characteristics, intensity=intensity, **environment)


@pytest.mark.parametrize("trait", ALL_TRAITS, ids=trait_name)
def test_every_trait_does_something_or_is_reported_to_do_nothing(trait: object) -> None:
    asks = any(trait is one for row in ROWS for one in row.when)
    forbids = any(trait is one.when for one in FORBIDS)
    neutral = any(trait is one for one, _ in NEUTRAL)
    assert (asks or forbids) != neutral


def test_every_effect_is_forbidden_by_some_trait() -> None:
    assert {effect for forbid in FORBIDS for effect in forbid.effects} == set(Effect)


@pytest.mark.parametrize(
    ("characteristic", "environment", "gone"),
    [
        (C.ORIENTATION_MATTERS, {"viewpoint": Viewpoint.OVERHEAD}, TURNED),
        (C.COLOR_MATTERS, {"lighting": Lighting.VARIABLE}, {"colour", "colour of the light", "no colour", "tint"}),
        (C.SMALL_OBJECTS, {"motion": Motion.CAMERA}, {"focus", "motion blur", "compression"}),
        (C.DENSE, {"background": Background.CLUTTERED}, {"things in front"}),
        (C.LOW_CONTRAST, {"weather": Weather.FOG}, {"fog"}),
        (C.TRANSPARENT, {"background": Background.VARIED}, {"surroundings"}),
        (C.TEXTURELESS, {"lighting": Lighting.LOW}, {"sensor noise"}),
    ],
)
def test_a_trait_that_forbids_wins_over_those_that_ask(
    characteristic: C, environment: dict[str, object], gone: set[str]
) -> None:
    asked = spec(characteristic, **environment)
    assert not gone & slots(asked)
    assert gone & slots(spec(**environment))
    listed = {missing.slot for missing in left_out(asked) if missing.forbidden_by is characteristic}
    assert listed == gone & slots(spec(**environment))
    assert characteristic.value in describe(select(asked), left_out(asked))


def test_a_fixed_camera_neither_tilts_nor_moves_around() -> None:
    asked = spec(C.REPETITIVE_PATTERN, viewpoint=Viewpoint.FIXED)
    assert not {"tilt", "perspective"} & slots(asked)


def test_small_objects_come_nearer_and_never_go_further_away() -> None:
    [distance] = [c for c in select(spec(C.SMALL_OBJECTS, intensity=Intensity.HIGH)) if c.slot == "distance"]
    assert distance.params["scale"][0] >= 1


def test_faint_objects_only_gain_contrast_even_when_the_light_varies() -> None:
    for faint in (C.LOW_CONTRAST, C.TRANSPARENT):
        [light] = [c for c in select(spec(faint, lighting=Lighting.VARIABLE)) if c.slot == "brightness"]
        assert light.params["contrast"][0] >= 1


def test_long_objects_are_tilted_only_where_masks_tell_where_they_are() -> None:
    [tilt] = [c for c in select(spec(C.ELONGATED)) if c.slot == "tilt"]
    assert tilt.needs_masks
    assert not left_out(spec(C.ELONGATED))


def test_a_trait_is_not_taken_for_another_of_the_same_name() -> None:
    assert "perspective" in slots(spec(viewpoint=Viewpoint.VARIED))
    assert "surroundings" not in slots(spec(viewpoint=Viewpoint.VARIED))
    assert "surroundings" in slots(spec(background=Background.VARIED))
    assert "perspective" not in slots(spec(background=Background.VARIED))


def test_at_most_one_transform_changes_each_thing() -> None:
    everything = spec(
        *C,
        intensity=Intensity.HIGH,
        lighting=Lighting.HARSH,
        weather=Weather.MIXED,
        motion=Motion.CAMERA,
        viewpoint=Viewpoint.OVERHEAD,
        background=Background.CLUTTERED,
    )
    chosen = [c.slot for c in select(everything)]
    assert len(chosen) == len(set(chosen))
    assert len(chosen) < len(ROWS)


def test_the_description_says_what_is_done_how_often_and_why() -> None:
    [line] = [line for line in describe(select(spec(weather=Weather.RAIN))).splitlines() if line.startswith("rain ")]
    assert "RandomRain(rain_type=drizzle" in line
    assert "30%" in line
    assert "streaks" in line


def test_rows_that_differ_by_intensity_give_three_values() -> None:
    for row in ROWS:
        for value in row.params.values():
            assert not isinstance(value, Levels) or len(set(map(str, value))) > 1, row.slot
