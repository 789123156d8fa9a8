"""SAM 2: masks from boxes and points in images (arXiv:2408.00714), without its memory of video frames.

Prompts, objective, batches and detections are those of :mod:`engine.teachers.sam`. SAM 2 differs in the image encoder
(Hiera, whose finer feature maps the mask decoder reads too), in images that are scaled to a square, and in the choice
of the mask of a box. The score of "is there an object", for video, is neither used nor trained: every prompt has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.dataset.images.preprocessing import Geometry, LongestEdgeTransform, SquareTransform
from engine.models.prompted_masks import original_masks
from engine.teachers.sam.lora_presets import ModuleNames
from engine.teachers.sam.model import Sam
from engine.teachers.sam.settings import SamSettings
from engine.teachers.sam2.image_encoder import encode, is_frozen, unpacked
from engine.teachers.sam2.loading import load_base
from engine.teachers.sam2.traits import SAM2
from engine.traits import TeacherTraits


class Sam2(Sam):
    """SAM 2 with an image encoder of any size.

    Not supported: video, prediction from prompts other than boxes, and checkpoints of the ``sam2`` package.
    """

    traits: ClassVar[TeacherTraits] = SAM2
    transform_class: ClassVar[type[LongestEdgeTransform | SquareTransform]] = SquareTransform
    module_names: ClassVar[ModuleNames] = ModuleNames(
        layers=r"vision_encoder\.backbone\.blocks",
        other_encoder_layers=r"attn\.proj|mlp\.proj_(in|out)|proj",
        out="o",
        decoder_mlp=r"(proj_in|layers\.\d+|proj_out)",
        neck=r"convs\.\d+",
        trained_neck=r"mask_decoder\.conv_s[01]",  # they map what the neck returns
    )
    recomputable: ClassVar[Mapping[str, str]] = {
        "encoder": r"vision_encoder\.backbone\.blocks\.\d+",
        "decoder": "mask_decoder",
    }

    _load_base = staticmethod(load_base)

    def __init__(self, model: Any, *, classes: Sequence[str], settings: SamSettings) -> None:
        """Take the same arguments as :meth:`load`."""
        super().__init__(model, classes=classes, settings=settings)
        # The library applies it only to a decoder in eval mode, in which the frozen base also is in training.
        model.mask_decoder.dynamic_multimask_via_stability = False

    def frozen(self) -> dict[str, str] | None:
        """See :meth:`Teacher.frozen`: the whole image encoder, since its maps of all stages are read later."""
        return {"image": repr(self.transform)} if is_frozen(self._sam) else None

    def _encoder_layers(self) -> Sequence[nn.Module]:
        layers: Sequence[nn.Module] = self._sam.vision_encoder.backbone.blocks
        return layers

    def _encode(self, pixel_values: Tensor) -> Tensor:
        """Return packed embeddings (B, 4C, S / 16, S / 16), see :func:`encode`."""
        return encode(self._sam, pixel_values)

    def _first_stages(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"states": self._encode(pixel_values)[0]}

    def _last_stages(self, states: Tensor) -> Tensor:
        return states

    def _run_decoder(self, embeddings: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        coarse, *fine = unpacked(embeddings)
        logits, ious, _, _ = self._sam.mask_decoder(image_embeddings=coarse, high_resolution_features=fine, **inputs)
        return logits, ious

    def _mask_of_box(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Predict one mask for each box; where it is unstable, the best of three, as published.

        A mask is stable if logits around zero decide over few of its pixels.
        """
        logits, ious = super()._mask_of_box(embeddings, boxes)
        decoder = self._sam.config.mask_decoder_config
        if not decoder.dynamic_multimask_via_stability:
            return logits, ious
        unstable = _stability(logits[:, 0], decoder.dynamic_multimask_stability_delta) < (
            decoder.dynamic_multimask_stability_thresh
        )
        if unstable.any():
            three, quality = self._decode(embeddings[unstable], boxes=boxes[unstable], several=True)
            best = torch.arange(len(three), device=three.device), quality.argmax(dim=1)
            logits[unstable, 0], ious[unstable, 0] = three[best], quality[best]
        return logits, ious

    def traced_mask_of_box(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Sam.traced_mask_of_box`: all masks are computed, as the library does in any case."""
        logits, ious = super()._mask_of_box(embeddings, boxes)
        decoder = self._sam.config.mask_decoder_config
        if not decoder.dynamic_multimask_via_stability:
            return logits, ious
        stability = _stability(logits[:, 0], decoder.dynamic_multimask_stability_delta)
        stable = (stability >= decoder.dynamic_multimask_stability_thresh)[:, None]
        three, quality = self._decode(embeddings, boxes=boxes, several=True)
        best = quality.argmax(dim=1, keepdim=True)
        masks = three.gather(1, best[..., None, None].expand(-1, -1, *three.shape[2:]))
        return torch.where(stable[..., None, None], logits, masks), torch.where(stable, ious, quality.gather(1, best))

    def _original_masks(self, logits: Tensor, geometry: Geometry) -> Iterator[NDArray[np.uint8]]:
        return original_masks(logits, geometry, padded=False)


def _stability(logits: Tensor, delta: float) -> Tensor:
    """Return the ratio (P,) of the areas of (P, h, w) masks cut at ``delta`` and at ``-delta``; 1 for empty ones."""
    low, high = ((logits > limit).sum(dim=(-2, -1)) for limit in (-delta, delta))
    return torch.where(low > 0, high / low, 1.0)
