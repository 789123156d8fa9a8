"""D-FINE: boxes of a fixed list of classes, and on request their masks.

Logits, boxes and distributions come from transformers; the objective is implemented in
:mod:`engine.students.dfine.criterion`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import DFineForObjectDetection

from engine.dataset.images.preprocessing import ScaledTransform
from engine.errors import ConfigError
from engine.models.model import Batch
from engine.storage.base_model_identity import CONFIG, PREPROCESSOR
from engine.students.detector import Detector
from engine.students.detector_base import image_size_of
from engine.students.dfine.criterion import TERMS, Bins, Queries, denoising_losses, detection_losses
from engine.students.dfine.distributions import bin_offsets
from engine.students.dfine.loading import build, load_base
from engine.students.dfine.settings import DFineSettings
from engine.students.dfine.sizes import IMAGE_SIZES
from engine.students.dfine.traits import DFINE
from engine.students.targets import Targets
from engine.traits import StudentTraits

DEFAULT_SIZE = "nano"
DEFAULT_IMAGE_SIZE = (640, 640)


class DFine(Detector):
    """D-FINE (arXiv:2410.13842) with the classes of one dataset."""

    traits: ClassVar[StudentTraits] = DFINE
    box_terms: ClassVar[tuple[str, ...]] = TERMS
    weight_names: ClassVar[Mapping[str, str]] = {"vfl": "classification"}

    model: Any

    def __init__(
        self, model: Any, *, classes: Sequence[str], settings: DFineSettings, image_size: tuple[int, int]
    ) -> None:
        self.model = model.eval()
        self.classes = tuple(classes)
        self.settings: DFineSettings = settings
        self.image_size = image_size
        _check_image_size(model.config, image_size)
        self.transform = ScaledTransform(*image_size)

    @classmethod
    def load(cls, folder: Path | None, *, classes: Sequence[str], settings: DFineSettings) -> Self:
        """See :meth:`Student.load`."""
        if folder is None:
            size = settings.size or DEFAULT_SIZE
            model, image_size = build(size, classes, settings), IMAGE_SIZES[size]
        else:
            model, image_size = load_base(folder, classes, settings), image_size_of(folder) or DEFAULT_IMAGE_SIZE
        return cls(model, classes=classes, settings=settings, image_size=settings.image_size or image_size)

    def is_trained(self, parameter: str) -> bool:
        """Return False for the two constants of the bins."""
        return not parameter.endswith(("decoder.up", "decoder.reg_scale"))

    def rate_share(self, parameter: str) -> float:
        """See :meth:`Model.rate_share`."""
        return self.settings.backbone_rate if parameter.startswith("model.backbone.") else 1.0

    def files(self) -> dict[str, bytes]:
        """See :meth:`Student.files`."""
        self.model.config.architectures = [DFineForObjectDetection.__name__]  # which leaves masks out
        height, width = self.image_size
        preprocessor = {
            "image_processor_type": "RTDetrImageProcessor",
            "do_resize": True,
            "size": {"height": height, "width": width},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": False,
            "do_pad": False,
        }
        return {
            CONFIG: self.model.config.to_json_string(use_diff=False).encode(),
            PREPROCESSOR: (json.dumps(preprocessor, indent=2) + "\n").encode(),
        }

    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """See :meth:`Model.loss`; parts are the terms of :mod:`engine.students.dfine.criterion`.

        Gradients depend on how a step is divided into micro-batches, since batch normalization uses the statistics of
        each, and the number of denoising queries follows from its largest number of objects.
        """
        targets = [Targets(*one) for one in zip(*(batch[name] for name in self.fields), strict=True)]
        known = [{"class_labels": one.labels, "boxes": one.boxes} for one in targets]
        if self.settings.masks:
            outputs, features = self.model.run(batch["pixel_values"], known)
        else:
            outputs, features = self.model.model(batch["pixel_values"], labels=known), None
        with torch.autocast(self.device.type, enabled=False):
            parts = self._losses(outputs, features, targets, count=count)
        return self._weighted(parts)

    def _losses(
        self, outputs: Any, features: Tensor | None, targets: Sequence[Targets], *, count: float
    ) -> dict[str, Tensor]:
        bins, meta = self._bins(), outputs.denoising_meta_values
        head = None if features is None else MaskedFeatures(self.model.mask_head, features.float())
        proposals = outputs.enc_topk_logits.float(), outputs.enc_topk_bboxes.float()
        if meta is None:
            return detection_losses(_queries(outputs, head=head), proposals, targets, bins=bins, count=count)
        split = meta["dn_num_split"][0]
        matched = _queries(outputs, slice(split, None), head=head)
        own = detection_losses(matched, proposals, targets, bins=bins, count=count)
        groups = meta["dn_num_group"]
        matches = [
            (positive.cpu(), torch.arange(len(one.labels)).repeat(groups))
            for positive, one in zip(meta["dn_positive_idx"], targets, strict=True)
        ]
        noisy = denoising_losses(
            _queries(outputs, slice(0, split), head=head), matches, targets, bins=bins, groups=groups, count=count
        )
        return {term: own[term] + noisy[term] for term in self.terms}

    def _bins(self) -> Bins:
        config = self.model.config
        offsets = bin_offsets(config.max_num_bins, bound=config.up, scale=config.reg_scale)
        return Bins(offsets.to(self.device), float(config.reg_scale))


def _check_image_size(config: Any, image_size: tuple[int, int]) -> None:
    """Check that the feature maps have a position for each query.

    Raises:
        ConfigError: They are too small.
    """
    height, width = image_size
    positions = sum((height // stride) * (width // stride) for stride in config.feat_strides)
    if positions < config.num_queries:
        raise ConfigError(
            f"image_size {height} x {width} has {positions} positions, and D-FINE chooses {config.num_queries} queries "
            "from them: set a larger image_size, or a smaller size of the student"
        )


@dataclass(frozen=True)
class MaskedFeatures:
    """A mask head and the features (B, C, h, w) of a batch."""

    head: Any
    features: Tensor

    def logits(self, hidden: Tensor, layer: int, image: int, queries: Tensor) -> Tensor:
        """Return (K, h, w) of the queries at (K,) indices; ``hidden`` (layers, B, Q, C) are the decoder's outputs."""
        found: Tensor = self.head.logits(hidden[layer, image, queries], self.features[image])
        return found


def _queries(outputs: Any, some: slice = slice(None), *, head: MaskedFeatures | None) -> Queries:
    """Return the predictions of some queries, layer by layer, in 32 bit."""
    edges = outputs.intermediate_predicted_corners[:, :, some].float().transpose(0, 1)
    return Queries(
        logits=outputs.intermediate_logits[:, :, some].float().transpose(0, 1),
        boxes=outputs.intermediate_reference_points[:, :, some].float().transpose(0, 1),
        edges=edges.unflatten(-1, (4, -1)),
        initial=outputs.initial_reference_points[:, 0, some].float(),
        masks=None if head is None else partial(head.logits, outputs.intermediate_hidden_states[:, :, some].float()),
    )
