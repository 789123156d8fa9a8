"""The training settings of a teacher as names and values for the report."""

from __future__ import annotations

from engine.config import RunConfig, TeacherSettings
from engine.config.students import StudentSettings
from engine.registry import ModelName


def settings_table(config: RunConfig, teacher: ModelName) -> dict[str, str]:
    """Return name and value of each setting to show, in order; all of them are in ``teacher_config.yaml``."""
    settings, training = config.models.of(teacher), config.training
    if settings is None:
        return {}
    lora, augmentation = settings.lora if isinstance(settings, TeacherSettings) else None, config.augmentation
    rows: dict[str, str] = {}
    if lora is not None:
        rows["LoRA"] = f"preset {lora.preset.value}, rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}"
    if isinstance(settings, StudentSettings):
        rows["Start"] = settings.base_model or f"random weights, size {settings.size}"
        rows["Moving average"] = f"decay {settings.ema_decay:g}"
    rows |= {
        "Epochs": f"{settings.epochs}, {_patience(training.patience)}",
        "Batch": f"{settings.batch_size} images per step",
        "Learning rate": f"{settings.learning_rate:g}, {settings.schedule}, "
        f"warm-up {settings.warmup_fraction:.0%}, weight decay {settings.weight_decay:g}",
        "Gradient norm": f"clipped at {settings.clip_norm:g}",
        "Precision": training.precision.value,
        "Augmentation": f"intensity {augmentation.intensity.value if augmentation.intensity else 'by the data'}"
        + (f", {', '.join(one.value for one in augmentation.characteristics)}" if augmentation.characteristics else ""),
        "Seed": str(training.seed),
    }
    if lora is not None and lora.skip_layers:
        rows["Skipped layers"] = str(lora.skip_layers)
    if settings.views:
        rows["Views"] = f"{settings.views} per image, in rotation"
    if config.data.split is not None:
        split = config.data.split
        rows["Split"] = f"train {split.train} %, val {split.val} %, test {split.test} %"
        if split.folds is not None:
            rows["Split"] = f"{split.folds} folds, test {split.test} %"
    return rows


def _patience(patience: int) -> str:
    return f"shortened after {patience} evaluations without a better AP" if patience else "no early stopping"
