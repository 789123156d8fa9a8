"""Trials and folds in the report, the model card and the terminal's sentences."""

from __future__ import annotations

from engine.results.trials import cross_validation, trial_sentence
from engine.results.types import TrialResult


def trial(number: int, ap: float | None, **values: object) -> TrialResult:
    fields: dict[str, object] = {"name": f"trial-{number}", "ap_before": 0.1, "ap": ap, "validation_images": 20}
    return TrialResult.model_validate(fields | {"images": 1200, "seconds": 61.4} | values)


def test_a_trial_is_described_with_its_settings_and_its_cost() -> None:
    one = trial(1, 0.25, settings={"learning_rate": 0.001, "lora.rank": 8})
    assert trial_sentence(one) == "trial-1 (learning_rate 0.001, lora.rank 8): AP 0.100 -> 0.250, 1,200 images in 61 s"
    assert trial_sentence(trial(2, None, failure="the loss is nan")) == "trial-2: the loss is nan"


def test_a_cross_validation_has_mean_and_standard_deviation() -> None:
    found = cross_validation([trial(n, ap, best_epoch=n * 2) for n, ap in enumerate((0.2, 0.3, 0.4), 1)])
    assert round(found.ap_mean, 6) == 0.3
    assert round(found.ap_sigma, 6) == 0.1
    assert (round(found.ap_before_mean, 6), round(found.ap_before_sigma, 6)) == (0.1, 0.0)
    assert found.epochs == 4
