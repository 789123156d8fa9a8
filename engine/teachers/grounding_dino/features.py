"""Run the layers of a Grounding DINO before the first adapted one per image, and insert the results into a batch.

The features are the feature maps that enter the encoder, or, if its first layers are frozen too, image and text states
after the last frozen layer. Images of a batch are padded after that, not before: features do not depend on the batch
(the library normalizes a map together with its padding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.base import frozen_before
from engine.models.feature_cache import Features
from engine.teachers.grounding_dino.batch import on_canvas


def frozen_layers(detector: Any) -> int | None:
    """Return the number of encoder layers before the first adapted one.

    None if nothing can be cached: the backbone is adapted, or does not have one level fewer than the encoder, as in
    the published models.
    """
    model = detector.model
    before = (model.backbone, model.input_proj_vision, model.text_backbone, model.text_projection)
    if frozen_before(before) < len(before):
        return None
    if len(model.backbone.conv_encoder.intermediate_channel_sizes) + 1 != model.config.num_feature_levels:
        return None
    return frozen_before(model.encoder.layers)


def compute(detector: Any, pixel_values: Tensor, caption: dict[str, Tensor], *, depth: int, places: int) -> Features:
    """Compute the features of one image.

    Args:
        detector: The library's model.
        pixel_values: (1, 3, h, w).
        caption: ``input_ids`` and ``attention_mask`` (1, T); used if ``depth`` is not 0.
        depth: Number of frozen encoder layers.
        places: See :func:`engine.teachers.grounding_dino.batch.canvas`.

    Returns:
        ``mask0`` … (h, w) bool of each level, True on the image; for depth 0 ``map0`` … (d, h, w) of each level, else
        ``vision`` (P, d), over all levels, and ``text`` (T, d).
    """
    pixels, mask = on_canvas(pixel_values, places=places)
    if not depth:
        seen_by = list(detector.model.backbone.conv_encoder.model(pixels, return_dict=True).feature_maps)
        seen_by.append(seen_by[-1])  # the last level is made of the one before
        maps = [project(level)[0] for project, level in zip(detector.model.input_proj_vision, seen_by, strict=True)]
        return {**_numbered("map", maps), **_masks(mask, [tuple(level.shape[-2:]) for level in maps])}
    seen: dict[str, Any] = {}

    def stop(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        (seen["vision"], seen["text"]), _ = output
        seen["shapes"] = kwargs["spatial_shapes_list"]
        raise _EnoughSeenError

    hook = detector.model.encoder.layers[depth - 1].register_forward_hook(stop, with_kwargs=True)
    try:
        detector(pixel_values=pixels, pixel_mask=mask, **caption)
    except _EnoughSeenError:
        pass
    finally:
        hook.remove()
    return {"vision": seen["vision"][0], "text": seen["text"][0], **_masks(mask, seen["shapes"])}


@contextmanager
def recalled(detector: Any, rows: Sequence[Features], *, depth: int) -> Iterator[dict[str, Tensor]]:
    """Inside the block the frozen layers return the features ``rows``, one entry per image of the batch.

    Yields:
        ``pixel_values`` and ``pixel_mask`` to call the model with: placeholders of the size of the last level.
    """
    model = detector.model
    dtype = model.level_embed.dtype
    rows = [{k: t.to(dtype) if t.is_floating_point() else t for k, t in row.items()} for row in rows]
    levels = sum(name.startswith("mask") for name in rows[0])
    masks = [_stacked([row[f"mask{level}"] for row in rows]) for level in range(levels)]
    nothing = torch.zeros(1, device=model.level_embed.device, dtype=dtype)

    def blank(level: int, channels: int) -> Tensor:
        return nothing.expand(len(rows), channels, *masks[level].shape[-2:])

    with ExitStack() as stack:
        if depth:
            maps = [blank(level, model.config.d_model) for level in range(levels)]
            vision = torch.stack([_on_levels(row, masks) for row in rows])
            text = torch.stack([row["text"] for row in rows])
            state = ((vision, text), (None,) * 4)
            for layer in model.encoder.layers[:depth]:
                _replace(stack, layer, lambda **_: state)
        else:
            maps = [_stacked([row[f"map{level}"] for row in rows]) for level in range(levels)]
        for projection, projected in zip(model.input_proj_vision, maps, strict=True):
            _replace(stack, projection, lambda _, projected=projected: projected)
        seen = list(zip(maps[:-1], masks[:-1], strict=True))
        places = [model.backbone.position_embedding(level, mask).to(dtype) for level, mask in seen]
        _replace(stack, model.backbone, lambda *_: (seen, list(places)))
        yield {"pixel_values": blank(levels - 1, 3), "pixel_mask": masks[-1].long()}


class _EnoughSeenError(Exception):
    """Ends a forward pass early."""


def _masks(pixel_mask: Tensor, shapes: Sequence[tuple[int, ...]]) -> Features:
    masks = [functional.interpolate(pixel_mask[None].float(), size=shape)[0, 0].bool() for shape in shapes]
    return _numbered("mask", masks)


def _numbered(name: str, tensors: Sequence[Tensor]) -> Features:
    return {f"{name}{number}": tensor for number, tensor in enumerate(tensors)}


def _stacked(maps: Sequence[Tensor]) -> Tensor:
    """Stack maps (…, h, w) of several sizes, padded with 0 at the right and below."""
    height, width = (max(m.shape[axis] for m in maps) for axis in (-2, -1))
    return torch.stack([functional.pad(m, (0, width - m.shape[-1], 0, height - m.shape[-2])) for m in maps])


def _on_levels(row: Features, masks: Sequence[Tensor]) -> Tensor:
    """Return ``vision`` (P, d) of an image, with each level padded to its size in the batch."""
    shapes = [row[f"mask{level}"].shape for level in range(len(masks))]
    levels = torch.split(row["vision"], [height * width for height, width in shapes])
    padded = []
    for level, (height, width), mask in zip(levels, shapes, masks, strict=True):
        below, right = mask.shape[-2] - height, mask.shape[-1] - width
        padded.append(functional.pad(level.view(height, width, -1), (0, 0, 0, right, 0, below)).flatten(0, 1))
    return torch.cat(padded)


def _replace(stack: ExitStack, module: Any, forward: Callable[..., Any]) -> None:
    """Replace the forward pass of ``module`` until the stack unwinds."""
    before = vars(module).get("forward")
    module.forward = forward
    stack.callback(lambda: vars(module).pop("forward") if before is None else setattr(module, "forward", before))
