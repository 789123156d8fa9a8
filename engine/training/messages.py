"""Messages and event fields about data, checkpoints and results of a run. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.dataset.checks.problem_catalogue import CATALOGUE
from engine.dataset.checks.problems import EXAMPLES
from engine.dataset.checks.unreadable_images import Unreadable
from engine.evaluation.conclusion import conclude_result
from engine.results.events import better_than
from engine.results.low_retention import retention_warning
from engine.results.metrics import ApMetrics
from engine.results.no_gain import ADVICE, has_no_gain
from engine.results.trials import selection_sentence
from engine.results.types import SplitCheck, TeacherResult
from engine.spec import ExifOrientation
from engine.text.safe_text import shortened
from engine.training.checkpoint import Checkpoint, Progress
from engine.training.data.sampler import Steps
from engine.training.data.teacher_labelled import LeftOut
from engine.training.evaluation import EvaluationReport


def skipped_messages(
    unreadable: Unreadable, objects: int = 0, *, requested: ExifOrientation = ExifOrientation.AUTO
) -> Iterator[str]:
    """Yield messages about skipped images and objects, and about images that EXIF rotates."""
    if objects:
        yield (
            f"{objects:,} objects are skipped: their image is skipped, they are outside it, or their box and mask "
            "contradict each other"
        )
    if unreadable.faults:
        yield shortened(f"{len(unreadable.faults):,} images are skipped: {'; '.join(unreadable.examples)}")
    for code, count, examples in unreadable.frames.problems(requested):
        _, message, advice = CATALOGUE[code]
        yield f"{count:,}x {message} {advice} Such as {', '.join(examples)}"
    if unreadable.pages:
        yield f"{unreadable.pages:,} images have several pages or frames: the first of each is used"


def left_out_messages(left_out: LeftOut | None) -> Iterator[str]:
    """Yield a sentence about images with labels of teachers that are not learned."""
    if left_out is None or not left_out.total:
        return
    reasons = (
        (len(left_out.unusable), "cannot be decoded or have another size than their labels"),
        (left_out.human, "have human labels"),
        (left_out.evaluated, "show pictures of the validation or test split"),
    )
    counted = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
    such = f". Such as {'; '.join(left_out.unusable[:EXAMPLES])}" if left_out.unusable else ""
    yield shortened(
        f"{left_out.total:,} of {left_out.images:,} images with labels of teachers are left out: {counted}{such}"
    )


def shared_image_messages(check: SplitCheck | None) -> Iterator[str]:
    """Return a sentence about images that several splits share."""
    if check is None:
        return
    for split, count in (("val", check.val), ("test", check.test)):
        if count:
            yield f"{count:,} images of {split} are also in another split: AP on them is not reliable"
    if check.versions:
        yield f"{check.versions:,} images are, by their names, versions of images of another split"
    if check.examples:
        yield f"such as {'; '.join(check.examples)}"


def phases(evaluation: EvaluationReport) -> dict[str, ApMetrics]:
    """Return the metrics that are measured only at the end, by the phase name of their event."""
    phases = {} if evaluation.test_after is None else {"test": evaluation.test_after.metrics}
    if evaluation.retention is not None:
        phases |= {"retention_base": evaluation.retention.base, "retention": evaluation.retention.adapted}
    return phases


def checkpoint_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the event fields that a checkpoint contains."""
    progress, base_ap = checkpoint.progress, checkpoint.before["val"].ap
    return {"step": progress.step, "ap_before": base_ap, "best_ap": better_than(base_ap, progress.best_ap)}


def early_stop(progress: Progress, steps: Steps, planned: Steps) -> str:
    """Describe the end of a run without improvement, with the steps that are left of those planned."""
    left = steps.total - progress.step
    ends = f"in {left} more steps, while the learning rate decays" if left else "now"
    evaluations = f"{progress.waited} evaluation{'s' if progress.waited > 1 else ''}"
    return f"no better AP in {evaluations}: training ends {ends}, after {steps.total} of {planned.total} steps"


def summary(result: TeacherResult) -> str:
    """Return the result of training as a sentence."""
    concluded = conclude_result(result)
    sentence = concluded.sentence
    if result.retention is not None and result.retention.share >= 0 and result.strength > 0:
        sentence += f", {result.retention.share:.0%} of the base's zero-shot AP is kept"
    if said := selection_sentence(result):
        sentence += f". {said}"
    if concluded.remark:
        sentence += f". {concluded.remark}"
    if 0 < result.strength < 1 and result.strength_curve is not None:
        sentence += f". Strength {result.strength:g}: {result.strength_curve.reason}"
    if (low := retention_warning(result)) is not None:
        sentence += f". Warning: {low}"
    if has_no_gain(result.improved, as_base=result.strength == 0):
        sentence += f". {ADVICE}"
    return sentence
