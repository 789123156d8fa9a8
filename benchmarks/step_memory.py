"""Count the memory and FLOPs of one training step of a teacher of any size, with real or fake tensors.

torch's fake tensors have shapes but no values, so no weights, no GPU and almost no memory are needed. Prompts, captions
and objects are synthetic; their values do not affect the memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"  # it compares values, which fake tensors lack

import torch
from random_teachers import settings_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils.flop_counter import flop_registry
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotObjectDetection, AutoTokenizer

from engine.dataset.images.preprocessing import ShortestEdgeTransform
from engine.models.activation_checkpointing import recompute
from engine.models.base import Batch, Teacher
from engine.models.fast import deformable_attention
from engine.models.lora import attach, set_training, trainable_parameters
from engine.spec import LoraPreset
from engine.teachers.grounding_dino import loss as grounding_dino_loss
from engine.teachers.grounding_dino.model import GroundingDino
from engine.teachers.mm_grounding_dino.model import MMGroundingDino
from engine.teachers.sam.loss import sam_losses
from engine.teachers.sam.model import Sam
from engine.teachers.sam2.model import Sam2
from engine.training.micro_batch import TensorBytes
from engine.training.optimizer import build_optimizer

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "tiny_teachers"
SWIN = {"model_type": "swin", "out_indices": [2, 3, 4]}
SWIN_BASE = SWIN | {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12}
SWIN_LARGE = SWIN_BASE | {"embed_dim": 192, "num_heads": [6, 12, 24, 48]}
SAM_VISION = {
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
}
GLOBAL = {"large": [5, 11, 17, 23], "huge": [7, 15, 23, 31]}
HIERA: Mapping[str, dict[str, Any]] = {
    "tiny": {},
    "small": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "base-plus": {
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20],
    },
    "large": {
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
    },
}


def _sam2(size: str) -> Any:
    widths = HIERA[size].get("embed_dim_per_stage", [96, 192, 384, 768])
    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": widths[0], **HIERA[size]}
    vision = {"backbone_config": backbone, "backbone_channel_list": widths[::-1]}
    return AutoConfig.for_model("sam2", vision_config=vision)


BASES: Mapping[str, Callable[[], Any]] = {
    "grounding-dino-tiny": lambda: AutoConfig.for_model("grounding-dino", backbone_config=SWIN),
    "grounding-dino-base": lambda: AutoConfig.for_model("grounding-dino", backbone_config=SWIN_BASE),
    "mm-grounding-dino-tiny": lambda: _mm_grounding_dino(SWIN),
    "mm-grounding-dino-base": lambda: _mm_grounding_dino(SWIN_BASE),
    "mm-grounding-dino-large": lambda: _mm_grounding_dino(SWIN_LARGE),
    "shipped-grounding-dino": lambda: AutoConfig.from_pretrained(TINY / "grounding_dino"),
    "sam-vit-base": lambda: AutoConfig.for_model("sam"),
    "sam-vit-large": lambda: _sam("large"),
    "sam-vit-huge": lambda: _sam("huge"),
    **{f"sam2.1-hiera-{size}": partial(_sam2, size) for size in HIERA},
    "shipped-sam": lambda: AutoConfig.from_pretrained(TINY / "sam"),
    "shipped-sam2": lambda: AutoConfig.from_pretrained(TINY / "sam2"),
}
"""Configurations of the supported bases, as published."""


def _mm_grounding_dino(backbone: Mapping[str, Any]) -> Any:
    """Return a configuration as published: each decoder layer has heads of its own."""
    heads = {"decoder_bbox_embed_share": False, "decoder_cls_embed_share": False}
    return AutoConfig.for_model("mm-grounding-dino", backbone_config=backbone, **heads)


def _sam(size: str) -> Any:
    return AutoConfig.for_model("sam", vision_config=SAM_VISION[size] | {"global_attn_indexes": GLOBAL[size]})


@dataclass(frozen=True)
class Shape:
    """Shape of one batch.

    Attributes:
        images: Number of images.
        size: Height and width of the padded images; Grounding DINO only.
        tokens: Tokens of the caption; Grounding DINO only.
        objects: Objects per image.
        rank: Rank of the adapter.
    """

    images: int = 1
    size: tuple[int, int] = (800, 1333)
    tokens: int = 20
    objects: int = 25
    rank: int = 16


@dataclass(frozen=True)
class Held:
    """Cost of a step.

    Attributes:
        moments: Peak bytes, including model and optimizer, in four phases: until the encoder has run, until the loss
            is computed, until the backward pass reaches the encoder, and until it ends. Each is a linear function of
            the batch shape; their maximum is not.
        flops: Multiplications and additions of matrix products and convolutions.
        made: Bytes of all created tensors.
        kernels: Number of created tensors.
    """

    moments: tuple[int, ...]
    flops: int
    made: int
    kernels: int


class Counted(TensorBytes):
    """Counts tensor bytes and FLOPs."""

    flops = 0

    def moment(self) -> int:
        """Return the peak bytes since the previous call."""
        peak, self.peak = self.peak, self.live
        return peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if cost := flop_registry.get(func.overloadpacket):
            self.flops += cost(*args, **(kwargs or {}), out_val=out)
        return out


def build(base: str, *, preset: str | None, rank: int = 16, fake: bool = True) -> Teacher:
    """Build a teacher with random weights and a new adapter; with ``preset`` None all parameters are trained."""
    config = BASES[base]()
    kinds = {"sam": Sam, "sam2": Sam2, "mm-grounding-dino": MMGroundingDino, "grounding-dino": GroundingDino}
    kind = kinds[config.model_type]
    settings = settings_of(kind.name, LoraPreset(preset or "decoder"), rank=rank, batch_size=1)
    with torch.device("meta" if fake else "cpu"):
        teacher: Teacher
        if issubclass(kind, Sam):
            model = AutoModel.from_config(config).eval()
            teacher = kind(model, classes=["a"], settings=settings)
        else:
            config.dropout = 0.0
            model = AutoModelForZeroShotObjectDetection.from_config(config).eval()
            tokenizer = AutoTokenizer.from_pretrained(TINY / "grounding_dino")
            transform = ShortestEdgeTransform()
            teacher = kind(model, tokenizer, classes=["a"], prompts={}, settings=settings, transform=transform)
        model.requires_grad_(preset is None)
        if preset is not None:
            attach(teacher, settings.lora)
    return teacher


def step(
    base: str,
    shape: Shape,
    *,
    preset: str | None = "encoder-decoder",
    groups: tuple[str, ...] = (),
    bfloat16: bool = False,
    fake: bool = True,
) -> Held:
    """Count one step with an initialized optimizer state."""
    teacher = build(base, preset=preset, rank=shape.rank, fake=fake)
    with ExitStack() as block:
        if fake:
            block.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            teacher.model.to_empty(device="cpu")
            block.enter_context(patch.object(grounding_dino_loss, "match", _any_match))
            block.enter_context(
                patch.object(deformable_attention, "read", deformable_attention.map_by_map)
            )  # as on a GPU
            block.enter_context(patch.object(FakeTensor, "tolist", _some_tokens))
        recompute(teacher, groups)
        set_training(teacher, True)
        parameters = trainable_parameters(teacher)
        optimizer = build_optimizer(parameters, teacher.settings)  # type: ignore[attr-defined]
        held = block.enter_context(Counted([*teacher.model.parameters(), *teacher.model.buffers()]))
        precision: Any = torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext()
        _fill_state(optimizer, parameters)
        held.moment()
        moments: list[int] = []
        _listen_at_encoder(teacher, lambda: moments.append(held.moment()))
        loss = _loss(teacher, shape, precision)
        moments.append(held.moment())
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        if not fake:  # AdamW reads the number of its steps
            nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
            optimizer.step()
        moments.append(held.moment())
        return Held(tuple(moments), held.flops, held.made, held.count)


def _listen_at_encoder(teacher: Teacher, tell: Callable[[], None]) -> None:
    """Call ``tell`` after the encoder's forward pass, and when the gradient of its output is computed."""

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        tell()
        features = output[0]
        if features.requires_grad:
            features.register_hook(lambda gradient: tell())

    encoder = teacher._sam.vision_encoder if isinstance(teacher, Sam) else teacher._detector.model.encoder  # type: ignore[attr-defined]
    encoder.register_forward_hook(after)


