"""What the user sets wins, what the data shows follows, and the rest is default."""

from __future__ import annotations

import json
import re

import pytest

from engine.config import RunConfig, from_yaml, generate_config, to_yaml
from engine.dataset.types import ClassInfo, DatasetInfo, ImagesInfo, Problem, Severity, SizeInfo
from engine.errors import ConfigError, DataError
from engine.spec import Characteristic, FineTuneSpec, Intensity, TeacherName, TeacherSpec
from engine.teachers import REGISTRY
from engine.teachers.sam.settings import SamSettings
from engine.text.pydantic_errors import parse


def dataset(**changes: object) -> DatasetInfo:
    values: dict[str, object] = {
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
        "classes": (
            ClassInfo(id=1, name="bolt", annotations=300, images=90),
            ClassInfo(id=2, name="nut", annotations=200, images=80),
        ),
        "sizes": SizeInfo(small=10, medium=400, large=90, relative_side=(0.1, 0.2, 0.3), elongation=1.2),
        "image_sizes": ImagesInfo(
            median_size=(640, 480), largest_size=(640, 480), without_annotations=0, objects_mean=5, objects_max=9
        ),
    }
    return DatasetInfo.model_validate(values | changes)


def spec(**changes: object) -> FineTuneSpec:
    values: dict[str, object] = {"dataset": {"annotations": "s3://data/a.json"}, "output": "s3://models/x/"}
    return parse(FineTuneSpec, values | changes, where="the request")


def with_settings(settings: dict[str, object], **changes: object) -> FineTuneSpec:
    return spec(settings={path: json.dumps(value) for path, value in settings.items()}, **changes)


def test_data_with_both_calls_for_both_teachers() -> None:
    assert generate_config(dataset(), spec()).teachers.names == (TeacherName.GROUNDING_DINO, TeacherName.SAM)


def test_boxes_alone_call_for_grounding_dino_alone() -> None:
    config = generate_config(dataset(has_masks=False), spec())
    assert config.teachers.names == (TeacherName.GROUNDING_DINO,)


def test_listed_teachers_are_exactly_those_tuned() -> None:
    assert generate_config(dataset(), spec(teachers=[{"name": "Sam"}])).teachers.names == (TeacherName.SAM,)


def test_a_teacher_that_the_data_cannot_serve_is_refused_with_both_names() -> None:
    with pytest.raises(ConfigError, match=r"teachers lists Sam, which needs masks, but dataset s3://data/a.json"):
        generate_config(dataset(has_masks=False), spec(teachers=[{"name": "Sam"}]))


def test_errors_of_the_data_forbid_a_configuration() -> None:
    problem = Problem(code="no_images", severity=Severity.ERROR, count=1, message="No images.", advice="Add some.")
    with pytest.raises(DataError, match=r"No images\. Add some\."):
        generate_config(dataset(problems=(problem,)), spec())


def test_what_the_manifest_sets_wins_over_defaults() -> None:
    asked = {
        "name": "Sam",
        "epochs": 3,
        "batchSize": 7,
        "learningRate": "2e-3",
        "lora": {"preset": "all", "rank": 8, "dropout": "0.1"},
    }
    sam = generate_config(dataset(), spec(teachers=[asked])).teachers.sam
    assert sam is not None
    assert (sam.epochs, sam.batch_size, sam.learning_rate) == (3, 7, 2e-3)
    assert (sam.lora.preset, sam.lora.rank, sam.lora.alpha, sam.lora.dropout) == ("all", 8, 16, 0.1)


def test_a_setting_wins_over_the_field_of_the_spec() -> None:
    config = generate_config(dataset(), with_settings({"training.seed": 2}, training={"seed": 1}))
    assert config.training.seed == 2


def test_a_setting_with_a_star_holds_for_every_teacher() -> None:
    teachers = generate_config(dataset(), with_settings({"teachers.*.epochs": 2})).teachers
    assert teachers.sam is not None
    assert teachers.grounding_dino is not None
    assert (teachers.sam.epochs, teachers.grounding_dino.epochs) == (2, 2)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("teachers.sam.epoch", "epochs"),
        ("teachers.sam.lora.ranks", "rank"),
        ("trainig.seed", "training.seed"),
        ("teachers.sma.epochs", "teachers.sam.epochs"),
        ("teachers.sam.lroa.rank", "teachers.sam.lora.rank"),
        ("epochs", r"teachers\.\*\.epochs"),
        ("training_.seed", "training.seed"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(path: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        generate_config(dataset(), with_settings({path: 1}))


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("teachers.grounding_dino.denoising", "denoising queries were removed"),
        ("teachers.sam.correction_clicks", "correction clicks were removed"),
    ],
)
def test_a_removed_setting_is_refused_with_what_to_do(path: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"{path}: {what}, .*leave this setting out"):
        generate_config(dataset(), with_settings({path: 0}))


