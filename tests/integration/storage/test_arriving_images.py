"""The base is measured while the images to learn from are on their way; all else is as if they had been there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from faulty_s3 import Fault, FaultyS3, Handler, Request, error, says
from runs import TINY, manifest, started, teacher, until, write_parts
from safetensors.torch import load_file
from together import together
from toy import ToyTeacher, run_config, settings, training, write_toy_base, write_toy_data

from engine.config import LoraSettings, RunConfig
from engine.config.model import SplitFilesConfig
from engine.dataset import inspect_dataset
from engine.errors import DataError, StorageError
from engine.results.events import Event
from engine.results.outcome import parse_outcome
from engine.results.types import TeacherResult
from engine.spec import LoraPreset, TeacherName
from engine.storage import Storage
from engine.teachers import REGISTRY
from engine.training import TeacherTrainer
from engine.training.checkpoint import load_checkpoint
from engine.training.distributed import Processes

FOLDER = "teachers/grounding_dino_lora"
PARTS = {"train": range(20), "val": range(20, 26), "test": range(26, 30)}
MEASURING, WAITING = "evaluating the base model, while", "waiting for the training images"


class Flag(Protocol):
    """Of this process or of several."""

    def set(self) -> None: ...

    def wait(self, timeout: float) -> bool: ...


@pytest.fixture(autouse=True)
def toy_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, TeacherName.GROUNDING_DINO, ToyTeacher)


@pytest.fixture
def toy_data(tmp_path: Path) -> Path:
    """Three parts in folders, and a base."""
    write_toy_base(tmp_path / "base")
    for name, indices in PARTS.items():
        write_toy_data(tmp_path / "data" / name / "_annotations.coco.json", indices)
    return tmp_path


@pytest.fixture
def at_the_end() -> Iterator[threading.Event]:
    """Set when a test is over: what was held until then is let go."""
    over = threading.Event()
    yield over
    over.set()


def cut(folder: Path, *numbers: int) -> None:
    for number in numbers:
        (image,) = folder.glob(f"data/*/{number}.png")
        image.write_bytes(image.read_bytes()[:60])


def config_of(folder: Path, data: str) -> RunConfig:
    plain = LoraSettings(preset=LoraPreset.ALL, rank=8, alpha=16, dropout=0)
    config = run_config(
        folder / "of no meaning.json",
        output=folder / "output",
        common=training(),
        grounding_dino=settings(base_model=str(folder / "base"), lora=plain),
    )
    found = {"digest": inspect_dataset(data).digest, "source": SplitFilesConfig(annotations=data, images=None)}
    return config.model_copy(update={"data": config.data.model_copy(update=found)})


def to_learn_from(request: Request) -> bool:
    return request.method == "GET" and "/train/" in request.path and request.path.endswith((".png", ".jpg"))


def held(asked: Flag, until: Flag) -> Callable[[Request], Fault | None]:
    """Images to learn from come when a flag is set; if it is not, they are not there."""

    def hold(handler: Handler, request: Request) -> None:
        asked.set()
        handler.send(handler.store(request) if until.wait(120) else error(404, "NoSuchKey"))

    return lambda request: hold if to_learn_from(request) else None


def kinds(events: list[Event]) -> list[str]:
    return [event.event for event in events if event.event != "note"]


def outcome_of(work: Path, result: TeacherResult) -> tuple[Any, ...]:
    """What must be the same to the bit."""
    checkpoint = load_checkpoint(work / FOLDER / "last")
    assert checkpoint is not None
    files = [(work / FOLDER / name).read_bytes() for name in ("adapter_model.safetensors", "samples.json")]
    told = result.model_dump(exclude={"seconds", "peak_memory_bytes", "adapter"})
    return files, told, checkpoint.settings, checkpoint.before


def test_the_base_is_measured_before_the_images_to_learn_from_are_there_and_nothing_else_changes(
    toy_data: Path, tmp_path: Path, s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(toy_data, 3, 21)
    local = TeacherTrainer(config_of(toy_data, str(toy_data / "data")), work_dir=tmp_path / "local").train()
    assert local.images_skipped == 2

    Storage().upload_folder(toy_data / "data", f"{s3}/data")
    config = config_of(toy_data, f"{s3}/data")
    events: list[Event] = []
    asked, measured = threading.Event(), threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        message = event.message or ""
        if message.startswith(MEASURING):
            assert asked.wait(60), "nobody asks for the images meanwhile"
        if message.startswith(WAITING):
            assert kinds(events) == ["evaluation"]
            assert "watchdog" not in {thread.name for thread in threading.enumerate()}, "a slow store is no hang"
            measured.set()

    proxy.before = held(asked, measured)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    trainer = TeacherTrainer(config, work_dir=tmp_path / "far", cache=tmp_path / "cache", listeners=[listen])
    result = trainer.train()
    assert outcome_of(tmp_path / "far", result) == outcome_of(tmp_path / "local", local)
    assert kinds(events)[:3] == ["evaluation", "start", "step"]
    base, start = (event for event in events if event.event in {"evaluation", "start"} and event.step == 0)
    assert (base.phase, base.ap, base.ap_before) == ("base", result.before.ap, result.before.ap)
    assert (start.steps, start.epochs, start.ap_before) == (result.steps, 6, result.before.ap)
    assert any((event.message or "").startswith("2 images are skipped") for event in events)


def fails_at_once(config: RunConfig, work: Path, error: type[Exception], match: str) -> None:
    """Train; what befalls the images to learn from ends the measurement of the base."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if (event.message or "").startswith("evaluating the base model"):
            for thread in threading.enumerate():
                if thread.name == "background-task":
                    thread.join(60)

    with pytest.raises(error, match=match):
        TeacherTrainer(config, work_dir=work / "work", cache=work / "cache", listeners=[listen]).train()
    assert events[-1].message is not None
    assert events[-1].message.startswith("evaluating the base model")
    assert not (work / "work" / FOLDER).exists()


