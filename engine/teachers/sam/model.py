"""SAM: masks from boxes and points (arXiv:2304.02643).

Masks and predicted IoUs come from transformers; prompts, objective and the conversion to original pixels are
implemented in :mod:`engine.teachers.sam.prompts`, :mod:`engine.teachers.sam.loss` and
:mod:`engine.models.prompted_masks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn

from engine.config import LoraSettings
from engine.dataset.images.preprocessing import Geometry, LongestEdgeTransform, SquareTransform
from engine.dataset.types import CocoAnnotation, Detections, Rle, Sample
from engine.errors import ConfigError
from engine.models.base import Batch, Example, LoraTargets, Teacher, frozen_before, later_layers, to_device
from engine.models.detected_boxes import detected_boxes
from engine.models.feature_cache import picture
from engine.models.graphs import Graph
from engine.models.lora import merged
from engine.models.prompted_masks import encode, original_masks, to_detections
from engine.teachers.sam.batch import collate, collate_pictures
from engine.teachers.sam.checkpoint import convert_original, export_original, loading_code
from engine.teachers.sam.cross_attention import reorder_cross_attention
from engine.teachers.sam.graph import encoder_and_decoder
from engine.teachers.sam.image_encoder import first_stages, last_stages, stages
from engine.teachers.sam.loading import load_base
from engine.teachers.sam.lora_presets import SAM_NAMES, ModuleNames, preset_targets
from engine.teachers.sam.loss import sam_losses
from engine.teachers.sam.prompts import draw_points, jitter_boxes, take_turns, targets_of
from engine.teachers.sam.settings import SamSettings
from engine.teachers.sam.traits import SAM
from engine.traits import TeacherTraits

PROMPTS_AT_ONCE = 64
"""Prompts per decoder pass: 64 take about 2 GB with 1024 pixel images."""


class Sam(Teacher):
    """SAM with an image encoder of any size.

    The image encoder runs once per image, the decoder once for all boxes and once for all points of a batch, for any
    distribution over the images.

    Not supported: prediction from prompts other than boxes.
    """

    traits: ClassVar[TeacherTraits] = SAM
    transform_class: ClassVar[type[LongestEdgeTransform | SquareTransform]] = LongestEdgeTransform
    """Makes the image transform for the side of the model's input in pixels."""
    module_names: ClassVar[ModuleNames] = SAM_NAMES
    recomputable: ClassVar[Mapping[str, str]] = {"encoder": r"vision_encoder\.layers\.\d+", "decoder": "mask_decoder"}

    _load_base = staticmethod(load_base)

    def __init__(self, model: Any, *, classes: Sequence[str], settings: SamSettings) -> None:
        """Take the same arguments as :meth:`load`."""
        reorder_cross_attention(model)
        self.model = model
        self.classes = tuple(classes)
        self.settings = settings
        prompts = model.config.prompt_encoder_config
        image_size: int = model.prompt_encoder.input_image_size
        self.transform = self.transform_class(image_size)
        self.mask_size = 4 * image_size // prompts.patch_size
        """Side of the decoder's masks."""

    @classmethod
    def load(cls, folder: Path, *, classes: Sequence[str], prompts: Mapping[str, str], settings: SamSettings) -> Self:
        """See :meth:`Teacher.load`. Classes are only passed through to detections; SAM does not use them."""
        return cls(cls._load_base(folder), classes=classes, settings=settings)

    @classmethod
    def convert_original(cls, file: Path, folder: Path) -> None:
        """See :meth:`Teacher.convert_original`: a checkpoint of segment_anything."""
        convert_original(file, folder)

    def export_original(self, file: Path, *, path: Path) -> str:
        """See :meth:`Teacher.export_original`: a checkpoint of segment_anything."""
        model = merged(self)
        export_original(model, file)
        return loading_code(model.config, path)

    def lora_targets(self, lora: LoraSettings) -> LoraTargets:
        """See :func:`preset_targets`."""
        layers = later_layers(lora.skip_layers, len(self._encoder_layers()))
        return preset_targets(lora.preset, layers, self.module_names)

    def frozen(self) -> dict[str, str] | None:
        """See :meth:`Teacher.frozen`: the first layers of the image encoder, or all of it."""
        depth = self._depth()
        return {"image": repr(self.transform), "stages": str(depth)} if depth else None

    def _encoder_layers(self) -> Sequence[nn.Module]:
        """Return the transformer layers of the image encoder."""
        layers: Sequence[nn.Module] = self._sam.vision_encoder.layers
        return layers

    def _depth(self) -> int:
        """Return the number of stages of the image encoder (layers, then the neck) before the first adapted one."""
        return frozen_before(stages(self._sam.vision_encoder))

    def select(self, annotations: Sequence[CocoAnnotation], visit: int) -> NDArray[np.int64]:
        """See :func:`take_turns`."""
        return take_turns(annotations, self.settings.objects_per_image, visit)

    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        """Preprocess one image and its objects, each with one prompt: a jittered box, a detected box, or a point.

        Targets are the covered shares of the cells of the decoder's mask grid, not binary: upscaled logits then cross
        zero at the true edge, and an object smaller than a cell does not vanish.

        Returns:
            ``pixel_values`` (3, S, S) float32, or see :func:`engine.models.feature_cache.picture`. In pixels
            of the model's input: ``boxes`` (N, 4) and ``points`` (N, 2) float32; ``by_point`` (N,) bool, True if the
            point is the prompt; ``masks`` (N, S / 4, S / 4) float32 in 0..1 for patches of 16 pixels.
        """
        height, width = sample.image.shape[:2]
        geometry = self.transform.plan(height, width)
        objects = targets_of(sample)
        masks = sample.masks[objects] if sample.masks is not None else np.empty((0, height, width), np.bool_)
        boxes = jitter_boxes(
            sample.boxes_xyxy[objects], std=self.settings.box_jitter, width=width, height=height, rng=rng
        )
        points = draw_points(masks, rng)
        by_point = rng.random(len(objects)) < self.settings.point_share
        detected = detected_boxes(sample, objects)
        by_detector = (rng.random(len(objects)) < self.settings.detector_share) & ~np.isnan(detected).any(axis=1)
        boxes[by_detector] = detected[by_detector]
        return {
            **picture(self.features, sample.image, self.transform.image),
            "boxes": torch.from_numpy(geometry.to_model(boxes)),
            "points": torch.from_numpy(geometry.to_model(points)),
            "by_point": torch.from_numpy(by_point),
            "masks": torch.from_numpy(geometry.coverage(masks, self.mask_size)),
        }

    def collate(self, examples: Sequence[Example]) -> Batch:
        """See :func:`engine.teachers.sam.batch.collate`."""
        return collate(examples)

    def count(self, batch: Batch) -> float:
        """Return the number of prompts."""
        return float(len(batch["images"]))

    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """See :meth:`Teacher.loss` and :func:`sam_losses`.

        A point is ambiguous (part or whole), so SAM predicts three masks, of which the best has a loss; for a box it
        predicts one (arXiv:2304.02643, section 3).
        """
        totals = {name: torch.zeros((), device=self.device) for name in ("loss", "focal", "dice", "iou")}
        if not len(batch["images"]):
            # A zero gradient: the optimizer then takes the same step as for a batch without loss.
            totals["loss"] = totals["loss"] + sum(0 * p.sum() for p in self.model.parameters() if p.requires_grad)
            return totals
        embeddings = self._embed(batch)
        for prompt, chosen in (("boxes", ~batch["by_point"]), ("points", batch["by_point"])):
            if not chosen.any():
                continue
            shown = {prompt: batch[prompt][chosen]}
            logits, ious = self._decode(embeddings[batch["images"][chosen]], several=prompt == "points", **shown)
            with torch.autocast(self.device.type, enabled=False):
                losses = sam_losses(logits, ious, batch["masks"][chosen], self.settings)
            totals = {name: total + losses[name] / count for name, total in totals.items()}
        return totals

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Predict one mask for each box of each sample except crowds; empty masks are left out.

        ``scores`` are predicted IoUs, ``prompt_indices`` the indices of the prompt boxes in the sample.
        """
        geometries = [self.transform.plan(*sample.image.shape[:2]) for sample in samples]
        prompts = [np.flatnonzero(~sample.is_crowd) for sample in samples]
        boxes = [
            geometry.to_model(sample.boxes_xyxy[indices])
            for geometry, sample, indices in zip(geometries, samples, prompts, strict=True)
        ]
        prompted = [i for i, indices in enumerate(prompts) if len(indices)]
        detections = [to_detections(sample, prompts[i][:0], [], np.empty(0)) for i, sample in enumerate(samples)]
        if not prompted:
            return detections
        pictures = [picture(self.features, samples[i].image, self.transform.image) for i in prompted]
        embeddings = self._embed(to_device(collate_pictures(pictures), self.device))
        for i, embedding in zip(prompted, embeddings, strict=True):
            masks, ious = self._segment(embedding, torch.from_numpy(boxes[i]).to(self.device), geometries[i])
            detections[i] = to_detections(samples[i], prompts[i], masks, ious)
        return detections

    def _segment(self, embedding: Tensor, boxes: Tensor, geometry: Geometry) -> tuple[list[Rle], NDArray[np.float32]]:
        """Return masks of one image in original pixels and their IoUs, from a (C, h, w) embedding and (P, 4) boxes."""
        masks: list[Rle] = []
        scores: list[Tensor] = []
        for some in torch.split(boxes, PROMPTS_AT_ONCE):
            logits, ious = self._mask_of_box(embedding.expand(len(some), -1, -1, -1), some)
            masks.extend(rle for part in self._original_masks(logits.float(), geometry) for rle in encode(part))
            scores.append(ious[:, 0].float().clamp(0, 1))
        return masks, torch.cat(scores).cpu().numpy()

    def _mask_of_box(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (P, 1, 4h, 4w) logits and (P, 1) IoUs of the masks of (P, 4) boxes."""
        return self._decode(embeddings, boxes=boxes)

    def traced_mask_of_box(self, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as :meth:`_mask_of_box`, without decisions of Python that depend on values."""
        return self._mask_of_box(embeddings, boxes)

    def graphs(self, shape: tuple[int, int] | None, sizes: Sequence[tuple[int, int]]) -> list[Graph]:
        """See :meth:`Teacher.graphs`: encoder and decoder, of the size of the base."""
        side = self.transform.image_size
        if shape not in (None, (side, side)):
            raise ConfigError(f"{self.traits.title} has inputs of {side} x {side} pixels: leave the image size out")
        return encoder_and_decoder(self)

    def _original_masks(self, logits: Tensor, geometry: Geometry) -> Iterator[NDArray[np.uint8]]:
        """See :func:`original_masks`."""
        return original_masks(logits, geometry)

    def _embed(self, batch: Batch) -> Tensor:
        """Return embeddings (B, C, S / 16, S / 16) of the fields of :func:`collate_pictures`."""
        if "pictures" not in batch:
            return self._encode(batch["pixel_values"])
        assert self.features is not None  # noqa: S101 - it made the pictures
        known = [self.features.of(shown, self._first_stages) for shown in batch["pictures"]]
        return self._last_stages(torch.stack([features["states"].to(self.device, torch.float32) for features in known]))

    def _encode(self, pixel_values: Tensor) -> Tensor:
        """Return embeddings (B, C, S / 16, S / 16) of images (B, 3, S, S)."""
        embeddings: Tensor = self._sam.vision_encoder(pixel_values).last_hidden_state
        return embeddings

    def _first_stages(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return the cached ``states`` of one image (1, 3, S, S), see :func:`first_stages`."""
        return first_stages(self._sam.vision_encoder, self._depth(), pixel_values)

    def _last_stages(self, states: Tensor) -> Tensor:
        """Return embeddings of the cached states (B, …)."""
        return last_stages(self._sam.vision_encoder, self._depth(), states)

    def _decode(
        self,
        embeddings: Tensor,
        *,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        several: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Predict one mask for each prompt, or three.

        Args:
            embeddings: (P, C, h, w), image embedding of each prompt.
            boxes: (P, 4), in pixels of the model's input.
            points: (P, 2), column and row in the same pixels, on the object; instead of boxes.
            several: Predict three masks.

        Returns:
            (P, M, 4h, 4w) logits and (P, M) predicted IoUs.
        """
        sam = self._sam
        # In 32 bit: 8 significant bits distinguish 256 positions of 1024.
        with torch.autocast(self.device.type, enabled=False):
            sparse, dense = sam.prompt_encoder(
                input_points=None if points is None else points[:, None, None],
                input_labels=None if points is None else torch.ones_like(points[:, None, :1], dtype=torch.long),
                input_boxes=None if boxes is None else boxes[:, None],
                input_masks=None,
            )
            positions = sam.get_image_wide_positional_embeddings()
        logits, ious = self._run_decoder(
            embeddings,
            image_positional_embeddings=positions.expand(len(embeddings), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        return logits[:, 0], ious[:, 0]

    def _run_decoder(self, embeddings: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Return logits (P, 1, M, 4h, 4w) and IoUs (P, 1, M) of the mask decoder."""
        logits, ious = self._sam.mask_decoder(image_embeddings=embeddings, **inputs)
        return logits, ious

    @property
    def _sam(self) -> Any:
        """The SamModel, with or without an adapter."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
