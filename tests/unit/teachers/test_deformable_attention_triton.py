"""The fused kernel of deformable attention: interpreted on the CPU, compiled for GPUs, and run where there is one.

Triton decides when it is imported whether kernels are interpreted: this file is also the program that does that in a
process of its own, and prints what it found.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.models.grounding_dino.modeling_grounding_dino import MultiScaleDeformableAttention

from engine.models.fast import deformable_attention

BROKEN = (
    ("return beyond if after else 1 - beyond", "return 1 - beyond if after else beyond"),
    ("of_y += (2 * below - 1) * across * product", "of_y += (2 * below - 1) * down * product"),
)
"""Lines of the kernel, and what would be wrong there, in the forward and in the backward pass."""

QUANTITIES = ("result", "value", "places", "weights")
KIND = {"heads": 2, "width": 8, "maps": 2, "points": 1}


@dataclass(frozen=True)
class Case:
    shapes: tuple[tuple[int, int], ...]
    batch: int = 1
    queries: int = 20
    heads: int = 2
    width: int = 32
    points: int = 2
    far: bool = False

    def inputs(self) -> list[Tensor]:
        torch.manual_seed(0)
        places = torch.rand(self.batch, self.queries, self.heads, len(self.shapes), self.points, 2) * 1.6 - 0.3
        if self.far:
            places[:, ::2] = places[:, ::2] * 1e12 - 3e11
        return [
            torch.randn(self.batch, sum(high * long for high, long in self.shapes), self.heads, self.width),
            places,
            torch.rand(self.batch, self.queries, self.heads, len(self.shapes), self.points),
        ]


CASES = {
    "one map": Case(((6, 9),), heads=1),
    "four maps, two images": Case(((9, 14), (5, 7), (3, 4), (1, 2)), batch=2, queries=5),
    "a full tile": Case(((5, 4),), queries=16, heads=1, points=1),
    "a narrow width": Case(((5, 4), (7, 3)), queries=65, heads=1, width=8, points=1),
    "a width that is no power of two": Case(((7, 4), (2, 5)), queries=33, heads=3, width=12, points=1),
    "a width beyond a tile": Case(((3, 4),), queries=3, heads=1, width=600, points=1),
    "places far away": Case(((4, 6), (3, 2)), heads=1, far=True),
}


def found_by(read: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The result, and the gradients of all three."""
    leaves = [t.to(dtype, copy=True).requires_grad_() for t in inputs]
    result = read(*leaves)
    torch.manual_seed(1)
    due = torch.randn(result.shape, device="cpu").to(result)
    return [result.detach(), *torch.autograd.grad(result, leaves, due)]


def library(shapes: tuple[tuple[int, int], ...], layer: Any = None) -> Callable[..., Tensor]:
    layer = layer or MultiScaleDeformableAttention()
    return lambda value, *rest: layer(value, torch.tensor(shapes, device=value.device), shapes, None, *rest, 64)


def apart(ours: list[Tensor], right: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(ours, right, strict=True)]


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel is tried on the CPU too, and what was found before is forgotten."""
    monkeypatch.setattr(deformable_attention, "_may_be_fused", lambda device: True)
    deformable_attention._fused.cache_clear()
    yield
    deformable_attention._fused.cache_clear()


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """What :func:`main` found."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_gives_what_the_library_gives_in_64_bit(interpreted: dict[str, Any], case: str) -> None:
    assert max(interpreted["library"][case]) < 2e-6


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_gives_what_is_given_without_it(interpreted: dict[str, Any], case: str) -> None:
    assert max(interpreted["without"][case]) < 2e-6


def test_a_kernel_that_passes_is_taken_without_a_word(interpreted: dict[str, Any]) -> None:
    assert interpreted["taken"] == [True, []]


def test_a_layer_with_the_kernel_may_be_computed_again(interpreted: dict[str, Any]) -> None:
    """The kernel is tried inside the first pass of the layer, and not inside the second."""
    assert max(interpreted["again"]) < 2e-6


@pytest.mark.parametrize("line", range(len(BROKEN)))
def test_a_kernel_that_reads_wrongly_is_not_taken_and_is_told_of_once(interpreted: dict[str, Any], line: int) -> None:
    taken, told = interpreted["broken"][line]
    assert not taken
    assert len(told) == 1
    assert "without its fused kernel on cpu" in told[0]
    assert "its results are off by" in told[0]


def test_instead_of_a_wrong_kernel_the_layer_reads_map_by_map(interpreted: dict[str, Any]) -> None:
    assert max(interpreted["instead"]) < 2e-6


class _Spoilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 1.001 * gradients[0]


