"""Grounding DINO and MM-Grounding-DINO: boxes from class names.

Logits and boxes come from transformers; prompts, objective and scores are ours (:mod:`engine.teachers.prompts`,
:mod:`engine.teachers.grounding_dino_loss`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GroundingDinoForObjectDetection,
    MMGroundingDinoForObjectDetection,
)

from engine.config import GroundingDinoSettings
from engine.dataset.types import Detections, Sample
from engine.errors import BaseModelError
from engine.preprocessing import GroundingDinoTransform, from_cxcywh_normalized, to_cxcywh_normalized
from engine.spec import LoraPreset, TeacherName
from engine.teachers.base import Batch, Example, LoraTargets, Teacher, register
from engine.teachers.deformable import reading_again
from engine.teachers.denoising import Copies, decoder_call, denoise, denoising_losses, noise
from engine.teachers.grounding_dino_batch import collate, encode, on_canvas
from engine.teachers.grounding_dino_fusion import words_first
from engine.teachers.grounding_dino_loss import Predictions, Targets, detection_losses
from engine.teachers.prompts import Prompt, PromptBook

MODELS = {"grounding-dino": GroundingDinoForObjectDetection, "mm-grounding-dino": MMGroundingDinoForObjectDetection}

_LINEAR = r"(query|key|value|\w+_proj|sampling_offsets|attention_weights|fc[12])"
_DECODER = rf"model\.decoder\.layers\.\d+\.(\w+\.)*{_LINEAR}"
_ENCODER = rf"model\.encoder\.layers\.\d+\.(\w+\.)*{_LINEAR}|model\.enc_output"
_BACKBONE = rf"model\.backbone\..+\.(attention|mlp)\.{_LINEAR}|model\.text_projection"
PRESETS = {
    LoraPreset.DECODER: _DECODER,
    LoraPreset.ENCODER_DECODER: rf"{_DECODER}|{_ENCODER}",
    LoraPreset.ALL: rf"{_DECODER}|{_ENCODER}|{_BACKBONE}",
}
"""Attention and feed-forward layers. Box heads stay as they are: the decoder's are one tensor under many names, which
LoRA would silently take apart (a merged adapter would no longer be the applied one). BERT stays too."""


@register
class GroundingDino(Teacher):
    """Grounding DINO with the classes of one data set.

    Not supported: training with a frozen batch-norm backbone (ResNet).
    """

    name: ClassVar[TeacherName] = TeacherName.GROUNDING_DINO
    iou_type: ClassVar[Literal["bbox", "segm"]] = "bbox"
    needs_masks: ClassVar[bool] = False
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
        transform: GroundingDinoTransform,
    ) -> None:
        # PEFT asks for them, and the library does not know where they are.
        model.model.get_input_embeddings = model.model.text_backbone.get_input_embeddings
        words_first(model)
        reading_again(model)
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
        """See :meth:`Teacher.load`; ``preprocessor_config.json`` gives the image size if it is there."""
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if config.model_type not in MODELS:
                raise BaseModelError(f"{folder} holds a {config.model_type!r} model, not one of {', '.join(MODELS)}")
            # 0.0 as in mmdetection and Open-GroundingDino; published files carry the library's 0.1.
            config.dropout = 0.0
            model, report = MODELS[config.model_type].from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            transform = _transform(folder)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise BaseModelError(f"{folder} holds no Grounding DINO that can be loaded: {error}") from error
        if missing := sorted(report["missing_keys"]):
            raise BaseModelError(f"{folder} lacks {len(missing)} weights of its model, such as {missing[0]}")
        return cls(
            model.requires_grad_(False).eval(),
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

    def lora_targets(self, preset: LoraPreset) -> LoraTargets:
        """See :data:`PRESETS`."""
        return LoraTargets(target_modules=PRESETS[preset])

    def example(self, sample: Sample, rng: np.random.Generator) -> Example:
        """One image and its objects.

        Returns:
            ``pixel_values`` (3, H, W) float32; ``boxes`` (N, 4) float32, center x, center y, width, height as shares
            of the image; ``class_indices`` (N,) int64; ``order`` (classes,) int64, a random order of all classes if
            one caption does not hold them; ``noise``, see :func:`engine.teachers.denoising.noise`, if it is on.
        """
        kept = ~sample.is_crowd
        boxes = to_cxcywh_normalized(sample.boxes_xyxy[kept], *sample.image.shape[:2])
        example = {
            "pixel_values": torch.from_numpy(self.transform.image(sample.image)),
            "boxes": torch.from_numpy(boxes),
            "class_indices": torch.from_numpy(sample.class_indices[kept]),
        }
        if not self.book.fits:
            example["order"] = torch.from_numpy(rng.permutation(len(self.classes)))
        if self.settings.denoising:
            example["noise"] = torch.from_numpy(noise(boxes, queries=self.settings.denoising, rng=rng))
        return example

    def collate(self, examples: Sequence[Example]) -> Batch:
        """See :func:`engine.teachers.grounding_dino_batch.collate`."""
        return collate(examples, [self._prompts(example) for example in examples], places=self.queries)

    def count(self, batch: Batch) -> float:
        """Objects in the batch."""
        return float(sum(len(boxes) for boxes in batch["boxes"]))

    def loss(self, batch: Batch, *, count: float) -> dict[str, Tensor]:
        """See :meth:`Teacher.loss`; parts are ``classification``, ``l1`` and ``giou``, summed over all layers."""
        text_mask = batch["attention_mask"].bool()
        targets = [Targets(boxes, tokens) for boxes, tokens in zip(batch["boxes"], batch["tokens"], strict=True)]
        given = Copies(**batch["copies"]) if "copies" in batch else None
        decoder = self._detector.model.decoder
        listening: AbstractContextManager[dict[str, Any]] = nullcontext({}) if given is None else decoder_call(decoder)
        with listening as call:
            outputs = self.model(
                pixel_values=batch["pixel_values"][batch["images"]],
                pixel_mask=batch["pixel_mask"][batch["images"]],
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
            )
            mended: Any = None if given is None else denoise(decoder, call, given)
        with torch.autocast(self.device.type, enabled=False):
            losses = detection_losses(
                stack([*self._decoder_layers(outputs, text_mask), *proposals(outputs, text_mask)]),
                targets,
                text_mask=text_mask,
                count=count,
            )
            if given is not None:
                seen = replace(
                    outputs,
                    init_reference_points=given.boxes,
                    intermediate_hidden_states=mended.intermediate_hidden_states,
                    intermediate_reference_points=mended.intermediate_reference_points,
                )
                losses += denoising_losses(
                    stack(self._decoder_layers(seen, text_mask)), given, targets, text_mask=text_mask, count=count
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
        IDEA-Research/GroundingDINO; ``convert_grounding_to_cls_scores`` of mmdetection). The smallest, the largest
        or the geometric mean in its place give the same AP to a tenth of a point, also where classes share words
        (``cell``, ``cell wall``, ``cells``): tokens are told apart by the phrase that they stand in. Only images of one
        size share a forward pass: what is seen in an image does not depend on those beside it.
        """
        groups: dict[tuple[int, ...], list[tuple[int, NDArray[np.float32]]]] = defaultdict(list)
        for index, sample in enumerate(samples):
            pixels = self.transform.image(sample.image)
            groups[pixels.shape].append((index, pixels))
        found: dict[int, Detections] = {}
        for group in groups.values():
            pixel_values = torch.from_numpy(np.stack([pixels for _, pixels in group])).to(self.device)
            for (index, _), *candidates in zip(group, *self._candidates(pixel_values), strict=True):
                found[index] = _detections(*candidates, size=samples[index].image.shape[:2])
        return [found[index] for index in range(len(samples))]

    def _prompts(self, example: Example) -> tuple[Prompt, ...]:
        if "order" not in example:
            return self.book.chunks()
        return self.book.sample(example["class_indices"].tolist(), example["order"].tolist())

    def _candidates(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, classes (B, K) and boxes (B, K, 4) of the K best pairs of query and class, best first."""
        found = [self._candidates_of(pixel_values, prompt) for prompt in self.book.chunks()]
        scores, classes, boxes = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        scores, best = scores.topk(min(self.settings.max_detections, scores.shape[1]))
        return scores, classes.gather(1, best), boxes.gather(1, best[..., None].expand(-1, -1, 4))

    def _candidates_of(self, pixel_values: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor, Tensor]:
        caption = {
            name: tensor.to(self.device).expand(len(pixel_values), -1)
            for name, tensor in encode([prompt], len(prompt.input_ids)).items()
        }
        padded, mask = on_canvas(pixel_values, places=self.queries)
        outputs = self.model(pixel_values=padded, pixel_mask=mask, **caption)
        with torch.autocast(self.device.type, enabled=False):
            *_, last = self._decoder_layers(outputs, caption["attention_mask"].bool())
            tokens = torch.from_numpy(prompt.token_map()).to(self.device, torch.float32)
            scores = last.logits.sigmoid() @ (tokens / tokens.sum(-1, keepdim=True)).T  # (B, Q, classes)
        scores, best = scores.flatten(1).topk(min(self.settings.max_detections, scores[0].numel()))
        query = best // len(tokens)
        classes = torch.tensor(prompt.class_indices, device=self.device)[best % len(tokens)]
        return scores, classes, last.boxes.gather(1, query[..., None].expand(-1, -1, 4))

    @property
    def _detector(self) -> Any:
        """The library's model, whether it has an adapter or not."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _decoder_layers(self, outputs: Any, text_mask: Tensor) -> Iterator[Predictions]:
        """What each decoder layer says, (B, Q, T) and (B, Q, 4): the library's heads, in 32 bit."""
        detector = self._detector
        text = outputs.encoder_last_hidden_state_text.float()
        reference = outputs.init_reference_points
        for layer, hidden in enumerate(outputs.intermediate_hidden_states.float().unbind(1)):
            logits = detector.class_embed[layer](hidden, text, text_mask)[..., : text_mask.shape[1]]
            shift = detector.bbox_embed[layer](hidden)
            yield Predictions(logits, (shift + torch.special.logit(reference.float(), eps=1e-5)).sigmoid())
            reference = outputs.intermediate_reference_points[:, layer]


def proposals(outputs: Any, text_mask: Tensor) -> Iterator[Predictions]:
    """The encoder's proposals that became queries, (B, Q, T) and (B, Q, 4), with gradient.

    The library hands out detached boxes, and logits of the learned queries instead of the proposals'; both are
    computed here from what the encoder said at every place. Nothing is yielded by a model without proposals.
    """
    if outputs.enc_outputs_class is None:
        return
    queries = outputs.init_reference_points.shape[1]
    best = outputs.enc_outputs_class.max(-1).values.topk(queries, dim=1).indices[..., None]
    logits = outputs.enc_outputs_class[..., : text_mask.shape[1]]
    yield Predictions(
        logits.gather(1, best.expand(-1, -1, logits.shape[-1])).float(),
        outputs.enc_outputs_coord_logits.gather(1, best.expand(-1, -1, 4)).float().sigmoid(),
    )


def stack(layers: Iterable[Predictions]) -> Predictions:
    """Predictions of L layers as one, (L, B, Q, T) and (L, B, Q, 4)."""
    logits, boxes = zip(*((layer.logits, layer.boxes) for layer in layers), strict=True)
    return Predictions(torch.stack(logits), torch.stack(boxes))


def _detections(scores: Tensor, classes: Tensor, boxes: Tensor, *, size: tuple[int, int]) -> Detections:
    """One image's candidates in pixels of an original of ``size`` (height, width)."""
    return Detections(
        boxes_xyxy=from_cxcywh_normalized(boxes.cpu().numpy(), *size),
        scores=scores.cpu().numpy(),
        class_indices=classes.cpu().numpy(),
    )


def _transform(folder: Path) -> GroundingDinoTransform:
    file = folder / "preprocessor_config.json"
    size = json.loads(file.read_text()).get("size") if file.is_file() else None
    if not isinstance(size, dict):
        return GroundingDinoTransform()
    return GroundingDinoTransform(
        **{edge: int(size[edge]) for edge in ("shortest_edge", "longest_edge") if edge in size}
    )
