"""Write ``cost_model.json`` of each teacher: coefficients of the memory and FLOPs of a training step of each base.

Run it after a change of the forward or backward pass::

    python benchmarks/write_cost_models.py    # all bases, some minutes each
    python benchmarks/write_cost_models.py sam-vit-base shipped-sam

Steps are counted with fake tensors (:mod:`step_memory`) at a few shapes for each preset, precision and set of
checkpointed groups, and fitted by least squares of the relative error. ``benchmarks/memory.py`` measures the error at
other shapes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import nnls
from step_memory import BASES, Shape, step

from engine.estimate.cost_model import key_of
from engine.estimate.cost_traits import CostTraits, count_positions
from engine.spec import LoraPreset, TeacherName

TEACHERS = Path(__file__).resolve().parents[1] / "engine" / "teachers"
GROUNDING_DINO = (
    Shape(size=(480, 640), tokens=16),
    Shape(size=(800, 1333), tokens=16),
    Shape(size=(800, 1333), tokens=192),
    Shape(images=2, size=(480, 640), tokens=32, rank=64),
    Shape(images=3, size=(800, 800), tokens=64),
)
SAM = (
    Shape(objects=5),
    Shape(objects=25),
    Shape(images=2, objects=25, rank=64),
    Shape(images=3, objects=10),
)


def fitted(rows: np.ndarray, values: list[float]) -> list[float]:
    """Fit non-negative coefficients, so that a larger shape never has a lower prediction."""
    scale = np.array(values)[:, None]
    coefficients, _ = nnls(rows / scale, np.ones(len(values)))
    off = np.abs(rows @ coefficients / scale[:, 0] - 1).max()
    if off > 0.08:
        print(f"    off by up to {off:.0%}", flush=True)
    return [float(f"{value:.5g}") for value in coefficients]


def kind_of(base: str) -> TeacherName:
    """Return the teacher of a base."""
    config = BASES[base]().to_dict()
    return next(name for name in TeacherName if name.traits.cost and name.traits.cost.dimensions(config) is not None)


def cost_of(kind: TeacherName) -> CostTraits:
    cost = kind.traits.cost
    assert cost is not None
    return cost


def entries(base: str, preset: LoraPreset) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield key and entry in the cost model for one base and preset."""
    kind = kind_of(base)
    cost = cost_of(kind)
    shapes = SAM if kind.traits.needs_masks else GROUNDING_DINO
    if base == "shipped-grounding-dino":  # its images have a third of the side length
        shapes = tuple(replace(shape, size=(shape.size[0] // 3, shape.size[1] // 3)) for shape in shapes)
    rows = np.array(
        [
            cost.features(
                images=shape.images,
                positions=count_positions(*shape.size),
                queries=(cost.dimensions(BASES[base]().to_dict()) or [0])[-1],
                tokens=shape.tokens,
                objects=shape.objects,
                rank=shape.rank,
            )
            for shape in shapes
        ]
    )
    for bfloat16, groups in product((True, False), cost.ladder[preset]):
        held = [step(base, shape, preset=preset.value, groups=groups, bfloat16=bfloat16) for shape in shapes]
        moments = zip(*(one.moments for one in held), strict=True)
        yield (
            key_of(preset, bfloat16=bfloat16, groups=groups),
            {
                "memory": [fitted(rows, [value / 1e6 for value in moment]) for moment in moments],
                "flops": fitted(rows, [one.flops / 1e9 for one in held]),
                "made": fitted(rows, [one.made / 1e6 for one in held]),
                "kernels": round(sum(one.kernels for one in held) / len(held)),
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="*", help="default: all bases of the table")
    parser.add_argument("--table", type=Path, help="default: cost_model.json in the package of the teacher")
    arguments = parser.parse_args()
    bases = arguments.bases or list(BASES)
    for preset, base in product((LoraPreset.ENCODER_DECODER, LoraPreset.ALL, LoraPreset.DECODER), bases):
        for key, entry in entries(base, preset):
            kind = kind_of(base)
            file = arguments.table or TEACHERS / kind.slug / "cost_model.json"
            table = json.loads(file.read_text()) if file.is_file() else {}
            sizes = cost_of(kind).dimensions(BASES[base]().to_dict())
            table.setdefault(base, {"entries": {}})["dimensions"] = sizes
            table[base]["entries"][key] = entry
            file.write_text(json.dumps(table, indent=1) + "\n")
            print(f"{base}: {key}", flush=True)


if __name__ == "__main__":
    main()