@pytest.mark.parametrize("wrong", [None, *QUANTITIES])
def test_the_check_sees_a_thousandth_in_any_quantity(wrong: str | None) -> None:
    def read(value: Tensor, places: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
        inputs = {"value": value, "places": places, "weights": weights}
        result = deformable_attention.map_by_map(
            *(_Spoilt.apply(t) if name == wrong else t for name, t in inputs.items()), shapes.tolist()
        )
        return 1.001 * result.detach() + (result - result.detach()) if wrong == "result" else result

    found = deformable_attention._apart(read, torch.device("cpu"), **KIND)
    assert found == 0 if wrong is None else found == pytest.approx(1e-3, rel=0.01)
    assert (found <= deformable_attention.TOLERANCE) == (wrong is None)


def test_the_check_passes_no_kernel_that_gives_no_numbers() -> None:
    def read(value: Tensor, places: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
        return deformable_attention.map_by_map(value, places, weights * torch.nan, shapes.tolist())

    assert not deformable_attention._apart(read, torch.device("cpu"), **KIND) <= deformable_attention.TOLERANCE


def test_the_check_leaves_random_numbers_and_the_mode_of_a_run_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.inference_mode():
        deformable_attention._apart(
            lambda *t: deformable_attention.map_by_map(*t[:3], t[3].tolist()), torch.device("cpu"), **KIND
        )
        assert torch.is_inference_mode_enabled()
    assert torch.equal(torch.rand(3), expected)


def test_without_triton_the_layer_does_without_the_kernel_and_says_so_once(
    anywhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "engine.models.fast.deformable_attention_triton", raising=False)
    case, fast = CASES["one map"], MultiScaleDeformableAttention()
    deformable_attention.keep_only_inputs(fast)
    with pytest.warns(UserWarning, match="without its fused kernel on cpu, which takes longer: .*triton") as told:
        found = [found_by(library(case.shapes, fast), case.inputs()) for _ in range(2)][1]
    assert max(apart(found, found_by(library(case.shapes), case.inputs()))) < 2e-6
    assert len(told) == 1


def test_a_machine_that_cannot_run_the_kernel_does_without(anywhere: None) -> None:
    """Compiled, it cannot run on a CPU: any failure of Triton's will do."""
    pytest.importorskip("triton")
    with pytest.warns(UserWarning, match="the headers of Python"):
        assert deformable_attention._fused(torch.device("cpu"), *KIND.values()) is None


def test_on_a_cpu_the_kernel_is_neither_imported_nor_missed(interpreted: dict[str, Any]) -> None:
    assert interpreted["plain"] == [False, []]


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("direction", ["_forward", "_backward"])
def test_the_kernel_compiles_for_gpus(
    direction: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed for that. 16 bytes are read at once, else it would take four times as many reads."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from engine.models.fast import deformable_attention_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(deformable_attention_triton, direction)
    constants = {
        "heads": 8,
        "width": 32,
        "maps": 4,
        "points": 4,
        "tile": deformable_attention_triton.NUMBERS // 32,
        "padded": 32,
    }
    others = {"queries": "i32", "length": "i32", "shapes": "*i64"} | dict.fromkeys(constants, "constexpr")
    signature = {name: others.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]
    assert compiled.asm["ptx"].count("ld.global.v4") >= 16  # corners of points


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_the_kernel_gives_what_the_library_gives(case: str) -> None:
    shapes, inputs = CASES[case].shapes, [t.cuda() for t in CASES[case].inputs()]
    layer = MultiScaleDeformableAttention()
    deformable_attention.keep_only_inputs(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = found_by(library(shapes, layer), inputs)
    assert deformable_attention._fused(inputs[0].device, *inputs[0].shape[2:], *inputs[2].shape[3:]) is not None
    assert max(apart(ours, found_by(library(shapes), inputs, torch.float64))) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_nothing_is_stored_of_what_is_read() -> None:
    case = Case(((50, 84), (25, 42), (13, 21), (7, 11)), queries=5000, heads=8, points=4)
    leaves = [t.cuda().requires_grad_() for t in case.inputs()]
    layer = MultiScaleDeformableAttention()
    deformable_attention.keep_only_inputs(layer)
    read = library(case.shapes, layer)
    read(*leaves)  # compiles, and is checked
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    read(*leaves).sum().backward()
    held = torch.cuda.max_memory_allocated() - before
    gradients, result = sum(t.numel() * 4 for t in leaves), 4 * case.queries * case.heads * case.width
    assert held < gradients + 3 * result  # what is read would be 16 results


def changed(module: ModuleType, old: str, new: str, file: Path) -> ModuleType:
    """The module with something else in a line of its source, which is kept in the file: Triton reads it there."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(old) == 1, old
    file.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(f"changed_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def main() -> None:
    """Run by :func:`interpreted`: prints how far from what is right the kernel is, and what is taken when."""
    shapes = CASES["one map"].shapes
    fast = MultiScaleDeformableAttention()
    deformable_attention.keep_only_inputs(fast)

    def choice() -> list[Any]:
        """Whether the kernel is taken, asked twice, and what is said."""
        deformable_attention._fused.cache_clear()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            taken = [deformable_attention._fused(torch.device("cpu"), *KIND.values()) for _ in range(2)]
        return [None not in taken, [str(one.message) for one in told]]

    taken, told = choice()
    plain = [taken or "engine.models.fast.deformable_attention_triton" in sys.modules, told]

    from engine.models.fast import deformable_attention_triton

    by_library, without = {}, {}
    for name, case in CASES.items():
        inputs = case.inputs()
        ours = found_by(lambda *t, s=case.shapes: deformable_attention_triton.read(*t, torch.tensor(s)), inputs)
        by_library[name] = apart(ours, found_by(library(case.shapes), inputs, torch.float64))
        without[name] = apart(ours, found_by(lambda *t, s=case.shapes: deformable_attention.map_by_map(*t, s), inputs))

    deformable_attention._may_be_fused = lambda device: True
    right = found_by(library(shapes), CASES["one map"].inputs())
    inputs = CASES["one map"].inputs()
    again = apart(found_by(lambda *t: checkpoint(library(shapes, fast), *t, use_reentrant=False), inputs), right)
    found = {"library": by_library, "without": without, "plain": plain, "again": again, "taken": choice()}

    with TemporaryDirectory() as folder:
        found["broken"] = []
        for number, (right_line, wrong_line) in enumerate(BROKEN):
            sys.modules[deformable_attention_triton.__name__] = changed(
                deformable_attention_triton, right_line, wrong_line, Path(folder, f"{number}.py")
            )
            found["broken"].append(choice())
        found["instead"] = apart(found_by(library(shapes, fast), inputs), right)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