def test_a_prompt_for_no_class_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'bolt'"):
        generate_config(dataset(), spec(classPrompts={"bolts": "steel bolt"}))


def _sam(images: int, **changes: object) -> SamSettings:
    sam = generate_config(dataset(images=images), spec(teachers=[{"name": "Sam", **changes}])).teachers.sam
    assert sam is not None
    return sam


@pytest.mark.parametrize(
    ("names", "prompts", "said"),
    [
        (("car", "Car"), {}, "cannot tell class 'Car' from 'car'"),
        (("Café", "cafe"), {}, "cannot tell class 'cafe' from 'Café'"),
        (("cars!", "cars !"), {}, "cannot tell class 'cars !' from 'cars!'"),
        (("fork_lift", "fork lift"), {}, "cannot tell class 'fork lift' from 'fork_lift'"),
        (("RBC", "traffic light"), {"RBC": "Traffic light."}, "cannot tell class 'traffic light' from 'RBC'"),
        (("...", "car"), {}, r"class '\.\.\.' has no letters"),
        (("RBC", "car"), {"RBC": ". ? ."}, "class 'RBC' has no letters"),
    ],
)
def test_phrases_that_cannot_be_distinguished_are_refused_before_training(
    names: tuple[str, ...], prompts: dict[str, str], said: str
) -> None:
    info = dataset(classes=tuple(ClassInfo(id=i, name=n, annotations=5, images=5) for i, n in enumerate(names)))
    with pytest.raises(ConfigError if prompts else DataError, match=said):
        generate_config(info, spec(classPrompts=prompts))
    assert generate_config(info, spec(classPrompts=prompts, teachers=[{"name": "Sam"}])).data.classes == names


def test_fewer_images_are_seen_more_often_but_never_in_too_few_steps() -> None:
    runs = [_sam(images) for images in (20, 100, 300, 2_000, 20_000)]
    epochs = [sam.epochs for sam in runs]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[1], epochs[-1]) == (40, 8)
    assert all(
        0.8 * images * sam.epochs / sam.batch_size >= 300
        for images, sam in zip((20, 100, 300, 2_000, 20_000), runs, strict=True)
    )


def test_the_batch_size_grows_with_the_images_unless_it_is_set() -> None:
    assert [_sam(images).batch_size for images in (20, 3_000, 20_000)] == [4, 8, 16]
    assert [_sam(images, batchSize=2).batch_size for images in (20, 20_000)] == [2, 2]
    assert _sam(20_000).micro_batch_size is None


@pytest.mark.parametrize("value", [0, -1, "four", 10**9, [4]])
def test_a_wrong_batch_size_is_the_only_fault_reported(value: object) -> None:
    with pytest.raises(ConfigError) as error:
        generate_config(dataset(), with_settings({"teachers.sam.batch_size": value}))
    assert "teachers.sam.batch_size" in str(error.value)
    assert len(str(error.value).splitlines()) == 2, error.value


@pytest.mark.parametrize("name", ["microBatchSize", "micro_batch_size"])
@pytest.mark.parametrize("by_name", [True, False])
def test_the_micro_batch_of_a_teacher_is_a_setting(name: str, by_name: bool) -> None:
    request = {"dataset": {"annotations": "a.json"}, "output": "out", "teachers": [{"name": "Sam", name: 2}]}
    with pytest.raises(ConfigError, match=r'settings: {"teachers\.\*\.micro_batch_size": "2"}'):
        parse(FineTuneSpec, request, where="the request", by_name=by_name)


def test_a_path_with_an_unknown_group_names_its_origin_and_the_whole_path() -> None:
    with pytest.raises(ConfigError, match=r"--set or settings: there is no setting 'teachers\.sma\.epochs'"):
        generate_config(dataset(), with_settings({"teachers.sma.epochs": 4}))
    with pytest.raises(ConfigError, match=r"there is no setting 'training\.\*\.seed'"):
        generate_config(dataset(), with_settings({"training.*.seed": 4}))


def test_the_removed_accumulation_steps_name_the_fields_that_replace_them() -> None:
    teachers = [{"name": "Sam", "accumulationSteps": 2}]
    request = {"dataset": {"annotations": "a.json"}, "output": "out", "teachers": teachers}
    with pytest.raises(ConfigError, match=r"teachers\.0\.accumulationSteps: .* was removed: set batchSize to"):
        parse(FineTuneSpec, request, where="forklifts.yaml")
    with pytest.raises(
        ConfigError, match=r"teachers\.sam\.accumulation_steps: .* set batch_size to .* micro_batch_size"
    ):
        generate_config(dataset(), with_settings({"teachers.sam.accumulation_steps": 2}))
    text = to_yaml(generate_config(dataset(), spec()))
    with pytest.raises(ConfigError, match=r"line \d+: teachers\.sam\.accumulation_steps: .* set batch_size to"):
        from_yaml(re.sub(r"( +)micro_batch_size: null.*", r"\1accumulation_steps: 2", text))


