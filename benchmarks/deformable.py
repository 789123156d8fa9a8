"""Compare deformable attention in the fused GPU kernel with ``grid_sample`` on each feature map.

    python benchmarks/deformable.py --size 800x1333

Measures forward and backward pass of one encoder layer of Grounding DINO: one query per position of four feature maps,
8 heads of 32 channels, 4 sampling points per map. Measures nothing without an NVIDIA GPU, since the kernel needs one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from math import ceil

import torch
from measurements import Measurement, report
from torch import Tensor

from engine.estimate.cost_model import STRIDES
from engine.models.fast import deformable_attention

HEADS, WIDTH, POINTS = 8, 32, 4


def layer(shapes: list[tuple[int, int]], images: int, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Return value, sampling locations and weights, and the output gradient; locations are near their query."""
    torch.manual_seed(0)
    length = sum(high * long for high, long in shapes)
    centres = torch.cat([_centres(high, long) for high, long in shapes])[None, :, None, None, None]
    offsets = torch.randn(images, length, HEADS, len(shapes), POINTS, 2) * 2
    sizes = torch.tensor(shapes).flip(-1)[:, None]
    weights = torch.randn(images, length, HEADS, len(shapes) * POINTS).softmax(-1).unflatten(-1, (len(shapes), POINTS))
    drawn = (torch.randn(images, length, HEADS, WIDTH), centres + offsets / sizes, weights)
    return [t.to(device).requires_grad_() for t in drawn], torch.randn(images, length, HEADS * WIDTH, device=device)


def _centres(high: int, long: int) -> Tensor:
    """Return the centres of a map's cells, (high * long, 2), as x, y in 0..1."""
    y, x = torch.meshgrid((torch.arange(high) + 0.5) / high, (torch.arange(long) + 0.5) / long, indexing="ij")
    return torch.stack((x, y), -1).flatten(0, 1)


def measure(read: Callable[..., Tensor], inputs: list[Tensor], due: Tensor) -> tuple[float, float]:
    """Measure the milliseconds of both passes, and the peak megabytes of tensors without the inputs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, begin = torch.cuda.memory_allocated(), time.perf_counter()
    torch.autograd.grad(read(*inputs), inputs, due)
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) * 1e3, (torch.cuda.max_memory_allocated() - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="800x1333", help="height x width of the image")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    device = torch.device("cuda", 0)
    if not torch.cuda.is_available():
        print("no GPU here: the kernel of deformable attention is not measured")
        return
    height, width = map(int, arguments.size.split("x"))
    shapes = [(ceil(height / stride), ceil(width / stride)) for stride in STRIDES]
    inputs, due = layer(shapes, arguments.images, device)
    fused = deformable_attention._fused(device, HEADS, WIDTH, len(shapes), POINTS)
    if fused is None:
        print("the kernel of deformable attention does not run on this GPU: it is not measured")
        return
    on_device = torch.tensor(shapes, device=device)
    ways: dict[str, Callable[..., Tensor]] = {
        "kernel": lambda *t: fused(*t, on_device),
        "maps": lambda *t: deformable_attention.map_by_map(*t, shapes),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.repeats + 1):  # alternating; the first round is the warm-up
        for name, read in ways.items():
            found[name].append(measure(read, inputs, due))
    (ours, our_memory), (theirs, their_memory) = (map(min, zip(*found[name][1:], strict=True)) for name in ways)
    what = f"deformable attention, {arguments.images} x {arguments.size}, {due.shape[1]:,} queries, both passes"
    against = "grid_sample, map by map"
    report(
        [
            Measurement(what, against, ours, theirs, "ms", theirs / ours, "", "times as fast"),
            Measurement(
                what, against, our_memory, their_memory, "MB", our_memory / their_memory, "", "beyond the inputs"
            ),
        ]
    )


if __name__ == "__main__":
    main()
