from __future__ import annotations

import os
import platform
import random
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import InterruptedTrainingError
from engine.models.base import to_device
from engine.spec import Precision
from engine.training.device import Stop, autocast, peak_memory_bytes, seed_all

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [(Precision.AUTO, torch.float32), (Precision.FLOAT32, torch.float32), (Precision.BFLOAT16, torch.bfloat16)],
)
def test_precision_on_a_cpu(precision: Precision, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_key_seeds_every_generator() -> None:
    seed_all(1, 2)
    first = draws()
    seed_all(1, 3)
    assert all(a != b for a, b in zip(first, draws(), strict=True))
    seed_all(1, 2)
    assert draws() == first


def test_tensors_move_wherever_they_lie() -> None:
    batch: dict[str, Any] = {"a": torch.ones(2), "b": [torch.ones(1), {"c": torch.ones(3)}], "d": "text", "e": (1, 2)}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"].is_meta
    assert moved["b"][1]["c"].is_meta
    assert (moved["d"], moved["e"]) == ("text", (1, 2))


def test_memory_of_the_process_is_measured() -> None:
    assert peak_memory_bytes(CPU) > 50e6


def test_sigterm_is_noted_inside_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(InterruptedTrainingError):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's way that is changed")
def test_memory_that_is_kept_need_not_be_cleared_again() -> None:
    program = """
import resource, torch
from engine.training.device import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
cleared = faults()
keep_memory()
faults()
print(cleared, faults())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    cleared, kept = map(int, done.stdout.split())
    assert kept < cleared / 20


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's way that is changed")
def test_kept_memory_is_given_back_above_a_bound() -> None:
    program = """
import torch
from engine.training.device import give_back_memory, keep_memory, resident_bytes
keep_memory()
before = resident_bytes()
pieces = [torch.ones(2**20) for _ in range(200)]
last = torch.ones(2**20)
del pieces
give_back_memory(above=before + 10**12)
kept = resident_bytes() - before
give_back_memory(above=before + 10**8)
print(kept, resident_bytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 800e6
    assert left < 50e6