@pytest.mark.parametrize(
    ("name", "values"), [("checkpointing", ("auto", ["encoder"])), ("micro_batch_size", (None, 2))]
)
def test_settings_that_only_save_memory_make_no_other_run(name: str, values: tuple[object, object]) -> None:
    config, other = (generate_config(dataset(), with_settings({f"teachers.sam.{name}": value})) for value in values)
    assert config.teachers.sam != other.teachers.sam
    assert config.run_id == other.run_id


@pytest.mark.parametrize("name", TeacherName)
def test_the_groups_that_settings_may_name_are_those_of_the_teacher(name: TeacherName) -> None:
    path = f"teachers.{name.slug}.checkpointing"

    def set_to(value: object) -> object:
        request = with_settings({path: value}, teachers=[TeacherSpec(name=name)])
        settings = generate_config(dataset(), request).teachers.of(name)
        return settings and settings.checkpointing

    groups = tuple(REGISTRY[name].recomputable)
    assert (set_to("auto"), set_to([]), set_to(list(groups)), set_to(groups[0])) == ("auto", (), groups, groups[:1])
    known = rf"  {path}: must be auto or a list of {', '.join(groups)}"
    for wrong, told in ((True, ", found True"), ("encodr", ", found 'encodr'"), ({"a": 1}, "")):
        with pytest.raises(ConfigError, match=rf"\n{known}{told}$"):
            set_to(wrong)
    with pytest.raises(ConfigError, match=rf"\n{known}, and 'neck' is none of these$"):
        set_to([groups[0], "neck"])


def test_the_rank_follows_from_images_and_classes_and_alpha_from_the_rank() -> None:
    assert [_sam(images).lora.rank for images in (20, 300, 20_000)] == [16, 16, 32]
    assert [_sam(images).lora.alpha for images in (20, 300, 20_000)] == [32, 32, 64]
    assert _sam(20, lora={"rank": 4}).lora.alpha == 8
    assert _sam(20, lora={"rank": 4, "alpha": 4}).lora.alpha == 4
    many = tuple(ClassInfo(id=i, name=f"part {i}", annotations=5, images=5) for i in range(150))
    config = generate_config(dataset(classes=many), with_settings({"teachers.sam.lora.alpha": 32}))
    assert config.teachers.grounding_dino is not None
    assert config.teachers.sam is not None
    assert (config.teachers.grounding_dino.lora.rank, config.teachers.grounding_dino.lora.alpha) == (32, 64)
    assert (config.teachers.sam.lora.rank, config.teachers.sam.lora.alpha) == (32, 32)


def test_the_retention_to_keep_is_asked_for_with_or_without_images() -> None:
    files = {"annotations": "s3://data/p.json"}
    for given, expected in (
        (None, (None, None)),
        ({"minShare": "0.8"}, (None, 0.8)),
        (files, ("s3://data/p.json", None)),
        (files | {"minShare": "1"}, ("s3://data/p.json", 1.0)),
    ):
        training = generate_config(dataset(), spec(training={"retention": given})).training
        assert (training.retention and training.retention.annotations, training.min_retention) == expected
    by_setting = generate_config(dataset(), with_settings({"training.min_retention": 0.8}))
    assert by_setting.run_id == generate_config(dataset(), spec(training={"retention": {"minShare": "0.8"}})).run_id
    assert by_setting.run_id != generate_config(dataset(), spec()).run_id
    for wrong, words in (({"images": "s3://data/"}, "images needs annotations"), ({"minShare": "2"}, 'at most "1"')):
        with pytest.raises(ConfigError, match=words):
            spec(training={"retention": wrong})


@pytest.mark.parametrize("wrong", [[], [0], [1.5], ["x"], 1])
def test_strengths_are_above_0_and_at_most_1(wrong: object) -> None:
    assert generate_config(dataset(), with_settings({"training.strengths": [0.5, 1]})).training.strengths == (0.5, 1)
    with pytest.raises(ConfigError, match=r"training\.strengths"):
        generate_config(dataset(), with_settings({"training.strengths": wrong}))


def test_short_runs_warm_up_for_as_many_steps_as_long_ones() -> None:
    assert _sam(5_000).warmup_fraction == 0.05
    assert _sam(5, epochs=40).warmup_fraction == pytest.approx(0.2)
    short = _sam(80, epochs=20)  # 16 steps an epoch
    assert short.warmup_fraction * 20 * 16 == pytest.approx(20)


