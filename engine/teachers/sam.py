"""SAM: masks from boxes and points (arXiv:2304.02643).

Masks and predicted IoUs come from transformers; prompts, objective and the way back to original pixels are ours
(:mod:`engine.teachers.sam_prompts`, :mod:`engine.teachers.sam_loss`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peft import PeftModel
from pycocotools import mask as coco_mask
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, SamModel

from engine.config import SamSettings
from engine.dataset.types import Detections, Rle, Sample
from engine.errors import BaseModelError
from engine.preprocessing import Geometry, SamTransform
from engine.spec import LoraPreset, TeacherName
from engine.teachers.base import Batch, Example, LoraTargets, Teacher, register
from engine.teachers.sam_loss import sam_losses
from engine.teachers.sam_prompts import draw_objects, draw_points, jitter_boxes

_DECODER = r"mask_decoder\.transformer\.(\w+\.)*(q|k|v|out)_proj"
_ENCODER = r"vision_encoder\.layers\.\d+\.attn\.qkv"
_REST = r"vision_encoder\.layers\.\d+\.(attn\.proj|mlp\.lin[12])|mask_decoder\.transformer\.layers\.\d+\.mlp\.lin[12]"
PRESETS = {
    LoraPreset.DECODER: _DECODER,
    LoraPreset.ENCODER_DECODER: rf"{_DECODER}|{_ENCODER}",
    LoraPreset.ALL: rf"{_DECODER}|{_ENCODER}|{_REST}",
}
"""Attention of the mask decoder; with it attention of the image encoder; with these all other transformer layers.

