"""What a step holds in memory, counted where tensors are made: the same on every device, and without one."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorBytes(TorchDispatchMode):
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
        operations: How many were run.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.made = self.operations = 0
        self._known: dict[int, int] = {}
        self._count(held)
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        self._count(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._known:
                self._known[key] = storage.nbytes()
                self.live += storage.nbytes()
                self.made += storage.nbytes()
                weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int) -> None:
        self.live -= self._known.pop(key)
