"""A GPU with too little memory: half the batch once, then what would fit. Its error is torch's own, raised by a teacher
that has room for so many images only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from together import together
from toy import ToyTeacher, toy_loop

from engine.config import LoraSettings
from engine.errors import OutOfGpuMemoryError
from engine.models.lora import adapter_tensors
from engine.results.events import Event
from engine.spec import LoraPreset
from engine.training.checkpoint import load_checkpoint
from engine.training.distributed import Processes

WITHOUT_NOISE = LoraSettings(preset=LoraPreset.ALL, rank=8, alpha=16, dropout=0)


def room_for(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give the toy teacher room for so many images; the sizes of the batches that it is asked for."""
    asked: list[int] = []
    loss = ToyTeacher.loss

    def limited(self: ToyTeacher, batch: Any, *, count: float) -> dict[str, torch.Tensor]:
        asked.append(len(batch["labels"]))
        if asked[-1] > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 GiB.")
        return loss(self, batch, count=count)

    monkeypatch.setattr(ToyTeacher, "loss", limited)
    return asked


def test_half_the_batch_ends_where_the_whole_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = toy_loop(tmp_path / "whole", lora=WITHOUT_NOISE)
    expected = whole.run()
    events: list[Event] = []
    room_for(2, monkeypatch)
    loop = toy_loop(tmp_path / "halved", lora=WITHOUT_NOISE, hooks={"listen": events.append})
    progress = loop.run()
    assert [event.message for event in events if event.event == "note"] == [
        "micro-batches of 4 images do not fit into the memory of the GPU: continuing with 2 at a time and "
        "the same batch size"
    ]
    assert [point.step for point in progress.history] == [point.step for point in expected.history]
    for name, tensor in adapter_tensors(whole.teacher).items():
        torch.testing.assert_close(adapter_tensors(loop.teacher)[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_resumed_run_does_not_try_the_whole_batch_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = room_for(2, monkeypatch)
    toy_loop(tmp_path, epochs=2).run()
    assert max(asked) == 4
    asked.clear()
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    toy_loop(tmp_path, start=checkpoint, epochs=3).run()
    assert max(asked) == 2
    asked.clear()
    toy_loop(tmp_path, start=checkpoint, epochs=3, micro_batch_size=1).run()
    assert max(asked) == 1, "the size that the message of the failure advises"


@pytest.mark.parametrize(
    ("room", "says"),
    [
        (1, r"1 at a time fit: set teachers.grounding_dino.micro_batch_size to 1"),
        (0, r"not even one image fits, or take the preset decoder"),
    ],
)
def test_what_would_fit_is_reported_where_half_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, says: str
) -> None:
    room_for(room, monkeypatch)
    with pytest.raises(
        OutOfGpuMemoryError, match=rf"too little memory for GroundingDino with a batch size of 8: {says}"
    ):
        toy_loop(tmp_path).run()


def halved_together(processes: Processes, folder: Path) -> Any:
    """Only the second process has too little memory."""
    with pytest.MonkeyPatch.context() as patch:
        asked = room_for(1 if processes.rank.index else 9, patch)
        loop = toy_loop(folder, images=20, lora=WITHOUT_NOISE, batch_size=4, micro_batch_size=2, processes=processes)
        progress = loop.run()
    return (
        progress.step,
        max(asked[3:]),
        {name: tensor.clone() for name, tensor in adapter_tensors(loop.teacher).items()},
    )


def test_processes_halve_together(tmp_path: Path) -> None:
    first, second = together(halved_together, tmp_path)
    assert first[:2] == second[:2]
    assert first[1] == 1
    assert all(torch.equal(first[2][name], tensor) for name, tensor in second[2].items())
