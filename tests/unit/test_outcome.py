from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.dataset.types import ClassInfo, DatasetInfo, ImagesInfo, Problem, Severity, SizeInfo
from engine.errors import ConfigError, DataError, NotFiniteError, StorageError, TeacherError
from engine.outcome import LIMIT, Outcome, Prepared, TeacherOutcome, parse_outcome, write_outcome
from engine.progress import Event
from engine.results import AdapterFile
from engine.spec import TeacherName
from engine.storage import NotFoundError
from engine.text import plain


def info_of(classes: int = 3, *, source: str = "s3://b/a.json") -> DatasetInfo:
    return DatasetInfo(
        source=source,
        digest="f" * 64,
        parts={"train": 10**6, "val": 10**5, "test": 10**5},
        images=1_200_000,
        annotations=10**7,
        annotations_read=10**7,
        has_boxes=True,
        has_masks=True,
        boxes_derived=10**6,
        masks=10**7,
        crowd_share=0.123,
        classes=tuple(ClassInfo(id=i, name=f"class {i}", annotations=i + 1, images=i + 1) for i in range(classes)),
        sizes=SizeInfo(small=10**6, medium=10**6, large=10**6, relative_side=(0.1111, 0.2222, 0.3333), elongation=1.25),
        image_sizes=ImagesInfo(
            median_size=(4000, 3000),
            largest_size=(4000, 3000),
            without_annotations=10**5,
            objects_mean=8.33,
            objects_max=1000,
        ),
        problems=(
            Problem(
                code="missing_image",
                severity=Severity.WARNING,
                count=3,
                message="Three images are not there.",
                advice="Copy them.",
                examples=("a" * 200, "b" * 200),
            ),
        ),
    )


def teacher_of(name: TeacherName = TeacherName.SAM, *, uri: str = "s3://m/x/1/teachers/sam_lora/a") -> TeacherOutcome:
    return TeacherOutcome(
        teacher=name,
        base_model="facebook/sam-vit-base",
        ap_before=0.25,
        ap_after=0.5,
        adapter=AdapterFile(uri=uri, sha256="a" * 64, size_bytes=5_000_000),
        epochs=12,
        seconds=3600.5,
        peak_memory_bytes=40 * 10**9,
    )


def prepared_of(info: DatasetInfo, *, root: str = "s3://m/x/1", published: tuple[TeacherOutcome, ...] = ()) -> Prepared:
    return Prepared(
        info=info,
        run_id="1",
        uri=root,
        config_uri=f"{root}/teacher_config.yaml",
        teachers=tuple(TeacherName),
        published=published,
    )


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(),
        Outcome(prepared=prepared_of(info_of())),
        Outcome(prepared=prepared_of(info_of(), published=(teacher_of(), teacher_of(TeacherName.GROUNDING_DINO)))),
        Outcome(trained=teacher_of()),
        Outcome.failure(DataError("the data is wrong")),
    ],
)
def test_what_has_room_is_told_whole(outcome: Outcome) -> None:
    assert parse_outcome(outcome.to_message()) == outcome


def test_details_of_the_data_make_room_for_what_is_needed() -> None:
    published = (teacher_of(), teacher_of(TeacherName.GROUNDING_DINO))
    whole = Outcome(prepared=prepared_of(info_of(1000), published=published))
    text = whole.to_message()
    assert LIMIT - 400 < len(text.encode()) <= LIMIT
    told = parse_outcome(text)
    assert told is not None
    assert told.prepared is not None
    assert told.prepared.published == published
    assert told.prepared.info.classes
    assert len(told.prepared.info.classes) + told.prepared.info.classes_left_out == 1000
    assert told.prepared.info.digest == "f" * 64


