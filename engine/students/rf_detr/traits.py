"""Traits of RF-DETR."""

from __future__ import annotations

from engine.registry import register
from engine.students.rf_detr.settings import RfDetrSettings
from engine.traits import PublishedBase, StudentTraits

RF_DETR = register(
    StudentTraits(
        name="RfDetr",
        slug="rf_detr",
        title="RF-DETR",
        summary="boxes of a fixed list of classes, with a DINOv2 backbone",
        annotations="boxes",
        can_learn_masks=True,
        settings=RfDetrSettings,
        model="engine.students.rf_detr.model:RfDetr",
        model_types=("rf_detr",),
        transformers_classes=frozenset({"RfDetrForObjectDetection", "RfDetrForInstanceSegmentation"}),
        sizes={
            "tiny": 800_000,
            "nano": 30_500_000,
            "small": 32_100_000,
            "medium": 33_700_000,
            "large": 33_900_000,
        },
        learning_rates={"tiny": 8e-4},
        licence="Apache-2.0",
        published=(
            PublishedBase("Roboflow/rf-detr-nano", 30_500_000, "Apache-2.0", "nano"),
            PublishedBase("Roboflow/rf-detr-seg-nano", 33_600_000, "Apache-2.0", "nano"),
            PublishedBase("Roboflow/rf-detr-seg-small", 33_700_000, "Apache-2.0", "small"),
            PublishedBase("Roboflow/rf-detr-seg-medium", 35_700_000, "Apache-2.0", "medium"),
            PublishedBase("Roboflow/rf-detr-seg-large", 36_200_000, "Apache-2.0", "large"),
        ),
    )
)