def _fill_state(optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> None:
    """Initialize AdamW's state as after a step with zero gradients."""
    for parameter in parameters.values():
        state = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
        optimizer.state[parameter] = state | {"exp_avg_sq": torch.zeros_like(parameter)}


def _loss(teacher: Teacher, shape: Shape, precision: AbstractContextManager[Any]) -> Tensor:
    if isinstance(teacher, GroundingDino):
        with precision:
            return teacher.loss(_grounding_dino_batch(shape), count=1.0)["loss"]
    assert isinstance(teacher, Sam)
    return _sam_loss(teacher, shape, precision)


def _grounding_dino_batch(shape: Shape) -> Batch:
    images, (height, width), tokens = shape.images, shape.size, shape.tokens
    boxes = torch.full((shape.objects, 4), 0.5)
    with unset_fake_temporarily():  # the model reads the values of image indices and token ids
        of_pairs, ids = torch.arange(images), torch.full((images, tokens), 1000)
    return {
        "pixel_values": torch.rand(images, 3, height, width),
        "pixel_mask": torch.ones(images, height, width, dtype=torch.long),
        "sizes": [shape.size] * shape.images,
        "images": of_pairs,
        "input_ids": ids,
        "attention_mask": torch.ones(images, tokens, dtype=torch.long),
        "boxes": [boxes] * images,
        "tokens": [torch.ones(shape.objects, tokens, dtype=torch.bool)] * images,
        "crowd_boxes": [None] * images,
        "crowd_tokens": [None] * images,
    }


def _sam_loss(teacher: Sam, shape: Shape, precision: AbstractContextManager[Any]) -> Tensor:
    """Compute the loss as :meth:`Sam.loss`, which cannot be used because it sorts prompts by their values."""
    side, cells = teacher.transform.image_size, teacher.mask_size
    pixels = torch.rand(shape.images, 3, side, side)
    points = shape.images * round(shape.objects * teacher.settings.point_share)
    total = torch.zeros(())
    with precision:
        embeddings = teacher._embed({"pixel_values": pixels})
        for by_point, count in ((False, shape.images * shape.objects - points), (True, points)):
            if not count:
                continue
            prompts = {"points": torch.rand(count, 2)} if by_point else {"boxes": torch.rand(count, 4)}
            masks = torch.rand(count, cells, cells)
            image = torch.arange(count) % shape.images
            logits, ious = teacher._decode(embeddings[image], several=by_point, **prompts)
            with torch.autocast("cpu", enabled=False):
                total = total + sam_losses(logits, ious, masks, teacher.settings)["loss"]
            del logits, ious
    return total


def _some_tokens(ids: Tensor) -> list[list[int]]:
    """Return a caption (1, T), whose values the model reads."""
    return [[1000] * ids.shape[1]]


def _any_match(predictions: Any, targets: Any, *, text_mask: Tensor) -> Any:
    """Match each object with an arbitrary query: the choice does not affect memory, and fake costs have no values."""
    return [(torch.arange(len(target.boxes)), torch.arange(len(target.boxes))) for target in targets]


@contextmanager
def resident() -> Iterator[Callable[[], int]]:
    """Measure the additional peak memory of this process inside the block, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")

    def read(name: str) -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    at_first = read("VmRSS")
    yield lambda: read("VmHWM") - at_first