The prompt encoder stays as it is: its one matrix is the positional encoding, which the image's is tied to.
"""

PROMPTS_AT_ONCE = 64
"""Prompts that the decoder answers together: 64 take about 2 GB with 1024 pixel images."""

PIXELS_AT_ONCE = 1 << 26
"""Mask pixels that are scaled up together: 256 MB."""


@register
class Sam(Teacher):
    """SAM with an image encoder of any size.

    The image encoder runs once an image, the decoder once for all boxes and once for all points of a batch, however
    these are spread over the images.

    Not supported: mask prompts, several points for one object.
    """

    name: ClassVar[TeacherName] = TeacherName.SAM
    iou_type: ClassVar[Literal["bbox", "segm"]] = "segm"
    needs_masks: ClassVar[bool] = True

    def __init__(self, model: Any, *, classes: Sequence[str], settings: SamSettings) -> None:
        """Args as for :meth:`load`."""
        self.model = model
        self.classes = tuple(classes)
        self.settings = settings
        vision = model.config.vision_config
        self.transform = SamTransform(vision.image_size)
        self.mask_size = 4 * vision.image_size // vision.patch_size
        """Side of the masks as the decoder gives them."""

    @classmethod
    def load(cls, folder: Path, *, classes: Sequence[str], prompts: Mapping[str, str], settings: SamSettings) -> Self:
        """See :meth:`Teacher.load`. Classes are kept for the detections; SAM knows nothing of them or of phrases."""
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if config.model_type != "sam":
                raise BaseModelError(f"{folder} holds a {config.model_type!r} model, not a 'sam' one")
            model, report = SamModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise BaseModelError(f"{folder} holds no SAM that can be loaded: {error}") from error
        if missing := sorted(report["missing_keys"]):
            raise BaseModelError(f"{folder} lacks {len(missing)} weights of its model, such as {missing[0]}")
        model.requires_grad_(False).eval()
        return cls(model, classes=classes, settings=settings)

    def lora_targets(self, preset: LoraPreset) -> LoraTargets:
        """See :data:`PRESETS`."""
        return LoraTargets(target_modules=PRESETS[preset])

    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        """One image and some of its objects, each with one prompt.

        Targets are shares of the cells of the decoder's mask grid, not yes or no: where an edge crosses a cell, the
        share says how far, so that logits that are scaled up cross zero at the right place, and an object smaller
        than a cell does not vanish.

        Returns:
            In pixels of the model's input: ``pixel_values`` (3, S, S) float32; ``boxes`` (N, 4) and ``points`` (N, 2)
            float32; ``by_point`` (N,) bool, which of the two is the prompt; ``masks`` (N, S / 4, S / 4) float32 in
            0..1 for patches of 16 pixels.
        """
        height, width = sample.image.shape[:2]
        geometry = self.transform.plan(height, width)
        drawn = draw_objects(sample, self.settings.objects_per_image, rng)
        masks = sample.masks[drawn] if sample.masks is not None else np.empty((0, height, width), np.bool_)
        boxes = jitter_boxes(
            sample.boxes_xyxy[drawn], std=self.settings.box_jitter, width=width, height=height, rng=rng
        )
        return {
            "pixel_values": torch.from_numpy(self.transform.image(sample.image)),
            "boxes": torch.from_numpy(geometry.to_model(boxes)),
            "points": torch.from_numpy(geometry.to_model(draw_points(masks, rng))),
            "by_point": torch.from_numpy(rng.random(len(drawn)) < self.settings.point_share),
            "masks": torch.from_numpy(geometry.coverage(masks, self.mask_size)),
        }

    def collate(self, examples: Sequence[Example]) -> Batch:
        """The prompts of B images in one row of P; images without any are left out, as nothing can be learnt there.

        Returns:
            ``pixel_values`` (B, 3, S, S); ``images`` (P,) int64, the image of each prompt; all else as
            :meth:`example`, (P, …).
        """
        prompted = [example for example in examples if len(example["boxes"])]
        counts = torch.tensor([len(example["boxes"]) for example in prompted], dtype=torch.long)
        batch = {
            name: torch.cat([example[name] for example in prompted or examples[:1]])
            for name in ("boxes", "points", "by_point", "masks")
        }
        size = self.transform.image_size
        pixel_values = [example["pixel_values"] for example in prompted]
        batch["pixel_values"] = torch.stack(pixel_values) if prompted else torch.empty(0, 3, size, size)
        batch["images"] = torch.repeat_interleave(torch.arange(len(prompted)), counts)
        return batch

    def count(self, batch: Batch) -> float:
        """The number of prompts."""
        return float(len(batch["images"]))

    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """See :meth:`Teacher.loss` and :func:`sam_losses`.

        A point may mean a part or the whole, so it is answered by three masks of which the best counts; a box is
        answered by one (arXiv:2304.02643, section 3).
        """
        totals = {name: torch.zeros((), device=self.device) for name in ("loss", "focal", "dice", "iou")}
        if not len(batch["images"]):
            # A gradient of zero: the optimizer's step is then the same as that of a batch that pulls nowhere.
            totals["loss"] = totals["loss"] + sum(0 * p.sum() for p in self.model.parameters() if p.requires_grad)
            return totals
        embeddings = self._embed(batch["pixel_values"])
        for multimask, chosen in ((False, ~batch["by_point"]), (True, batch["by_point"])):
            if not chosen.any():
                continue
            prompts = {"points": batch["points"][chosen]} if multimask else {"boxes": batch["boxes"][chosen]}
            logits, ious = self._decode(embeddings[batch["images"][chosen]], **prompts)
            with torch.autocast(self.device.type, enabled=False):
                losses = sam_losses(logits, ious, batch["masks"][chosen], self.settings)
            totals = {name: total + losses[name] / count for name, total in totals.items()}
        return totals

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """One mask for each box of each sample, crowds left out; a box that is answered by no pixel gives none.

        ``scores`` are predicted IoUs, ``prompt_indices`` the objects of the sample whose boxes were the prompts.
        """
        geometries = [self.transform.plan(*sample.image.shape[:2]) for sample in samples]
        prompts = [np.flatnonzero(~sample.is_crowd) for sample in samples]
        boxes = [
            geometry.to_model(sample.boxes_xyxy[indices])
            for geometry, sample, indices in zip(geometries, samples, prompts, strict=True)
        ]
        prompted = [i for i, indices in enumerate(prompts) if len(indices)]
        detections = [_detections(sample, prompts[i][:0], [], np.empty(0)) for i, sample in enumerate(samples)]
        if not prompted:
            return detections
        pixels = np.stack([self.transform.image(samples[i].image) for i in prompted])
        embeddings = self._embed(torch.from_numpy(pixels).to(self.device))
        for i, embedding in zip(prompted, embeddings, strict=True):
            masks, ious = self._segment(embedding, torch.from_numpy(boxes[i]).to(self.device), geometries[i])
            detections[i] = _detections(samples[i], prompts[i], masks, ious)
        return detections

    def _segment(self, embedding: Tensor, boxes: Tensor, geometry: Geometry) -> tuple[list[Rle], NDArray[np.float32]]:
        """Masks of one image in original pixels and their predicted IoUs: (C, h, w) embedding, (P, 4) boxes."""
        masks: list[Rle] = []
        scores: list[Tensor] = []
        for some in torch.split(boxes, PROMPTS_AT_ONCE):
            logits, ious = self._decode(embedding.expand(len(some), -1, -1, -1), boxes=some)
            masks.extend(rle for part in _original_masks(logits.float(), geometry) for rle in _encode(part))
            scores.append(ious[:, 0].float().clamp(0, 1))
        return masks, torch.cat(scores).cpu().numpy()

    def _embed(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, C, S / 16, S / 16)."""
        embeddings: Tensor = self._sam.vision_encoder(pixel_values).last_hidden_state
        return embeddings

    def _decode(
        self, embeddings: Tensor, *, boxes: Tensor | None = None, points: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One mask for each box, three for each point.

        Args:
            embeddings: (P, C, h, w), of the image of each prompt.
            boxes: (P, 4), in pixels of the model's input; or
            points: (P, 2), inside the object.

        Returns:
            (P, M, 4h, 4w) logits and (P, M) predicted IoUs.
        """
        sam = self._sam
        # In 32 bit: 8 bits of a coordinate tell 256 places apart, of 1024.
        with torch.autocast(self.device.type, enabled=False):
            sparse, dense = sam.prompt_encoder(
                input_points=None if points is None else points[:, None, None],
                input_labels=None if points is None else torch.ones(len(points), 1, 1, device=points.device),
                input_boxes=None if boxes is None else boxes[:, None],
                input_masks=None,
            )
            positions = sam.get_image_wide_positional_embeddings()
        logits, ious = sam.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=positions.expand(len(embeddings), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=points is not None,
        )
        return logits[:, 0], ious[:, 0]

    @property
    def _sam(self) -> Any:
        """The SamModel, whose layers PEFT may have replaced."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model


def _original_masks(logits: Tensor, geometry: Geometry) -> Iterator[NDArray[np.uint8]]:
    """(P, 1, h, w) logits to (p, H, W) masks, a few at a time, as ``segment_anything.Sam.postprocess_masks`` has it."""
    height, width = geometry.resized
    at_once = max(1, PIXELS_AT_ONCE // max(geometry.original[0] * geometry.original[1], geometry.padded[0] ** 2))
    for some in torch.split(logits, at_once):
        padded = F.interpolate(some, geometry.padded, mode="bilinear", align_corners=False)
        original = F.interpolate(padded[..., :height, :width], geometry.original, mode="bilinear", align_corners=False)
        yield (original[:, 0] > 0).cpu().numpy().view(np.uint8)


def _encode(masks: NDArray[np.uint8]) -> list[Rle]:
    """Run lengths of (P, H, W) masks."""
    encoded: list[Rle] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return encoded


def _detections(sample: Sample, prompts: NDArray[np.int64], masks: list[Rle], ious: NDArray[np.floating]) -> Detections:
    """Detections by falling score; of equal ones the earlier prompt comes first. Empty masks are left out."""
    areas = coco_mask.area(masks) if masks else np.empty(0)
    order = np.argsort(-ious, kind="stable")
    order = order[areas[order] > 0]
    masks = [masks[i] for i in order]
    boxes = np.asarray(coco_mask.toBbox(masks) if masks else [], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    prompts = prompts[order].astype(np.int64)
    return Detections(
        boxes_xyxy=boxes,
        scores=ious[order].astype(np.float32),
        class_indices=sample.class_indices[prompts],
        masks=masks,
        prompt_indices=prompts,
    )
