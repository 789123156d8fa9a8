"""Trials of a sweep and folds of a cross-validation, as they are planned."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import from_yaml, generate_config, to_yaml
from engine.config.trials import all_trainings
from engine.dataset.types import ClassInfo, DatasetInfo
from engine.errors import ConfigError, DataError
from engine.spec import FineTuneSpec, LoraPreset, TeacherName
from engine.text.pydantic_errors import parse


def dataset(**changes: Any) -> DatasetInfo:
    values: dict[str, Any] = {
        "source": "s3://data/a.json",
        "digest": "0" * 64,
        "images": 100,
        "annotations": 500,
        "annotations_read": 500,
        "has_boxes": True,
        "has_masks": True,
        "boxes_derived": 0,
        "masks": 500,
        "crowd_share": 0.0,
        "classes": (ClassInfo(id=1, name="bolt", annotations=500, images=90),),
        "sizes": None,
        "image_sizes": None,
    }
    return DatasetInfo.model_validate(values | changes)


def spec(**changes: Any) -> FineTuneSpec:
    values: dict[str, Any] = {"dataset": {"annotations": "s3://data/a.json"}, "output": "s3://models/x/"}
    return parse(FineTuneSpec, values | changes, where="the request")


def sweep(**lists: Any) -> dict[str, Any]:
    return {"training": {"sweep": lists}}


def test_every_combination_is_a_trial_of_every_teacher() -> None:
    config = generate_config(dataset(), spec(**sweep(learningRates=["5e-4", "2e-3"], ranks=[8, 32])))
    for name in TeacherName.GROUNDING_DINO, TeacherName.SAM:
        trainings = all_trainings(config, name)
        tried = [(one.learning_rate, one.lora.rank) for one in trainings]
        assert tried == [(5e-4, 8), (5e-4, 32), (2e-3, 8), (2e-3, 32)]
        assert {one.trials for one in trainings} == {()}
    assert from_yaml(to_yaml(config)) == config


def test_settings_that_follow_from_those_of_a_trial_follow_in_it() -> None:
    config = generate_config(dataset(), spec(**sweep(ranks=[8, 32], presets=["decoder", "all"])))
    settings = all_trainings(config, TeacherName.SAM)
    assert [one.lora.alpha for one in settings] == [16, 16, 64, 64]
    assert [(one.lora.preset, one.views > 0) for one in settings[:2]] == [
        (LoraPreset.DECODER, True),
        (LoraPreset.ALL, False),
    ]
    fixed = generate_config(dataset(), spec(settings={"teachers.*.lora.alpha": "10"}, **sweep(ranks=[8, 32])))
    assert [one.lora.alpha for one in all_trainings(fixed, TeacherName.SAM)] == [10, 10]


def test_a_sweep_of_one_trial_is_the_run_without_a_sweep() -> None:
    alone = generate_config(dataset(), spec(settings={"teachers.*.learning_rate": "5e-4", "teachers.*.lora.rank": "8"}))
    assert generate_config(dataset(), spec(**sweep(learningRates=["5e-4"], ranks=[8]))) == alone


def test_a_sweep_may_be_given_by_its_path_and_left_out_for_a_teacher() -> None:
    settings = {"training.sweep.learning_rates": "[5e-4, 1e-3]", "teachers.sam.trials": "[]"}
    config = generate_config(dataset(), spec(settings=settings))
    assert [len(all_trainings(config, name)) for name in config.teachers.names] == [2, 1]
    assert generate_config(dataset(), spec()).run_id != config.run_id


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({}, "a sweep needs values to try: list learningRates, ranks or presets"),
        ({"ranks": []}, "a sweep needs values to try"),
        ({"ranks": [4, 8, 16], "presets": ["all", "decoder"], "learningRates": ["1e-3", "1e-4"]}, "2 presets make 12"),
        ({"learningRates": ["1e-3", "0.001"]}, "learningRates has one twice"),
        ({"ranks": [0]}, "training.sweep.ranks.0: must be at least 1, found 0"),
        ({"presets": ["encoder"]}, "'encoder' is not allowed (did you mean 'decoder'?)"),
        ({"rank": [8]}, "training.sweep.rank: there is no setting 'rank' (did you mean 'ranks'?)"),
        ({"epochs": [8]}, "there is no setting 'epochs'"),
    ],
)
def test_a_bad_sweep_is_refused_with_the_reason(lists: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        spec(**sweep(**lists))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("lists", "teacher", "said"),
    [
        (
            {"learningRates": ["1e-3", "2e-3"]},
            {"learningRate": "5e-4"},
            "sweep.learningRates tries several values, and",
        ),
        ({"ranks": [8, 32]}, {"lora": {"rank": 16}}, "lora.rank of Sam sets one: remove one of them"),
        ({"presets": ["all", "decoder"]}, {"lora": {"preset": "all"}}, "lora.preset of Sam sets one"),
    ],
)
def test_a_setting_is_swept_or_set(lists: dict[str, Any], teacher: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        spec(**sweep(**lists), teachers=[{"name": "Sam"} | teacher])
    assert said in str(raised.value)
    spec(**sweep(ranks=[8, 32]), teachers=[{"name": "Sam", "learningRate": "5e-4"}])


@pytest.mark.parametrize(
    ("lists", "changes", "said"),
    [
        (
            {"ranks": [8, 32]},
            {"settings": {"teachers.sam.lora.rank": "64"}},
            "ranks tries several values, and teach",
        ),
        ({"ranks": [8, 32]}, {"settings": {"teachers.*.lora.rank": "64"}}, "and teachers.*.lora.rank sets one: remove"),
        ({"learningRates": ["1e-3", "2e-3"]}, {"settings": {"teachers.sam.learning_rate": "5e-4"}}, "learningRates"),
        (
            {"presets": ["all", "decoder"]},
            {"settings": {"teachers.*.lora.preset": "all"}},
            "teachers.*.lora.preset",
        ),
        (
            {"ranks": [8, 32]},
            {"settings": {"teachers.sam.lora": "{rank: 64, alpha: 128, dropout: 0, preset: all, skip_layers: 0}"}},
            "and teachers.sam.lora sets one",
        ),
        (
            {},
            {"settings": {"training.sweep.ranks": "[8, 32]", "teachers.sam.lora.rank": "64"}},
            "and teachers.sam.lora.rank sets one",
        ),
        (
            {},
            {
                "settings": {"training.sweep": "{learning_rates: [1e-3, 2e-3]}"},
                "teachers": [{"name": "Sam", "learningRate": "5e-4"}],
            },
            "training.sweep.learningRates tries several values, and learningRate of Sam sets one",
        ),
    ],
)
def test_a_setting_by_path_is_swept_or_set(lists: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        generate_config(dataset(), spec(**(sweep(**lists) if lists else {}), **changes))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"teachers.sam.lora.rank": "64", "teachers.sam.trials": "[]"},
        {"teachers.sam.lora.rank": "64", "training.sweep": "null"},
        {"teachers.*.lora.rank": "64", "teachers.sam.lora.rank": "null", "teachers.grounding_dino.trials": "[]"},
        {"teachers.*.learning_rate": "5e-4"},
    ],
)
def test_a_setting_that_is_not_swept_may_be_set(settings: dict[str, str]) -> None:
    generate_config(dataset(), spec(settings=settings, **sweep(ranks=[8, 32])))


def test_a_teacher_that_is_left_out_of_a_sweep_may_have_its_own_value() -> None:
    teachers = [{"name": "Sam", "lora": {"rank": 64}}]
    request = spec(teachers=teachers, settings={"teachers.sam.trials": "[]"}, **sweep(ranks=[8, 32]))
    (settings,) = all_trainings(generate_config(dataset(), request), TeacherName.SAM)
    assert settings.lora.rank == 64
    kept = spec(teachers=teachers, settings={"teachers.sam.trials": "null"}, **sweep(ranks=[8, 32]))
    with pytest.raises(ConfigError, match=r"lora\.rank of Sam sets one"):
        generate_config(dataset(), kept)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"training.sweep.rank": "[8]"}, "there is no setting 'rank' (did you mean 'ranks'?)"),
        ({"training.sweep.ranks": "[8, 8]"}, "ranks has one twice"),
        ({"training.sweep": "many"}, "training.sweep"),
        ({"teachers.sam.trials": "[{lora.rank: 0}]"}, "trials[0]: lora.rank: must be at least 1"),
        (
            {"teachers.sam.trials": "[{base_model: other}]"},
            "'base_model' does not name a setting that a trial can change",
        ),
    ],
)
def test_a_bad_sweep_by_paths_is_refused_when_it_is_planned(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        generate_config(dataset(), spec(settings=settings))
    assert said in str(raised.value)


def folds(number: int, info: DatasetInfo | None = None, *, test: int = 0, **changes: Any) -> Any:
    data = {"annotations": "s3://data/a.json", "split": {"folds": number, "test": test}}
    return generate_config(info or dataset(), spec(dataset=data, **changes))


def test_folds_replace_training_and_validation_split() -> None:
    config = folds(4, test=20)
    assert config.data.split is not None
    assert config.data.split.model_dump() == {"train": 60, "val": 20, "test": 20, "folds": 4}
    assert len(all_trainings(config, TeacherName.SAM)) == 5
    assert from_yaml(to_yaml(config)) == config
    assert config.run_id != folds(5, test=20).run_id


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"folds": 1}, "must be at least 2"),
        ({"folds": 11}, "must be at most 10"),
        ({"folds": 5, "train": 70}, "folds replaces train and val: leave them out"),
    ],
)
def test_wrong_folds_are_refused(split: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        spec(dataset={"annotations": "s3://data/a.json", "split": split})


def test_folds_and_a_sweep_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"training\.sweep and dataset\.split\.folds cannot be combined"):
        folds(3, **sweep(ranks=[8, 16]))


def test_folds_of_data_with_a_validation_split_are_refused() -> None:
    with pytest.raises(ConfigError, match="divides data without a validation split"):
        folds(3, dataset(splits={"train": 80, "val": 20}))


def test_more_folds_than_images_with_objects_are_refused() -> None:
    with pytest.raises(DataError, match="has 4 images with objects, too few for 5 folds"):
        folds(5, dataset(images_with_objects={"all": 4}, images_with_masks={"all": 4}))


def test_a_given_training_split_may_be_divided_into_folds_with_a_given_test_split() -> None:
    data = {"train": {"annotations": "s3://data/t.json"}, "test": {"annotations": "s3://data/x.json"}}
    config = generate_config(dataset(splits={"train": 80, "test": 20}), spec(dataset=data | {"split": {"folds": 4}}))
    assert config.data.split is not None
    assert config.data.split.folds == 4
    with pytest.raises(ConfigError, match=r"dataset\.train needs dataset\.val too"):
        spec(dataset=data)
