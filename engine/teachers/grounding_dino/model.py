"""Grounding DINO: boxes from class names.

Logits and boxes come from transformers; prompts, objective and scores are implemented in
:mod:`engine.teachers.grounding_dino.prompts` and :mod:`engine.teachers.grounding_dino.loss`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import GroundingDinoForObjectDetection, PreTrainedModel

from engine.config import LoraSettings
from engine.dataset.images.preprocessing import ShortestEdgeTransform, from_cxcywh_normalized, to_cxcywh_normalized
from engine.dataset.types import Detections, Sample
from engine.models.base import Batch, Example, LoraTargets, Teacher, later_layers, to_device
from engine.models.duplicates import suppress_duplicates
from engine.models.fast.deformable_attention import keep_only_inputs
from engine.models.feature_cache import picture
from engine.models.graphs import Graph
from engine.spec import LoraPreset
from engine.teachers.grounding_dino.batch import collate, collate_pictures, encode
from engine.teachers.grounding_dino.caption_cache import cache_captions
from engine.teachers.grounding_dino.cross_attention import reorder_cross_attention
from engine.teachers.grounding_dino.exact_layers import compute_in_32_bit
from engine.teachers.grounding_dino.features import compute as frozen
from engine.teachers.grounding_dino.features import frozen_layers, recalled
from engine.teachers.grounding_dino.graph import detection_graph
from engine.teachers.grounding_dino.layer_predictions import decoder_layers, proposals, recorded_shifts, stack
from engine.teachers.grounding_dino.loading import load_base
from engine.teachers.grounding_dino.lora_presets import ENCODER_LAYER, PRESETS
from engine.teachers.grounding_dino.loss import Predictions, Targets, detection_losses
from engine.teachers.grounding_dino.prompts import Prompt, PromptBook
from engine.teachers.grounding_dino.settings import GroundingDinoSettings
from engine.teachers.grounding_dino.traits import GROUNDING_DINO
from engine.traits import TeacherTraits


class GroundingDino(Teacher):
    """Grounding DINO with the classes of one dataset.

    Not supported: training with a frozen batch-norm backbone (ResNet).
    """

    traits: ClassVar[TeacherTraits] = GROUNDING_DINO
    library: ClassVar[type[PreTrainedModel]] = GroundingDinoForObjectDetection
    pads: ClassVar[bool] = True
    recomputable: ClassVar[Mapping[str, str]] = {
        "backbone": r"model\.backbone\.conv_encoder\.model\..*encoder\.layers\.\d+\.blocks\.\d+",
        "encoder": r"model\.encoder\.layers\.\d+\.(fusion_layer|deformable_layer)",
        "decoder": r"model\.decoder\.layers\.\d+",
    }

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        classes: Sequence[str],
        prompts: Mapping[str, str],
        settings: GroundingDinoSettings,
        transform: ShortestEdgeTransform,
    ) -> None:
        # PEFT requests the input embeddings, and the library does not find them.
        model.model.get_input_embeddings = model.model.text_backbone.get_input_embeddings
        cache_captions(model)
        reorder_cross_attention(model)
        keep_only_inputs(model)
        compute_in_32_bit(model)
        self.model = model
        self.classes = tuple(classes)
        self.settings = settings
        self.transform = transform
        self.tokenizer = tokenizer
        self.queries: int = model.config.num_queries
        self.book = PromptBook.of(classes, prompts, tokenizer=tokenizer, limit=model.config.max_text_len)

    @classmethod
    def load(
        cls, folder: Path, *, classes: Sequence[str], prompts: Mapping[str, str], settings: GroundingDinoSettings
    ) -> Self:
        """See :meth:`Teacher.load`; the image size is read from ``preprocessor_config.json`` if it exists."""
        model, tokenizer, transform = load_base(folder, cls.library, title=cls.traits.title)
        return cls(
            model,
            tokenizer,
            classes=classes,
            prompts=prompts,
            settings=settings,
            transform=transform,
        )

    def asking(self, classes: Sequence[str], prompts: Mapping[str, str] | None = None) -> Self:
        """See :meth:`Teacher.asking`."""
        other = super().asking(classes)
        other.book = PromptBook.of(classes, prompts or {}, tokenizer=self.tokenizer, limit=self.book.limit)
        return other

    def lora_targets(self, lora: LoraSettings) -> LoraTargets:
        """See :data:`PRESETS`; if layers of the encoder are skipped, all modules before them are skipped too."""
        layers = later_layers(lora.skip_layers, self._detector.config.encoder_layers)
        preset = LoraPreset.ENCODER_DECODER if lora.skip_layers and lora.preset is LoraPreset.ALL else lora.preset
        return LoraTargets(
            target_modules=PRESETS[preset].replace(ENCODER_LAYER, rf"model\.encoder\.layers\.{layers}\.")
        )

    def frozen(self) -> dict[str, str] | None:
        """See :meth:`Teacher.frozen`: the backbone, and the first layers of the encoder with the caption."""
        depth = self._depth()
        if depth is None:
            return None
        caption = self.book.chunks()[0].input_ids if depth else ()
        return {
            "image": repr(self.transform),
            "layers": str(depth),
            "places": str(self.queries),
            "caption": str(caption),
        }

    def _depth(self) -> int | None:
        """Return the number of frozen encoder layers to cache; none if captions differ between images."""
        depth = frozen_layers(self._detector)
        return depth if depth is None or self.book.fits else 0

    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        """Preprocess one image and its objects.

        Returns:
            ``pixel_values`` (3, H, W) float32, or see :func:`engine.models.feature_cache.picture`; ``boxes``
            (N, 4) float32, cxcywh as shares of the image; ``class_indices`` (N,) int64; ``crowd_boxes`` (M, 4) and
            ``crowd_classes`` (M,), the same for crowds, in which detections are not errors; ``order`` (classes,)
            int64, a random order of all classes if they need several captions.
        """
        kept = ~sample.is_crowd
        size = sample.image.shape[:2]
        boxes, crowds = (to_cxcywh_normalized(sample.boxes_xyxy[which], *size) for which in (kept, ~kept))
        example = {
            **picture(self.features, sample.image, self.transform.image),
            "boxes": torch.from_numpy(boxes),
            "class_indices": torch.from_numpy(sample.class_indices[kept]),
            "crowd_boxes": torch.from_numpy(crowds),
            "crowd_classes": torch.from_numpy(sample.class_indices[~kept]),
        }
        if not self.book.fits:
            example["order"] = torch.from_numpy(rng.permutation(len(self.classes)))
        return example

    def collate(self, examples: Sequence[Example]) -> Batch:
        """See :func:`engine.teachers.grounding_dino.batch.collate`."""
        return collate(examples, [self._prompts(example) for example in examples], places=self.queries)

    def count(self, batch: Batch) -> float:
        """Return the number of objects in the batch."""
        return float(sum(len(boxes) for boxes in batch["boxes"]))

    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """See :meth:`Teacher.loss`; parts are ``classification``, ``l1`` and ``giou``, summed over all layers."""
        text_mask = batch["attention_mask"].bool()
        names = ("boxes", "tokens", "crowd_boxes", "crowd_tokens")
        targets = [Targets(*one) for one in zip(*(batch[name] for name in names), strict=True)]
        with recorded_shifts(self._detector) as shifts:
            outputs = self._see(batch, {name: batch[name] for name in ("input_ids", "attention_mask")})
        with torch.autocast(self.device.type, enabled=False):
            layers = decoder_layers(self._detector, outputs, text_mask, shifts)
            losses = detection_losses(
                stack([*layers, *proposals(outputs, text_mask)]),
                targets,
                text_mask=text_mask,
                count=count,
            )
        total = (
            self.settings.classification_weight * losses.classification
            + self.settings.l1_weight * losses.l1
            + self.settings.giou_weight * losses.giou
        )
        parts = {name: getattr(losses, name).detach() for name in ("classification", "l1", "giou")}
        return {"loss": total, **parts}

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detect all classes in original images.

        A query's score for a class is the mean probability of the class's tokens, and the best pairs of query and
        class are kept, as both reference implementations evaluate on COCO (``demo/test_ap_on_coco.py`` of
        IDEA-Research/GroundingDINO; ``convert_grounding_to_cls_scores`` of mmdetection). Minimum, maximum or geometric
        mean instead of the mean give the same AP to a tenth of a point, also if classes share words (``cell``,
        ``cell wall``, ``cells``): the model distinguishes tokens by their phrase. Only images of one size share a
        forward pass, so that the detections in an image do not depend on the batch.
        """
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            groups[self.transform.plan(*sample.image.shape[:2]).padded].append(index)
        found: dict[int, Detections] = {}
        features = self.features if self._depth() else None  # without encoder layers the cache saves little
        for group in groups.values():
            pictures = [picture(features, samples[index].image, self.transform.image) for index in group]
            batch = to_device(collate_pictures(pictures, places=self.queries), self.device)
            batch["images"] = torch.arange(len(group))
            for index, *candidates in zip(group, *self._candidates(batch), strict=True):
                seen = _detections(*candidates, size=samples[index].image.shape[:2])
                found[index] = replace(seen, cut=len(candidates[0]) < self.queries * len(self.classes))
        return [found[index] for index in range(len(samples))]

    def caption_tokens(self) -> int:
        """See :meth:`Teacher.caption_tokens`."""
        return max(len(prompt.input_ids) for prompt in self.book.chunks())

    def graphs(self, shape: tuple[int, int] | None, sizes: Sequence[tuple[int, int]]) -> list[Graph]:
        """See :meth:`Teacher.graphs`: one graph with constant classes, into which all images fit as they are scaled."""
        scaled = [self.transform.plan(*size).resized for size in sizes]
        return [detection_graph(self, shape or (max(h for h, _ in scaled), max(w for _, w in scaled)))]

    def _prompts(self, example: Example) -> tuple[Prompt, ...]:
        if "order" not in example:
            return self.book.chunks()
        return self.book.sample(example["class_indices"].tolist(), example["order"].tolist())

    def _candidates(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, classes (B, K) and boxes (B, K, 4) of the K best pairs of query and class, best first.

        Duplicates have score 0.
        """
        found = [self._candidates_of(batch, prompt) for prompt in self.book.chunks()]
        scores, classes, boxes = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        scores, best = scores.topk(min(self.settings.max_detections, scores.shape[1]))
        best_classes, best_boxes = classes.gather(1, best), boxes.gather(1, best[..., None].expand(-1, -1, 4))
        return suppress_duplicates(scores, best_classes, best_boxes, limit=self.settings.nms)

    def _candidates_of(self, batch: Batch, prompt: Prompt) -> tuple[Tensor, Tensor, Tensor]:
        caption = {
            name: tensor.to(self.device).expand(len(batch["images"]), -1)
            for name, tensor in encode([prompt], len(prompt.input_ids)).items()
        }
        outputs = self._see(batch, caption)
        with torch.autocast(self.device.type, enabled=False):
            *_, last = self._decoder_layers(outputs, caption["attention_mask"].bool())
            tokens = torch.from_numpy(prompt.token_map()).to(self.device, torch.float32)
            scores = last.logits.sigmoid() @ (tokens / tokens.sum(-1, keepdim=True)).T  # (B, Q, classes)
        scores, best = scores.flatten(1).topk(min(self.settings.max_detections, scores[0].numel()))
        query = best // len(tokens)
        classes = torch.tensor(prompt.class_indices, device=self.device)[best % len(tokens)]
        return scores, classes, last.boxes.gather(1, query[..., None].expand(-1, -1, 4))

    def _see(self, batch: Batch, captions: dict[str, Tensor]) -> Any:
        """Run the model on R pairs of an image of the batch and a caption (R, T)."""
        images, depth = batch["images"], self._depth()
        if depth is None or ("pictures" not in batch and not torch.is_grad_enabled()):
            return self.model(
                pixel_values=batch["pixel_values"][images], pixel_mask=batch["pixel_mask"][images], **captions
            )
        one = {name: tensor[:1] for name, tensor in captions.items()}  # with frozen layers, all captions are the same
        compute = partial(frozen, self._detector, caption=one, depth=depth, places=self.queries)
        if self.features is not None:
            known = [to_device(self.features.of(shown, compute), self.device) for shown in batch["pictures"]]
        else:  # each image before padding: gradients do not depend on how a step is divided
            pairs = zip(batch["pixel_values"], batch["sizes"], strict=True)
            with torch.no_grad():
                known = [compute(pixels[None, :, :height, :width]) for pixels, (height, width) in pairs]
        rows = [known[index] for index in images.tolist()]
        with recalled(self._detector, rows, depth=depth) as stand_ins:
            return self.model(**stand_ins, **captions)

    @property
    def _detector(self) -> Any:
        """The library's model, with or without an adapter."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _decoder_layers(self, outputs: Any, text_mask: Tensor) -> Iterator[Predictions]:
        """See :func:`engine.teachers.grounding_dino.layer_predictions.decoder_layers`."""
        return decoder_layers(self._detector, outputs, text_mask)


def _detections(scores: Tensor, classes: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Detections:
    """Convert the candidates of one image to pixels of the original of ``size`` (height, width), without duplicates."""
    kept = scores > 0
    scores, classes, boxes = scores[kept], classes[kept], boxes[kept]
    return Detections(
        boxes_xyxy=from_cxcywh_normalized(boxes.cpu().numpy(), *size),
        scores=scores.cpu().numpy(),
        class_indices=classes.cpu().numpy(),
    )
