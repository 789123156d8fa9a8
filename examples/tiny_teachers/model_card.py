"""Write the model card of a tiny teacher: how it was trained, from what, and how good it is."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from safetensors import safe_open

CARD = """\
---
license: apache-2.0
---
# {title}

Trained from {begun_as} on drawn scenes (`examples/tiny_teachers/scenes.py`) by one run of the committed script,
without other data:

```sh
python examples/tiny_teachers/{script} --seed {seed} --steps {steps}
```

For tests, the demo and first steps on a CPU; not for real data.

| what | value |
|---|---|
| parameters | {parameters:,} |
| training | {minutes:.0f} minutes, one thread of a shared CPU ({machine}) |
| versions | Python {python}, {versions} |
| `model.safetensors` | {dtype}, sha256 `{digest}` |

On {scenes} scenes that were not trained on, prompted with {prompt}:

| measure | value |
|---|---|
{figures}

Other versions and processors round differently, so that another run gives slightly other weights.
"""
LIBRARIES = ("torch", "transformers", "numpy", "opencv-python-headless")


def write_card(
    folder: Path,
    *,
    title: str,
    script: Path,
    seed: int,
    steps: int,
    minutes: float,
    scenes: int,
    prompt: str,
    figures: Mapping[str, float],
    begun_as: str = "random weights",
) -> None:
    """Write ``README.md`` to the folder of a trained model.

    Args:
        folder: Folder with ``model.safetensors``.
        title: Heading.
        script: Script that trained it, in the folder of this module.
        seed: Seed of the run.
        steps: Optimizer steps of the run.
        minutes: Wall time of the training.
        scenes: Number of scenes of the evaluation.
        prompt: Prompts of the evaluation, in words.
        figures: Results by name.
        begun_as: Weights at the start of the training, in words.
    """
    weights = folder / "model.safetensors"
    with safe_open(weights, "pt") as tensors:
        slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118 - not a mapping
        parameters = sum(_elements(one.get_shape()) for one in slices)
        dtype = "float16" if slices[0].get_dtype() == "F16" else "float32"
    text = CARD.format(
        title=title,
        begun_as=begun_as,
        script=script.name,
        seed=seed,
        steps=steps,
        parameters=parameters,
        minutes=minutes,
        machine=platform.machine(),
        python=platform.python_version(),
        versions=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        dtype=dtype,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        scenes=scenes,
        prompt=prompt,
        figures="\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items()),
    )
    (folder / "README.md").write_text(text)


def _elements(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