def test_long_places_cost_what_was_published_before_they_cost_the_run() -> None:
    root = "s3://m/" + "x" * 1100
    published = (teacher_of(uri=f"{root}/a"), teacher_of(uri=f"{root}/b"))
    text = Outcome(prepared=prepared_of(info_of(100, source="s" * 1024), root=root, published=published)).to_message()
    assert len(text.encode()) <= LIMIT
    told = parse_outcome(text)
    assert told is not None
    assert told.prepared is not None
    assert (told.prepared.uri, told.prepared.published) == (root, ())


def test_what_cannot_be_told_is_a_failure_that_says_so() -> None:
    text = Outcome(prepared=prepared_of(info_of(), root="ü" * 2000)).to_message()
    assert len(text.encode()) <= LIMIT
    told = parse_outcome(text)
    assert told is not None
    assert (told.exit_code, told.reason) == (40, "Config")
    assert "shorter URIs" in told.message


@pytest.mark.parametrize("character", ["a", "ü", '"', "\x01", "😀"])
@pytest.mark.parametrize("limit", [LIMIT, 500])
def test_a_message_of_any_text_fits(character: str, limit: int) -> None:
    text = Outcome.failure(DataError("The beginning. " + 10_000 * character)).to_message(limit)
    assert len(text.encode()) <= limit
    told = parse_outcome(text)
    assert told is not None
    assert told.message.startswith("The beginning. " + plain(character))
    assert told.message.endswith("…")
    assert told.exit_code == 41


@pytest.mark.parametrize(
    ("error", "exit_code", "reason", "message"),
    [
        (DataError("no objects"), 41, "Data", "no objects"),
        (NotFiniteError("at step 3"), 45, "NotFinite", "at step 3"),
        (NotFoundError("x is not there"), 43, "NotFound", "x is not there"),
        (KeyError("x"), 1, "Unexpected", "KeyError: 'x'"),
        (DataError("bad name \udcff"), 41, "Data", "bad name ?"),
    ],
)
def test_a_failure_says_what_kind_it_is(error: Exception, exit_code: int, reason: str, message: str) -> None:
    outcome = Outcome.failure(error)
    assert (outcome.exit_code, outcome.reason, outcome.message) == (exit_code, reason, message)
    assert parse_outcome(outcome.to_message()) == outcome


@pytest.mark.parametrize(("former", "error"), [(2, ConfigError), (3, DataError), (7, NotFiniteError)])
def test_the_outcome_of_a_trainer_of_an_earlier_version_has_the_exit_code_of_today(
    former: int, error: type[TeacherError]
) -> None:
    told = parse_outcome(Outcome(exit_code=former, reason="X", message="x").to_message())
    assert told is not None
    assert told.exit_code == error.exit_code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "{}",
        "[1]",
        '{"exit_code": 41}',
        '{"exit_code": 0, "prepared": {"uri": 3}, "trained": null}',
        Event(event="error", time=1.0, message="x", reason="Data", exit_code=41).line(),
        Event(event="step", time=1.0, step=1).line() + "\n" + Event(event="step", time=1.0, step=2).line(),
        Outcome().to_message()[:-1],
    ],
)
def test_anything_else_is_no_outcome(text: str) -> None:
    assert parse_outcome(text) is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    outcome = Outcome(prepared=prepared_of(info_of()), trained=teacher_of())
    values = json.loads(outcome.to_message())
    for part in (values, values["prepared"], values["prepared"]["info"], values["trained"]["adapter"]):
        part["later"] = {"than": "this"}
    assert parse_outcome(json.dumps(values) + "\n") == outcome


def test_an_outcome_is_written_over_the_file_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "outcome"
    file.write_text("x" * 10_000)
    inode = file.stat().st_ino
    write_outcome(file, Outcome(trained=teacher_of()))
    assert parse_outcome(file.read_text()) == Outcome(trained=teacher_of())
    assert file.stat().st_ino == inode
    with pytest.raises(StorageError, match=r"the outcome cannot be written to .*Is a directory"):
        write_outcome(tmp_path, Outcome())
