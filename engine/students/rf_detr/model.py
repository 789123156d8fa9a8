"""RF-DETR: boxes of a fixed list of classes, and on request their masks.

Logits, boxes and masks come from transformers; the objective is implemented in
:mod:`engine.students.rf_detr.criterion`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from engine.dataset.images.preprocessing import MEAN, STD, ScaledTransform
from engine.errors import ConfigError
from engine.models.graphs import Graph
from engine.models.model import Batch
from engine.storage.base_model_identity import CONFIG, PREPROCESSOR
from engine.students.detector import Detector
from engine.students.detector_base import image_size_of
from engine.students.rf_detr.criterion import TERMS, Masks, detection_losses
from engine.students.rf_detr.layer_masks import LayerMasks
from engine.students.rf_detr.loading import build, load_base
from engine.students.rf_detr.settings import RfDetrSettings
from engine.students.rf_detr.sizes import sizes_of
from engine.students.rf_detr.traits import RF_DETR
from engine.students.targets import Targets
from engine.traits import StudentTraits

DEFAULT_SIZE = "nano"


class RfDetr(Detector):
    """RF-DETR (arXiv:2511.09554) with the classes of one dataset."""

    traits: ClassVar[StudentTraits] = RF_DETR
    box_terms: ClassVar[tuple[str, ...]] = TERMS
    weight_names: ClassVar[Mapping[str, str]] = {"ce": "classification"}

    def __init__(
        self, model: Any, *, classes: Sequence[str], settings: RfDetrSettings, image_size: tuple[int, int]
    ) -> None:
        self.model = model.eval()
        self.classes = tuple(classes)
        self.settings: RfDetrSettings = settings
        self.image_size = image_size
        _check_image_size(model.config, image_size)
        self.transform = ScaledTransform(*image_size, normalizes=True)

    @classmethod
    def load(cls, folder: Path | None, *, classes: Sequence[str], settings: RfDetrSettings) -> Self:
        """See :meth:`Student.load`."""
        if folder is None:
            size = settings.size or DEFAULT_SIZE
            model = build(size, classes, masks=bool(settings.masks))
            side = sizes_of(masks=bool(settings.masks))[size].side
            image_size = side, side
        else:
            model = load_base(folder, classes, masks=bool(settings.masks))
            side = model.config.backbone_config.image_size
            image_size = image_size_of(folder) or (side, side)
        return cls(model, classes=classes, settings=settings, image_size=settings.image_size or image_size)

    def rate_share(self, parameter: str) -> float:
        """See :meth:`Model.rate_share`."""
        return self.settings.backbone_rate if "model.backbone.backbone." in parameter else 1.0

    def files(self) -> dict[str, bytes]:
        """See :meth:`Student.files`."""
        self.model.config.architectures = [type(self.model).__name__]
        height, width = self.image_size
        preprocessor = {
            "image_processor_type": "RfDetrImageProcessor",
            "do_resize": True,
            "size": {"height": height, "width": width},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [round(float(one), 3) for one in MEAN],
            "image_std": [round(float(one), 3) for one in STD],
            "do_pad": False,
        }
        return {
            CONFIG: self.model.config.to_json_string(use_diff=False).encode(),
            PREPROCESSOR: (json.dumps(preprocessor, indent=2) + "\n").encode(),
        }

    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """See :meth:`Model.loss`; parts are the terms of :mod:`engine.students.rf_detr.criterion`."""
        targets = [Targets(*one) for one in zip(*(batch[name] for name in self.fields), strict=True)]
        detector, pixels = self._detector(self.model), batch["pixel_values"]
        outputs = detector.model(pixels)
        logits, boxes = detector.predict_class_and_boxes(
            outputs.intermediate_hidden_states, outputs.intermediate_reference_points
        )
        proposed = detector.predict_encoder_class_logits(outputs.enc_outputs_class)
        masks = None
        if self.settings.masks:
            weights = self.settings.mask_bce_weight, self.settings.mask_dice_weight
            masks = Masks(LayerMasks.of(self.model, outputs, pixels.shape[-2:]), weights)
        with torch.autocast(self.device.type, enabled=False):
            parts = detection_losses(
                torch.cat([proposed[None], logits]).float(),
                torch.cat([outputs.enc_outputs_coord_logits[None], boxes]).float(),
                targets,
                groups=logits.shape[2] // self.model.config.num_queries,
                count=count,
                masks=masks,
            )
        return self._weighted(parts)

    def _detector(self, model: Any) -> Any:
        """Return the ``RfDetrForObjectDetection`` of a model, which with masks is a part of it."""
        return model.model if self.settings.masks else model

    def graphs(self, shape: tuple[int, int] | None, sizes: Sequence[tuple[int, int]]) -> list[Graph]:
        """See :meth:`Model.graphs`.

        Embeddings of positions become a constant: ONNX has no antialiased bicubic interpolation.
        """
        graphs = super().graphs(shape, sizes)
        network: Any = graphs[0].module
        embeddings = self._detector(network.detector).model.backbone.backbone.embeddings
        height, width = self.image_size
        patches = torch.zeros(1, (height // embeddings.patch_size) * (width // embeddings.patch_size) + 1, 1)
        with torch.no_grad():
            size = embeddings.position_embeddings.shape[-1]
            fixed = embeddings.interpolate_pos_encoding(patches.expand(-1, -1, size), height, width).clone()
        embeddings.interpolate_pos_encoding = lambda *arguments: fixed
        return graphs


def _check_image_size(config: Any, image_size: tuple[int, int]) -> None:
    """Check that windows divide the image, and that it has a position for each query.

    Raises:
        ConfigError: They do not, or it has fewer.
    """
    height, width = image_size
    cell = config.backbone_config.patch_size
    step = cell * config.backbone_config.num_windows
    if height % step or width % step:
        raise ConfigError(f"image_size {height} x {width}: RF-DETR takes multiples of {step} pixels here")
    positions = (height // cell) * (width // cell)
    if positions < config.num_queries:
        raise ConfigError(
            f"image_size {height} x {width} has {positions} positions, and RF-DETR chooses {config.num_queries} "
            "queries from them: set a larger image_size, or a smaller size of the student"
        )
