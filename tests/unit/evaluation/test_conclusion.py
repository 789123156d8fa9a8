"""What is said of a difference: only what the images allow, and AP of SAM never without its mean IoU."""

from __future__ import annotations

import pytest
from toy import result_of

from engine.evaluation.conclusion import conclude, conclude_result
from engine.results.metrics import ApMetrics, Comparison, Interval
from engine.results.trials import cross_validation
from engine.results.types import TrialResult
from engine.spec import TeacherName


def metrics(ap: float, miou: float | None = None, images: int = 6) -> ApMetrics:
    numbers = dict.fromkeys(
        ("ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium"), 0.5
    )
    return ApMetrics(ap=ap, ar_large=0.5, per_class={}, images=images, miou=miou, **numbers)


def compared(low: float, high: float, miou: tuple[float, float] | None = None) -> Comparison:
    whole = Interval(low=0, high=1)
    return Comparison(
        images=6,
        resamples=400,
        before=whole,
        after=whole,
        difference=Interval(low=low, high=high),
        miou_difference=None if miou is None else Interval(low=miou[0], high=miou[1]),
    )


@pytest.mark.parametrize(
    ("after", "interval", "kind"),
    [
        (0.417, (-0.02, 0.03), "same"),
        (0.51, (-0.02, 0.2), "same"),
        (0.51, (0.04, 0.2), "better"),
        (0.31, (-0.2, -0.04), "worse"),
        (0.412, (0.001, 0.003), "same"),
    ],
)
def test_a_difference_is_one_where_its_interval_leaves_zero(
    after: float, interval: tuple[float, float], kind: str
) -> None:
    found = conclude(metrics(0.41), metrics(after), compared(*interval))
    assert found.kind == kind
    assert ("no measurable change" in found.sentence) == (kind == "same")
    assert "on 6 images" in found.sentence


@pytest.mark.parametrize(("images", "kind"), [(1, "unknown"), (5, "unknown"), (6, "better")])
def test_few_images_show_nothing(images: int, kind: str) -> None:
    found = conclude(metrics(0.2, images=images), metrics(0.4, images=images), compared(0.1, 0.3))
    assert found.kind == kind
    assert "AP 0.200 -> 0.400" in found.sentence
    assert ("too few images" in found.sentence) == (kind == "unknown")


def test_cross_validation_is_not_suggested_after_a_cross_validation() -> None:
    few = {"before": metrics(0.2, images=4), "after": metrics(0.4, images=4)}
    folds = [
        TrialResult(name=f"fold-{one}", ap_before=0.2, ap=0.4, validation_images=2, best_epoch=1) for one in (1, 2)
    ]
    for strength in (0.0, 1.0):
        result = result_of(TeacherName.GROUNDING_DINO, strength=strength, **few)
        assert "cross-validation uses all of them" in conclude_result(result).sentence
        result = result.model_copy(update={"cross_validation": cross_validation(folds)})
        assert "too few images" in conclude_result(result).sentence
        assert "cross-validation" not in conclude_result(result).sentence


def test_what_could_not_be_measured_is_unknown() -> None:
    assert conclude(metrics(-1), metrics(-1), None).kind == "unknown"


def test_the_mean_iou_stands_beside_the_ap_of_masks() -> None:
    found = conclude(metrics(0.95, 0.80), metrics(0.97, 0.85), compared(0.01, 0.03, (0.03, 0.07)))
    assert "mean IoU 0.800 -> 0.850" in found.sentence
    assert not found.remark


@pytest.mark.parametrize(
    ("after", "interval"),
    [((0.97, 0.75), (0.01, 0.03, (-0.08, -0.02))), ((0.96, 0.79), (-0.01, 0.03, (-0.03, 0.01)))],
)
def test_that_ap_and_mean_iou_disagree_is_reported(
    after: tuple[float, float], interval: tuple[float, float, tuple[float, float]]
) -> None:
    found = conclude(metrics(0.95, 0.80), metrics(*after), compared(*interval))
    assert "disagree" in found.remark


def test_a_saturated_ap_hides_no_better_masks() -> None:
    found = conclude(metrics(0.99, 0.80), metrics(0.99, 0.86), compared(-0.01, 0.01, (0.04, 0.08)))
    assert found.kind == "same"
    assert "mean IoU 0.800 -> 0.860" in found.remark