def test_an_image_to_learn_from_that_storage_refuses_ends_the_run_with_its_name(
    toy_data: Path, tmp_path: Path, s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage().upload_folder(toy_data / "data", f"{s3}/data")
    config = config_of(toy_data, f"{s3}/data")
    refused = says(403, "AccessDenied")
    proxy.before = lambda request: refused if to_learn_from(request) and "/7.png" in request.path else None
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    fails_at_once(config, tmp_path, StorageError, f"{s3}/data/train/7.png cannot be read: access is denied")


def test_too_many_unreadable_images_to_learn_from_end_the_run(toy_data: Path, tmp_path: Path, s3: str) -> None:
    cut(toy_data, *range(10), 20)
    Storage().upload_folder(toy_data / "data", f"{s3}/data")
    config = config_of(toy_data, f"{s3}/data")
    fails_at_once(config, tmp_path, DataError, "^11 of 30 images cannot be used, more than the 20 % .*0.png cannot be")


def test_too_many_unreadable_images_to_measure_by_end_the_run(toy_data: Path, tmp_path: Path) -> None:
    cut(toy_data, *PARTS["val"], 26)
    config = config_of(toy_data, str(toy_data / "data"))
    with pytest.raises(DataError, match=r"^7 of 30 images cannot be used, more than the 20 %"):
        TeacherTrainer(config, work_dir=tmp_path / "work", cache=tmp_path / "cache").train()


def test_a_resumed_run_waits_for_the_images_and_measures_nothing_before(
    toy_data: Path, tmp_path: Path, s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage().upload_folder(toy_data / "data", f"{s3}/data")
    config = config_of(toy_data, f"{s3}/data")
    first = TeacherTrainer(config, work_dir=tmp_path / "work", cache=tmp_path / "cache").train()
    events: list[Event] = []
    waiting = threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if (event.message or "").startswith(WAITING):
            waiting.set()

    proxy.before = held(threading.Event(), waiting)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    again = TeacherTrainer(config, work_dir=tmp_path / "work", cache=tmp_path / "another", listeners=[listen]).train()
    assert again.model_dump(exclude={"seconds"}) == first.model_dump(exclude={"seconds"})
    assert kinds(events)[0] == "start"


def train_together(processes: Processes, config: RunConfig, folder: Path, measured: Flag) -> TeacherResult:
    def listen(event: Event) -> None:
        if (event.message or "").startswith(WAITING):
            measured.set()

    rank, machine = processes.rank.index, processes.rank.index - processes.rank.local_index
    return TeacherTrainer(
        config,
        work_dir=folder / f"work{rank}",
        cache=folder / f"cache{machine}",
        listeners=[listen],
        processes=processes,
    ).train()


@pytest.mark.parametrize("a_machine", [2, 1])
def test_several_processes_measure_the_base_meanwhile_and_train_the_same(
    toy_data: Path, tmp_path: Path, s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, a_machine: int
) -> None:
    cut(toy_data, 3)
    Storage().upload_folder(toy_data / "data", f"{s3}/data")
    config = config_of(toy_data, f"{s3}/data")
    alone = TeacherTrainer(config, work_dir=tmp_path / "alone", cache=tmp_path / "cache").train()
    measured = get_context("fork").Event()
    proxy.before = held(threading.Event(), measured)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    ends = together(train_together, config, tmp_path, measured, count=2, here=a_machine)
    assert ends[0] == ends[1]
    assert ends[0].images_skipped == alone.images_skipped == 1
    assert ends[0].before == alone.before
    expected, found = (load_file(tmp_path / work / FOLDER / "adapter_model.safetensors") for work in ("alone", "work0"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    asked = [path for method, path in proxy.requests if method == "GET" and "/train/" in path and ".png" in path]
    assert len(asked) == len(set(asked)) * (2 // a_machine) == 20 * (2 // a_machine), "each machine asks once"


@pytest.mark.parametrize("at", [MEASURING, pytest.param(WAITING, marks=pytest.mark.slow)])
def test_sigterm_ends_it_while_the_images_do_not_come(
    tmp_path: Path, s3: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch, at_the_end: threading.Event, at: str
) -> None:
    parts = {}
    for seed, name in enumerate(("train", "val")):
        Storage().upload_folder(write_parts(tmp_path / name, seed=seed), f"{s3}/{name}")
        parts[name] = {"annotations": f"{s3}/{name}/annotations.json", "images": f"{s3}/{name}/images/"}
    sam = {"name": "Sam", "baseModel": str(TINY / "sam"), "epochs": 1}
    file = manifest(tmp_path, data="", output=f"{s3}/models", teachers=[sam], dataset=parts)
    root = teacher("prepare", "-f", str(file), cwd=tmp_path).stdout.strip()
    proxy.before = held(threading.Event(), at_the_end)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    arguments = ("train", "--config", f"{root}/teacher_config.yaml", "--teacher", "Sam", "--outcome", "outcome.json")
    with started(*arguments, cwd=tmp_path / "run") as process:
        until(process, "note", at)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=50)  # an image is waited for a minute, again and again
    outcome = parse_outcome((tmp_path / "run" / "outcome.json").read_text())
    assert outcome is not None
    assert (process.returncode, outcome.exit_code, outcome.reason) == (143, 143, "Interrupted")
