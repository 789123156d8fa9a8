from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.dataset.types import ClassInfo, DatasetInfo, ImagesInfo, Problem, Severity, SizeInfo
from engine.errors import DataError, LossNotFiniteError, StorageError
from engine.results.events import Event
from engine.results.metric_table import Change
from engine.results.outcome import CUTS, IN_LOG, LIMIT, Outcome, Prepared, TeacherOutcome, parse_outcome, write_outcome
from engine.results.types import AdapterFile
from engine.spec import TeacherName
from engine.storage import NotFoundError
from engine.text.safe_text import plain


def info_of(classes: int = 3, *, source: str = "s3://b/a.json") -> DatasetInfo:
    return DatasetInfo(
        source=source,
        digest="f" * 64,
        splits={"train": 10**6, "val": 10**5, "test": 10**5},
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
        metrics={"ap": Change(before=0.25, after=0.5)},
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
def test_what_has_room_is_reported_whole(outcome: Outcome) -> None:
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


def test_what_cannot_be_reported_is_a_failure_that_says_so() -> None:
    text = Outcome(prepared=prepared_of(info_of(), root="ü" * 2000)).to_message()
    assert len(text.encode()) <= LIMIT
    told = parse_outcome(text)
    assert told is not None
    assert (told.exit_code, told.reason) == (40, "ConfigurationInvalid")
    assert "shorter URIs" in told.message


@pytest.mark.parametrize("character", ["a", "ü", '"', "\x01", "😀"])
@pytest.mark.parametrize("limit", [LIMIT, 500])
def test_a_message_of_any_text_fits(character: str, limit: int) -> None:
    text = Outcome.failure(DataError("The beginning. " + 10_000 * character)).to_message(limit)
    assert len(text.encode()) <= limit
    told = parse_outcome(text)
    assert told is not None
    assert told.message.startswith("The beginning. " + plain(character))
    assert told.message.endswith(IN_LOG)
    assert told.exit_code == 41


@pytest.mark.parametrize(
    ("error", "exit_code", "reason", "message"),
    [
        (DataError("no objects"), 41, "DataInvalid", "no objects"),
        (LossNotFiniteError("at step 3"), 45, "LossNotFinite", "at step 3"),
        (NotFoundError("x is not there"), 43, "StorageUnavailable", "x is not there"),
        (KeyError("x"), 1, "Unexpected", "KeyError: 'x'"),
        (DataError("bad name \udcff"), 41, "DataInvalid", "bad name ?"),
    ],
)
def test_a_failure_says_what_kind_it_is(error: Exception, exit_code: int, reason: str, message: str) -> None:
    outcome = Outcome.failure(error)
    assert (outcome.exit_code, outcome.reason, outcome.message) == (exit_code, reason, message)
    assert parse_outcome(outcome.to_message()) == outcome


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Killed",
        "{}",
        "[1]",
        '{"exit_code": 41}',
        '{"exit_code": 0, "prepared": {"uri": 3}, "trained": null}',
        Event(event="error", time=1.0, message="x", reason="DataInvalid", exit_code=41).line(),
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


def crowded(classes: int, problems: int = 12, *, name: str = "class {}", message: str = "m" * 160) -> DatasetInfo:
    """What inspection finds in a dataset of many classes and problems, the worst last."""
    return info_of().model_copy(
        update={
            "classes": tuple(
                ClassInfo(id=n, name=name.format(n), annotations=10 * n + 1, images=n + 1) for n in range(classes)
            ),
            "problems": tuple(
                Problem(
                    code=f"kind_{n}",
                    severity=list(Severity)[2 - n * 3 // problems],
                    count=n + 1,
                    message=f"{n}: {message}",
                    advice=f"Advice {n}.",
                    examples=("file " * 40,) * 5,
                )
                for n in range(problems)
            ),
        }
    )


def told_of(info: DatasetInfo, **place: str) -> Prepared:
    text = Outcome(prepared=prepared_of(info, **place)).to_message()
    assert len(text.encode()) <= LIMIT
    told = parse_outcome(text)
    assert told is not None
    assert told.prepared is not None
    return told.prepared


@pytest.mark.parametrize("classes", [1, 80, 150, 2000])
@pytest.mark.parametrize("name", ["class {}", "Schraube größer als {} mm", "螺栓 {}", "x" * 900 + "{}"])
def test_problems_keep_their_messages_however_many_classes_there_are(classes: int, name: str) -> None:
    info = crowded(classes, name=name)
    told = told_of(info).info
    assert [one.code for one in told.problems[:2]] == ["kind_11", "kind_10"]
    assert {one.code for one in told.problems} == {one.code for one in info.problems}
    assert all(len(one.message) >= 60 for one in told.problems)
    assert told.problems_left_out == 0
    assert len(told.classes) + told.classes_left_out == classes
    assert [one.id for one in told.classes] == list(range(classes))[classes - len(told.classes) :], "the most frequent"
    assert told.model_dump(include={"images", "annotations", "digest"}) == info.model_dump(
        include={"images", "annotations", "digest"}
    )


@pytest.mark.parametrize("classes", [150, 2000])
def test_classes_take_what_room_is_left(classes: int) -> None:
    text = Outcome(prepared=prepared_of(crowded(classes, 2))).to_message()
    assert LIMIT - 80 < len(text.encode()) <= LIMIT
    info = told_of(crowded(classes, 2)).info
    assert [one.message for one in info.problems] == ["1: " + "m" * 160, "0: " + "m" * 160]
    assert [one.advice for one in info.problems] == ["Advice 1.", "Advice 0."]
    assert len(info.classes) >= 30


@pytest.mark.parametrize("message", ["m" * 2000, "ü" * 2000, "😀" * 2000, '"' * 2000, "\x01" * 2000])
def test_of_forty_problems_the_worst_keep_their_messages(message: str) -> None:
    info = told_of(crowded(2000, 40, message=message)).info
    assert [one.code for one in info.problems] == [f"kind_{n}" for n in range(39, 39 - len(info.problems), -1)]
    assert len(info.problems) + info.problems_left_out == 40
    assert len(info.problems) >= (12 if len(message.encode()) <= 4000 and message[0] != "\x01" else 6)
    assert all(len(one.message) == 60 for one in info.problems)
    assert len(info.classes) + info.classes_left_out == 2000


def test_what_does_not_fit_is_dropped_from_the_end() -> None:
    info = crowded(3, 400)
    told = told_of(info, root="s3://m/" + "x" * 900).info
    assert told.problems[0].code == "kind_399"
    assert 0 < len(told.problems) < 400
    assert len(told.problems) + told.problems_left_out == 400
    assert len(told.classes) + told.classes_left_out == 3


def cut(text: str, containers: int) -> str:
    """As a kubelet and an API server leave it of a pod with so many containers."""
    return text.encode()[: min(4096, 12288 // containers)].decode(errors="replace")


@pytest.mark.parametrize("containers", [1, 3, 4, 5, 6])
@pytest.mark.parametrize("name", ["class {}", "größer {}", "螺栓 {}"])
@pytest.mark.parametrize("problems", [1, 12, 40])
def test_of_a_message_that_a_kubelet_cuts_the_beginning_is_read(containers: int, name: str, problems: int) -> None:
    """Injected sidecars take part in the 12 KiB of a pod."""
    info = crowded(2000, problems, name=name, message="größer als 螺栓 " * 20)
    whole = Outcome(prepared=prepared_of(info).model_copy(update={"problem_count": problems, "class_count": 2000}))
    told = parse_outcome(cut(whole.to_message(), containers))
    assert told is not None
    assert told.prepared is not None
    assert (told.prepared.run_id, told.prepared.config_uri) == ("1", "s3://m/x/1/teacher_config.yaml")
    assert told.prepared.teachers == tuple(TeacherName)
    seen = told.prepared.info
    assert (seen.images, seen.annotations, seen.has_masks) == (1_200_000, 10**7, True)
    assert len(seen.problems) + seen.problems_left_out == problems
    assert len(seen.classes) + seen.classes_left_out == 2000
    assert seen.problems


@pytest.mark.parametrize("containers", [4, 6, 12, 20])
@pytest.mark.parametrize("character", ["a", "ü", '"', "\x01", "😀"])
def test_of_a_failure_that_a_kubelet_cuts_the_cause_is_read(containers: int, character: str) -> None:
    text = Outcome.failure(DataError("The beginning. " + 10_000 * character)).to_message()
    told = parse_outcome(cut(text, containers))
    assert told is not None
    assert (told.exit_code, told.reason) == (41, "DataInvalid")
    assert told.message.startswith("The beginning. ")
    assert told.message.endswith(IN_LOG)


@pytest.mark.parametrize("size", CUTS[:8])
def test_other_text_that_is_as_long_is_no_outcome(size: int) -> None:
    for text in (
        "x" * size,
        "[" * size,
        '{"a": "' + "x" * (size - 7),
        '{"exit_code": 0, "message": "' + "x" * (size - 29),
    ):
        assert len(text) == size
        assert parse_outcome(text) is None
