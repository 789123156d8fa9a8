"""Fused linear layer with LoRA update.

PEFT computes ``x W' + s (x A') B'`` term by term: three more passes over an output that may have a million rows, and as
many over its gradient. Here it is one product with ``W + s B A`` (in 16 bit, where a small update of a large weight
would be lost, the second product accumulates the update into the output). Only ``x`` is kept for the backward pass, and
no gradient of the size of ``W`` is formed. The result is the same up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from engine.models.fast import replace_forward


def fuse_lora_linears(model: nn.Module) -> None:
    """Fuse every adapted linear layer of a PEFT model, in place.

    Layers with dropout before ``A`` are fused only outside training: dropout differs from row to row.
    """
    replace_forward(model, _forward, where=lambda module: isinstance(module, LoraLinear))


def _is_applied(layer: nn.Module) -> bool:
    """Return whether a layer has an active update that is not merged into its weight."""
    return isinstance(layer, LoraLinear) and not layer.disable_adapters and not layer.merged


def can_be_folded(layer: nn.Module) -> bool:
    """Return whether the update may be added to the weight: not with active dropout before it."""
    if not isinstance(layer, LoraLinear) or not _is_applied(layer):
        return True
    (name,) = layer.active_adapters
    dropout = layer.lora_dropout[name]
    return not (dropout.training and getattr(dropout, "p", 0.0) > 0)


def folded_weight(layer: Any) -> Tensor:
    """Return (out, in): ``W + s B A`` of an adapted layer or ``W`` of another, with gradient for ``A`` and ``B``."""
    if not _is_applied(layer):
        weight: Tensor = getattr(layer, "base_layer", layer).weight
        return weight
    a, b, scale = _update(layer)
    with torch.autocast(a.device.type, enabled=False):
        return torch.addmm(layer.base_layer.weight, b, a, alpha=scale)


def _update(layer: LoraLinear) -> tuple[Tensor, Tensor, float]:
    (name,) = layer.active_adapters
    return layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]


def _forward(layer: LoraLinear, separate: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if not _is_applied(layer) or not can_be_folded(layer):
        result: Tensor = separate(x, *args, **kwargs)
        return result
    base = layer.base_layer
    y: Tensor = _InOnePass.apply(x, base.weight, base.bias, *_update(layer))
    return y


class _InOnePass(torch.autograd.Function):
    """Inputs x (…, in), W (out, in), bias (out,) or None, A (r, in), B (out, r), s; result (…, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        ctx.scale, ctx.kind = scale, x.dtype
        x = x.to(dtype)
        ctx.save_for_backward(x, weight, a, b)
        with torch.autocast(kind, enabled=False):
            bias = None if bias is None else bias.to(dtype)
            if dtype == torch.float32:
                return functional.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)
            y = functional.linear(x, weight.to(dtype), bias).flatten(0, -2)
            y.addmm_(functional.linear(x, a.to(dtype)).flatten(0, -2), b.to(dtype).T, alpha=scale)
            return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        rows, gradient = x.flatten(0, -2), gradients[0].flatten(0, -2)
        a16, b16 = a.to(x.dtype), b.to(x.dtype)
        through = gradient @ b16  # (rows, r)
        of_x = None
        if ctx.needs_input_grad[0]:
            if x.dtype == torch.float32:
                of_x = gradient @ torch.addmm(weight, b, a, alpha=ctx.scale)
            else:
                of_x = (gradient @ weight.to(x.dtype)).addmm_(through, a16, alpha=ctx.scale)
            of_x = of_x.view_as(x).to(ctx.kind)
        of_a = (through.T @ rows).to(a.dtype) * ctx.scale
        of_b = (gradient.T @ functional.linear(rows, a16)).to(b.dtype) * ctx.scale
        return of_x, None, None, of_a, of_b, None
