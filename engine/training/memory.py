"""What a step holds in memory, counted where tensors are made: the same on every device, and without one."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside its block, the bytes of all tensors that live at once.

    Storages are counted when an operation returns them, and until nothing refers to them any more, as
    ``torch.cuda.max_memory_allocated`` counts them, but for what an operation holds by itself alone and for rounding.
    No value is changed. It works for the fake tensors of ``torch._subclasses`` too, of which no value is computed.

    Args:
        held: Tensors that were there before, such as the model's parameters.

    Attributes:
        live: Bytes now.
        peak: The most so far.
        made: Bytes of all that were made inside the block, whether they live or not.
        count: How many these were, which are about as many as kernels ran.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.made = self.count = 0
        self._known: dict[int, int] = {}
        self._count(held)
        self.made = self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        out = func(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        self._count(tensor for tensor in tensors if tensor.layout is torch.strided)  # of others, the parts are
        return out

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known[key] = storage.nbytes()
                self.live += storage.nbytes()
                self.made += storage.nbytes()
                self.count += 1
                weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int) -> None:
        self.live -= self._known.pop(key)


class StepMemory:
    """The most that the tensors of a step have held: of every step on a GPU, of the first alone on a CPU.

    Args:
        peak: What is known already.
    """

    def __init__(self, peak: int = 0) -> None:
        self.peak = peak

    @contextmanager
    def measured(self, model: nn.Module) -> Iterator[None]:
        """Around one step. On a GPU what was held before the block is forgotten as the device's peak."""
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            yield
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(device))
        elif not self.peak:
            with TensorBytes([*model.parameters(), *model.buffers()]) as held:
                yield
            self.peak = held.peak
        else:
            yield
