"""Results of several trainings of one teacher: a sweep, or a cross-validation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from engine.config import RunConfig
from engine.results.types import CrossValidation, TeacherResult, TrialResult


def chosen_config(config: RunConfig, result: TeacherResult) -> RunConfig:
    """Return the configuration with the settings of the trial that was chosen, as of a run without a sweep."""
    settings = config.models.of(result.teacher)
    chosen = next((index for index, trial in enumerate(result.trials) if trial.chosen), None)
    if settings is None or chosen is None:
        return config
    return config.with_settings(result.teacher, settings.of_trial(chosen))


def cross_validation(folds: Sequence[TrialResult]) -> CrossValidation:
    """Return mean and standard deviation over the folds, and the epochs of the last training."""
    after, before = [fold.ap or 0.0 for fold in folds], [fold.ap_before for fold in folds]
    return CrossValidation(
        ap_mean=fmean(after),
        ap_sigma=stdev(after),
        ap_before_mean=fmean(before),
        ap_before_sigma=stdev(before),
        epochs=max(1, round(fmean(fold.best_epoch for fold in folds))),
        folds=tuple(folds),
    )


def settings_text(trial: TrialResult) -> str:
    """Return the settings of a trial for people.

    >>> settings_text(TrialResult(name="trial-1", settings={"lora.rank": 8}, ap_before=0, ap=None, validation_images=1))
    'lora.rank 8'
    """
    return ", ".join(f"{path} {value}" for path, value in trial.settings.items())


def trial_sentence(trial: TrialResult) -> str:
    """Return the result of a trial or a fold as a sentence."""
    what = f" ({settings_text(trial)})" if trial.settings else ""
    if trial.ap is None:
        return f"{trial.name}{what}: {trial.failure}"
    seen = f"{trial.images:,} images in {trial.seconds:.0f} s"
    return f"{trial.name}{what}: AP {trial.ap_before:.3f} -> {trial.ap:.3f}, {seen}"


def selection_sentence(result: TeacherResult) -> str:
    """Return how the published adapter was chosen among trials, or what estimates it; empty for a single training."""
    if result.cross_validation is not None:
        one = result.cross_validation
        return (
            f"cross-validated on {len(one.folds)} folds: AP {one.ap_before_mean:.3f} ± {one.ap_before_sigma:.3f} -> "
            f"{one.ap_mean:.3f} ± {one.ap_sigma:.3f}; the published adapter is trained on all of them"
        )
    chosen = next((trial for trial in result.trials if trial.chosen), None)
    if chosen is None:
        return ""
    if result.strength == 0:
        return f"none of {len(result.trials)} trials was better than the base on the validation split"
    return (
        f"{chosen.name} of {len(result.trials)} is published ({settings_text(chosen)}): the best by AP on the "
        "validation split"
    )
