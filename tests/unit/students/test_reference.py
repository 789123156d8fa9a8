"""A student next to its teacher: which objects each finds, and classes in another order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_run import save_run
from toy import metrics, result_of

from engine.config import DistillConfig
from engine.config.model import LabelsConfig
from engine.dataset.types import CocoAnnotation, CocoDataset, CocoImage, Detections, Frame, Sample
from engine.errors import StorageError
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.ground_truth import GroundTruth
from engine.evaluation.report_sections import beside_teacher, found_by_rows
from engine.evaluation.report_verdict import verdict
from engine.evaluation.thresholds import operating_point
from engine.registry import StudentName, TeacherName
from engine.results.reference import FoundBy, Reference
from engine.storage import Storage
from engine.training.distributed import ALONE
from engine.training.reference import Renamed, evaluate_reference, found_by

CLASSES = ("red", "green")


def detections(*objects: tuple[float, int], scores: Sequence[float] | None = None) -> Detections:
    """Squares of 20 pixels by their left side and class, the first with the highest score."""
    boxes = np.asarray([[left, 0, left + 20, 20] for left, _ in objects], np.float32).reshape(-1, 4)
    confidence = np.linspace(0.9, 0.8, len(objects)) if scores is None else np.asarray(scores)
    classes = np.asarray([index for _, index in objects], np.int64)
    return Detections(boxes_xyxy=boxes, scores=confidence.astype(np.float32), class_indices=classes)


def truth_of(*objects: tuple[float, int]) -> GroundTruth:
    found = tuple(
        CocoAnnotation(number, index, (left, 0.0, left + 20, 20.0), 400.0, False)
        for number, (left, index) in enumerate(objects)
    )
    image = CocoImage(id=1, file_name="1.png", width=200, height=40)
    return GroundTruth.of(CocoDataset((image,), (found,), CLASSES, (1, 2)), "bbox")


def test_objects_are_counted_by_who_finds_them() -> None:
    objects = [(0.0, 0), (30.0, 0), (60.0, 1), (90.0, 1)]
    truth = truth_of(*objects)
    teacher, student = [detections(*objects[:3])], [detections(objects[0], objects[3])]
    points = [operating_point(truth, one) for one in (teacher, student)]
    found = found_by(*points, Evaluation(metrics(0.5), student, truth))
    assert (found.both, found.teacher_only, found.student_only, found.neither) == (1, 2, 1, 0)
    assert found.missed_by_class == {"red": 1, "green": 1}
    wrong = operating_point(truth, [detections(*((left, 1 - index) for left, index in objects))])
    found = found_by(points[0], wrong, Evaluation(metrics(0.5), student, truth))
    assert (found.teacher_only, found.both) == (3, 0), "an object with another class is not found"


def test_classes_in_another_order_are_renamed_and_unknown_ones_left_out() -> None:
    class Seen:
        classes, frame, iou_type = ("blue", "green", "red"), Frame.UPRIGHT, "bbox"

        def predict(self, samples: Sequence[Sample]) -> list[Detections]:
            return [detections((0, 2), (30, 0), (60, 1)) for _ in samples]

    (found,) = Renamed(Seen(), CLASSES).predict([Sample.of(np.zeros((8, 8, 3), np.uint8))])  # type: ignore[arg-type]
    assert found.class_indices.tolist() == [0, 1]
    assert found.boxes_xyxy[:, 0].tolist() == [0, 60]


REFERENCE = Reference(
    teacher=TeacherName.GROUNDING_DINO,
    uri="run/teachers/grounding_dino_lora",
    val=metrics(0.8),
    found_by=FoundBy(both=5, teacher_only=3, student_only=1, neither=1),
)


def test_a_student_below_its_teacher_is_no_worse_model() -> None:
    student = result_of(StudentName.DFINE, reference=REFERENCE)  # type: ignore[arg-type]
    judged = verdict(student)
    assert "AP 0.50, 62% of that of its teacher Grounding DINO (0.80)" in judged.sentence
    assert judged.kind == "same"
    assert (judged.row.before, judged.row.after) == (0.8, 0.5)
    assert not any("Use the base model" in remark for remark in judged.remarks)
    seen = student.model_copy(update={"reference": REFERENCE.model_copy(update={"trained_on": 4})})
    assert any("trained on 4 of the measured images" in remark for remark in verdict(seen).remarks)


def test_the_report_has_the_teacher_in_the_place_of_the_untrained_student() -> None:
    student = result_of(StudentName.DFINE, reference=REFERENCE)  # type: ignore[arg-type]
    assert beside_teacher(student, REFERENCE).before == REFERENCE.val
    assert [row[:2] for row in found_by_rows(REFERENCE)] == [
        ("both", 5),
        ("the teacher only", 3),
        ("the student only", 1),
        ("neither", 1),
    ]
    assert found_by_rows(None) == []


def refuse(*args: Any, **options: Any) -> Any:
    raise StorageError("s3://models/teacher: access denied")


def test_a_teacher_that_cannot_be_loaded_does_not_keep_the_student_from_being_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(tmp_path / "run", (TeacherName.GROUNDING_DINO,))
    card = run / "teachers" / "grounding_dino_lora" / "teacher.json"
    notes: list[str] = []
    context: Any = SimpleNamespace(
        config=DistillConfig.model_construct(labels=LabelsConfig.model_construct(teacher=str(run))),
        name=StudentName.DFINE,
        processes=ALONE,
        storage=Storage(),
        cache=tmp_path / "cache",
        note=notes.append,
    )
    evaluator: Any = SimpleNamespace(teacher=SimpleNamespace(device="cpu"))
    lists = card.with_name("splits.json")
    lists.write_text("damaged")
    assert evaluate_reference(context, evaluator, splits=None) is None  # type: ignore[arg-type]
    lists.unlink()
    for content in ("{}", None):
        card.unlink() if content is None else card.write_text(content)
        assert evaluate_reference(context, evaluator, splits=None) is None  # type: ignore[arg-type]
    monkeypatch.setattr("engine.training.reference.find_adapters", refuse)
    assert evaluate_reference(context, evaluator, splits=None) is None  # type: ignore[arg-type]
    assert all(note.startswith("the student is not compared with its teacher: ") for note in notes)
    assert len(notes) == 4
    assert "not what a run writes" in notes[0]
    assert notes[-1].endswith("access denied")
