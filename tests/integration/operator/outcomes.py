"""What inspection and trainers leave in their termination messages, made with the engine's own classes."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dataset.types import ClassInfo, DatasetInfo, Problem, Severity, SizeInfo
from engine.errors import EXIT_ERRORS
from engine.results.events import Event
from engine.results.metric_table import Change
from engine.results.outcome import Outcome, Prepared, TeacherOutcome
from engine.results.types import AdapterFile
from engine.spec import TeacherName

BOTH = (TeacherName.GROUNDING_DINO, TeacherName.SAM)
BOXES, MASKS = BOTH[:1], BOTH[1:]
RUN_ID = "0123456789abcdef"


def folder(name: str) -> str:
    return f"s3://models/{name}/{RUN_ID}"


def prepared(
    name: str,
    teachers: Sequence[TeacherName] = BOXES,
    *,
    published: Sequence[TeacherName] = (),
    more_classes: int = 0,
    more_problems: int = 0,
) -> str:
    """Inspection is done; there may be more than one class and problem, with long names and texts."""
    masks = TeacherName.SAM in teachers
    info = DatasetInfo(
        source=f"s3://data/{name}/annotations.json",
        digest="d" * 64,
        splits={"all": 100},
        images=100,
        annotations=420,
        annotations_read=423,
        has_boxes=True,
        has_masks=masks,
        boxes_derived=0,
        masks=420 if masks else 0,
        crowd_share=0.0,
        classes=(
            ClassInfo(id=1, name="bolt", annotations=400, images=90),
            ClassInfo(id=2, name="nut", annotations=20, images=10),
            *(
                ClassInfo(id=n + 3, name=f"Schraube größer als {n} mm, 螺栓", annotations=1, images=1)
                for n in range(more_classes)
            ),
        ),
        sizes=SizeInfo(small=20, medium=300, large=100, relative_side=(0.05, 0.1, 0.3), elongation=1.2),
        image_sizes=None,
        problems=(
            Problem(
                code="missing_image",
                severity=Severity.WARNING,
                count=3,
                message="3 images are not there.",
                advice="Copy them.",
            ),
            *(
                Problem(code=f"kind_{n}", severity=Severity.INFO, count=n + 1, message="m" * 900, advice="ü" * 900)
                for n in range(more_problems)
            ),
        ),
    )
    root = folder(name)
    done = Prepared(
        info=info,
        run_id=RUN_ID,
        uri=root,
        config_uri=f"{root}/teacher_config.yaml",
        teachers=tuple(teachers),
        published=tuple(_result(name, teacher) for teacher in published),
        problem_count=len(info.problems),
        class_count=len(info.classes),
    )
    return Outcome(prepared=done).to_message()


def trained(name: str, teacher: TeacherName) -> str:
    """A trainer is done."""
    return Outcome(trained=_result(name, teacher)).to_message()


def failure(code: int, message: str) -> str:
    """A process ended with one of the engine's errors, or with one that nobody foresaw."""
    return Outcome.failure(EXIT_ERRORS[code](message) if code in EXIT_ERRORS else RuntimeError(message)).to_message()


def adapter_uri(name: str, teacher: TeacherName) -> str:
    return f"{folder(name)}/teachers/{teacher.slug}_lora/adapter_model.safetensors"


def step(done: int, of: int = 100, *, loss: float = 0.5, ap_before: float = 0.25, best_ap: float | None = None) -> str:
    """A progress line of a trainer."""
    return Event(
        event="step",
        step=done,
        steps=of,
        epoch=done / 10,
        epochs=of // 10,
        loss=loss,
        seconds_left=float(of - done),
        memory_bytes=10**9,
        ap_before=ap_before,
        best_ap=best_ap,
    ).line()


def _result(name: str, teacher: TeacherName) -> TeacherOutcome:
    return TeacherOutcome(
        teacher=teacher,
        base_model="IDEA-Research/grounding-dino-tiny"
        if teacher is TeacherName.GROUNDING_DINO
        else "facebook/sam-vit-base",
        metrics={"ap": Change(before=0.25, after=0.5)},
        adapter=AdapterFile(uri=adapter_uri(name, teacher), sha256="a" * 64, size_bytes=5_000_000),
        epochs=12,
        seconds=3600.5,
        peak_memory_bytes=8 * 10**9,
    )