@pytest.mark.parametrize("path", ["teachers.sam.batch_size", "teachers.sam.micro_batch_size", "teachers.sam.lora.rank"])
@pytest.mark.parametrize("wrong", [0, "many"])
def test_a_wrong_number_is_distinguished_by_its_own_name(path: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(path)):
        generate_config(dataset(), with_settings({path: wrong}))


def test_what_the_boxes_show_selects_augmentation() -> None:
    small = SizeInfo(small=10, medium=0, large=0, relative_side=(0.01, 0.02, 0.03), elongation=4.0)
    augmentation = generate_config(dataset(sizes=small, images=20), spec()).augmentation
    assert augmentation.characteristics == [Characteristic.SMALL_OBJECTS, Characteristic.ELONGATED]
    assert augmentation.intensity is Intensity.HIGH


def test_views_of_several_images_are_requested_in_percent_by_manifest_or_setting() -> None:
    assert not generate_config(dataset(), spec()).augmentation.mixes
    asked = generate_config(dataset(), spec(augmentation={"mosaic": 50, "paste": 20})).augmentation
    assert (asked.mosaic, asked.paste) == (50, 20)
    by_setting = generate_config(dataset(), with_settings({"augmentation.paste": 20, "augmentation.mosaic": 50}))
    assert by_setting.augmentation == asked
    with pytest.raises(ConfigError, match="mosaic"):
        generate_config(dataset(), with_settings({"augmentation.mosaic": 101}))


def test_the_same_request_on_the_same_data_is_the_same_run() -> None:
    def run_id(info: DatasetInfo, **changes: object) -> str:
        return generate_config(info, spec(**changes), name="n").run_id

    assert run_id(dataset()) == run_id(dataset(), output="s3://elsewhere/")
    assert run_id(dataset()) != run_id(dataset(), training={"seed": 5})
    assert run_id(dataset()) != run_id(dataset(digest="1" * 64))


def test_the_yaml_reads_back_to_the_same_configuration_and_explains_every_setting() -> None:
    config = generate_config(dataset(), spec(classPrompts={"nut": "hex nut: M8 # steel"}), name="parts")
    text = to_yaml(config)
    assert from_yaml(text) == config
    settings = [line for line in text.splitlines() if re.match(r" *[a-z_]+:", line)]
    assert len(settings) > 60
    assert [line.strip() for line in settings if "  # " not in line] == ["nut: 'hex nut: M8 # steel'"]


@pytest.mark.parametrize("run_id", ["98737285e415", "1e5", "123456789012", "000000000017"])
def test_a_run_id_that_looks_like_a_number_stays_text(run_id: str) -> None:
    config = generate_config(dataset(), spec(), name="parts").model_copy(update={"run_id": run_id})
    assert from_yaml(to_yaml(config)).run_id == run_id


def test_a_setting_misspelt_in_the_yaml_is_refused_with_the_nearest() -> None:
    text = to_yaml(generate_config(dataset(), spec())).replace("clip_norm:", "clipnorm:")
    with pytest.raises(ConfigError, match="did you mean 'clip_norm'"):
        from_yaml(text)


def test_parts_given_apart_stay_apart() -> None:
    parts = {"train": {"annotations": "t.json"}, "val": {"annotations": "v.json", "images": "vi"}, "images": "i"}
    data = generate_config(dataset(), spec(dataset=parts)).data
    assert data.source is None
    assert data.split is None
    assert data.train is not None
    assert data.val is not None
    assert (data.train.images, data.val.images) == ("i", "vi")


def test_the_configuration_is_frozen() -> None:
    config: RunConfig = generate_config(dataset(), spec())
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("teachers", 3),
        ("data", None),
        ("training", {}),
        ("teachers.sam", {}),
        ("teachers.sam.lora", 5),
        ("teachers.*", {}),
        ("teachers.foo", {}),
        ("data.classes", None),
        ("data.split", {"train": -5, "val": 105, "test": 0}),
        ("training.features_gb", None),
        ("training.features_gb", float("inf")),
        ("training.seed", True),
        ("training.workers", 10**9),
        ("teachers.sam.epochs", 1e308),
        ("teachers.sam.epochs", 10**18),
        ("teachers.sam.learning_rate", float("nan")),
        ("teachers.sam.lora.preset", ["all"]),
        ("name", "../elsewhere"),
        ("output", ""),
        ("", 1),
        ("*.*", 1),
    ],
)
def test_a_value_that_no_setting_has_is_refused_in_a_sentence(path: str, value: object) -> None:
    with pytest.raises(ConfigError):
        generate_config(dataset(), with_settings({path: value}))
