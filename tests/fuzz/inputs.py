"""Every kind of file or text that a person or a bucket can hand in: how it is made wrong, and what reads it.

A reader may take an input, or refuse it by an error of the kind that is documented; anything else is a crash.
"""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import formats
import numpy as np
import safetensors.torch
import torch
from coco_files import compressed, small_coco, uncompressed, write, write_images
from mutations import YAML, damaged, json_of, mutated, odd_yaml, written
from PIL import Image
from tiny_run import CLASSES, TINY, save_run
from tiny_run import SETTINGS as TINY_SETTINGS
from toy import metadata_of, metrics, result_of

from engine.cli.options import settings as parse_settings
from engine.config import from_yaml, generate_config, to_yaml
from engine.dataset import DatasetInfo, inspect_dataset, load_dataset, load_sample
from engine.dataset.checks.problem_catalogue import IMAGES_LEFT_OUT, OBJECTS_LEFT_OUT, REPAIRED
from engine.dataset.images.decoding import decode_image, probe_image
from engine.dataset.predictions import load_predictions
from engine.dataset.types import Detections
from engine.dataset.wordpiece import Vocabulary
from engine.errors import BaseModelError, ConfigError, DataError, StorageError, TeacherError
from engine.estimate.forecast import find_base
from engine.layout import RunLayout
from engine.manifest import load_manifest
from engine.results.events import Event, parse_line
from engine.results.outcome import Outcome, parse_outcome
from engine.results.run_files import read_metadata, read_result
from engine.spec import DatasetSpec, FineTuneSpec, TeacherName
from engine.storage import Storage
from engine.storage.publication import Commit, Publication
from engine.teachers import load_adapted, load_labeller, load_teacher
from engine.text.pydantic_errors import parse
from engine.training.checkpoint import Checkpoint, Progress, checkpoint_name, read_checkpoint, save_checkpoint
from engine.training.data.box_prompts import DetectedBoxes

NAMES = [f"{i:03d}.png" for i in range(1, 5)]
DINO, SAM, SAM2 = TeacherName.GROUNDING_DINO, TeacherName.SAM, TeacherName.SAM2


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: In summaries.
        make: An input, with something wrong in it.
        check: Reads it, in a folder of its own; gives what became of it, or raises what is a crash.
        share: How often it is tried; those that load a model are slow.
    """

    name: str
    make: Callable[[random.Random], bytes]
    check: Callable[[bytes, Path], str]
    share: float = 1.0


def refused_by(*kinds: type[TeacherError]) -> Callable[[Callable[[bytes, Path], object]], Callable[[bytes, Path], str]]:
    """Make a check of a reader: it may raise errors of these kinds, in a sentence of moderate length."""

    def of(read: Callable[[bytes, Path], object]) -> Callable[[bytes, Path], str]:
        def check(content: bytes, folder: Path) -> str:
            try:
                read(content, folder)
            except kinds as error:
                message = str(error)
            else:
                return "used"
            assert 10 < len(message) < 10_000, "a refusal is a sentence"
            return "refused"

        return check

    return of


def document(rng: random.Random) -> Any:
    """A right COCO file, with masks of every kind."""
    coco = small_coco(len(NAMES), 3, masks=rng.random() < 0.7)
    mask = np.zeros((48, 64), bool)
    mask[10:20, 5:25] = True
    for annotation in coco["annotations"]:
        if rng.random() < 0.3:
            annotation["segmentation"] = rng.choice([compressed, uncompressed])(mask)
    return coco


def an_image(rng: random.Random) -> bytes:
    """A right image of some format and kind."""
    mode = rng.choice(["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
    kinds = {"RGB": ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"], "CMYK": ["JPEG", "TIFF"]}
    image = Image.fromarray(np.random.default_rng(rng.randrange(99)).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    image = Image.new("I;16", (32, 24), 999) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, rng.choice(kinds.get(mode, ["PNG", "TIFF"])))
    return file.getvalue()


def check_coco(content: bytes, folder: Path) -> str:
    """What becomes of a COCO file."""
    file = folder / "annotations.json"
    file.write_bytes(content)
    return check_dataset(file, folder / "images")


def make_other(name: str, rng: random.Random) -> bytes:
    """A dataset of another format, after the name of how it is to be given."""
    kind, content = formats.an_input(
        rng, mutated, damaged, rng.choice([one for one in formats.RIGHT if format_of(one) == name])
    )
    return f"{kind}\n".encode() + content


def check_other(content: bytes, folder: Path) -> str:
    """What becomes of it."""
    kind, _, archive = content.partition(b"\n")
    return check_dataset(formats.place(kind.decode(), archive, folder), None)


def format_of(name: str) -> str:
    """The format of one of :data:`formats.RIGHT`."""
    return name.rpartition(" ")[0]


def check_dataset(source: Path, images: Path | None) -> str:
    """What becomes of a dataset."""
    try:
        info = inspect_dataset(source, images)
    except TeacherError:
        return "refused"
    counts = {problem.code: problem.count for problem in info.problems}
    check_counts(info)
    try:
        dataset = load_dataset(source, images)
    except TeacherError:
        assert info.errors
        return "refused"
    assert len(dataset) == info.images, "inspecting and loading differ"
    assert sum(map(len, dataset.annotations)) == info.annotations, "inspecting and loading differ"
    for index, image in enumerate(dataset.images[:4] if images is not None else ()):
        try:
            sample = load_sample(dataset, index, images / image.file_name, with_masks=True)  # type: ignore[operator]
        except TeacherError:
            continue
        assert sample.image.shape[2] == 3
        assert np.isfinite(sample.boxes_xyxy).all()
    if info.errors:
        return "refused"
    if counts.keys() & (IMAGES_LEFT_OUT | OBJECTS_LEFT_OUT):
        return "skipped"
    return "repaired" if counts.keys() & REPAIRED else "used"


def check_counts(info: DatasetInfo) -> None:
    """Nothing is lost in silence: what was read is used, or left out for a reason that is told."""
    counts = Counter({problem.code: problem.count for problem in info.problems})
    left_out = sum(counts[code] for code in IMAGES_LEFT_OUT)
    assert info.images_read == info.images + left_out, f"{info.images_read} images, {info.images} used, {counts}"
    left_out = sum(counts[code] for code in OBJECTS_LEFT_OUT)
    assert info.annotations_read == info.annotations + left_out, (
        f"{info.annotations_read}, {info.annotations}, {counts}"
    )


@refused_by(TeacherError)
def check_image(content: bytes, folder: Path) -> None:
    """What becomes of an image."""
    probe_image(content)
    pixels = decode_image(content)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


MANIFEST = """apiVersion: finetune.dev/v1alpha1
kind: TeacherFineTune
metadata:
  name: parts
  labels: {team: vision}
spec:
  dataset:
    annotations: s3://data/annotations.json
    images: s3://data/images/
    split: {train: 70, val: 20, test: 10}
    maxSkippedPercent: 5
  output: s3://models/
  storage:
    endpointUrl: https://s3.example.com
  teachers:
    - name: GroundingDino
      epochs: 3
      learningRate: "2e-3"
      lora: {preset: all, rank: 8}
    - name: Sam
      batchSize: 2
  classPrompts:
    nut: hex nut
    'no': a sign
  augmentation:
    characteristics: [small_objects, dense]
    environment: {lighting: low}
  training:
    seed: 3
    earlyStopping:
      patience: 2
  resources:
    limits:
      nvidia.com/gpu: 1
"""
SETTINGS = [
    "training.seed", "training.features_gb", "teachers.sam.epochs", "teachers.*.lora.rank", "teachers.*.learning_rate",
    "teachers", "teachers.sam", "teachers.*", "data", "data.split", "data.classes", "data.prompts", "name", "output",
    "augmentation", "augmentation.environment", "storage.region", "training.retention", "teachers.sam.checkpointing",
    "", ".", "a.b", "*.*", "run_id", "data.train.annotations", "training.workers", "teachers.sam.base_model",
]  # fmt: skip
VALUES = ["1", "0.5", "null", "true", "[]", "{}", "[1, a]", "{a: 1}", "auto", "x", "-1", "1e308", "", "NaN", "Infinity"]


@cache
def plain_info() -> DatasetInfo:
    with TemporaryDirectory() as folder:
        images = write_images(Path(folder, "images"), NAMES)
        return inspect_dataset(write(Path(folder, "a.json"), small_coco(len(NAMES), 3)), images)


@cache
def plain_spec() -> FineTuneSpec:
    return FineTuneSpec(dataset=DatasetSpec(annotations="a.json"), output="out/")


@cache
def plain_config() -> str:
    return to_yaml(generate_config(plain_info(), plain_spec(), name="parts"))


def make_yaml(text: Callable[[], str], rng: random.Random) -> bytes:
    """YAML that is wrong as text, or in its bytes."""
    return damaged(text().encode(), rng) if rng.random() < 0.2 else odd_yaml(text(), rng)


def make_set(rng: random.Random) -> bytes:
    """Some assignments, one a line."""
    given = []
    for _ in range(rng.choice([1, 1, 2])):
        value = rng.choice(VALUES) if rng.random() < 0.6 else rng.choice(YAML)
        given.append(f"{rng.choice(SETTINGS)}{rng.choice(['=', '=', '=', '=', '', '=='])}{value}".replace("\n", " "))
    content = "\n".join(given).encode(errors="surrogatepass")
    return damaged(content, rng) if rng.random() < 0.1 else content


@refused_by(ConfigError, DataError)
def check_set(content: bytes, folder: Path) -> None:
    settings = parse_settings(content.decode(errors="surrogateescape").split("\n"))
    asked = plain_spec().model_dump(mode="json", by_alias=True) | {"settings": settings}
    to_yaml(generate_config(plain_info(), parse(FineTuneSpec, asked, where="--set")))


class Adapters:
    """A good adapter of each teacher, made once."""

    def __init__(self, folder: Path) -> None:
        self.run = save_run(folder / "good", thresholds=dict.fromkeys(CLASSES, 0.3))
        self.sam = self.run / "teachers" / "sam_lora"
        self.dino = self.run / "teachers" / "grounding_dino_lora"
        layout = RunLayout(str(self.run))
        metadata = metadata_of(teachers=(result_of(SAM),), files={"report.html": self.sam / "adapter_config.json"})
        self.metadata = json.loads(metadata.model_dump_json())
        self.result = json.loads(metadata.teachers[0].model_dump_json())
        self.layout = layout

    def copy(self, source: Path, folder: Path, file: str, content: bytes) -> Path:
        """The adapter with one file of other content."""
        copied = folder / source.name
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(source, copied)
        (copied / "result.json").unlink()
        (copied / file).write_bytes(content)
        return copied

    def json_of(self, file: Path, rng: random.Random) -> bytes:
        return json_of(json.loads(file.read_text()), rng)

    def kinds(self) -> list[Kind]:
        slow = 0.15
        loads = refused_by(BaseModelError, ConfigError, StorageError)

        def load(source: Path, file: str) -> Callable[[bytes, Path], str]:
            return loads(lambda content, folder: load_adapted(self.copy(source, folder, file, content)))

        @refused_by(BaseModelError, ConfigError, StorageError)
        def label(content: bytes, folder: Path) -> None:
            copied = self.copy(self.dino, folder, "result.json", content)
            load_labeller(copied)

        return [
            Kind(
                "adapter_config.json",
                partial(self.json_of, self.sam / "adapter_config.json"),
                load(self.sam, "adapter_config.json"),
                slow,
            ),
            Kind(
                "teacher.json", partial(self.json_of, self.dino / "teacher.json"), load(self.dino, "teacher.json"), slow
            ),
            Kind(
                "adapter_model.safetensors",
                lambda rng: tensors_of((self.sam / "adapter_model.safetensors").read_bytes(), rng),
                load(self.sam, "adapter_model.safetensors"),
                slow,
            ),
            Kind("result.json of an adapter", partial(self.json_of, self.dino / "result.json"), label, slow),
            Kind("metadata.json", lambda rng: json_of(self.metadata, rng), check_metadata),
            Kind("result.json of a run", lambda rng: json_of(self.result, rng), check_result),
        ]


def tensors_of(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a wrong header, wrong values or damaged bytes."""
    how = rng.randrange(3)
    size = int.from_bytes(content[:8], "little")
    if how == 0:
        return damaged(content[: 8 + size], rng) + content[8 + size :]
    if how == 1:
        header = written(mutated(json.loads(content[8 : 8 + size]), rng), rng)
        length = len(header) if rng.random() < 0.8 else rng.choice([0, 1, 2**31, 2**63, len(header) + 7])
        return length.to_bytes(8, "little") + header + content[8 + size :]
    tensors = safetensors.torch.load(content)
    for name in rng.sample(sorted(tensors), min(len(tensors), 3)):
        tensors[name] = rng.choice(
            [tensors[name] * float("nan"), tensors[name].half(), tensors[name].long(), tensors[name][:1].clone()]
        )
    return safetensors.torch.save(tensors)


@refused_by(StorageError)
def check_metadata(content: bytes, folder: Path) -> None:
    (folder / "metadata.json").write_bytes(content)
    read_metadata(RunLayout(str(folder)), Storage())


@refused_by(StorageError)
def check_result(content: bytes, folder: Path) -> None:
    layout = RunLayout(str(folder / "run"))
    Storage().write_bytes(f"{layout.teacher(SAM)}/result.json", content)
    read_result(layout, SAM, Storage())


@refused_by(StorageError)
def check_commit(content: bytes, folder: Path) -> None:
    Storage().write_bytes(str(folder / "attempts" / "run" / "commit.json"), content)
    Publication(str(folder), "run", storage=Storage())._commit()


@refused_by(DataError)
def check_predictions(content: bytes, folder: Path) -> None:
    (folder / "labels.json").write_bytes(content)
    for seen in load_predictions(str(folder / "labels.json"), storage=Storage()).seen.values():
        assert np.isfinite(seen.boxes_xyxy).all()
        assert np.isfinite(seen.scores).all()


def check_text(content: bytes, folder: Path) -> str:
    """What a process has left, or printed."""
    text = content.decode(errors="replace")
    return "used" if parse_outcome(text) or any(map(parse_line, text.splitlines()[:5])) else "refused"


def check_checkpoint(content: bytes, folder: Path) -> str:
    """A checkpoint is whole, or none, or of a later version."""
    path = folder / checkpoint_name(7)
    path.write_bytes(content)
    try:
        found = read_checkpoint(path)
    except StorageError:
        return "refused"
    assert found is None or isinstance(found.settings, dict)
    return "refused" if found is None else "used"


def sealed(content: bytes, rng: random.Random) -> bytes:
    """A checkpoint whose state is wrong under a right digest, as somebody would write it."""
    import hashlib

    tensors = safetensors.torch.load(content)
    size = int.from_bytes(content[:8], "little")
    state = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["state"])
    text = written(mutated(state, rng), rng).decode("utf-8", errors="replace")
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return safetensors.torch.save(tensors, metadata={"state": text, "sha256": digest.hexdigest()})


@refused_by(StorageError)
def check_detected(content: bytes, folder: Path) -> None:
    found = DetectedBoxes.read(content)
    assert all(boxes.shape[1:] == (4,) for boxes in found.train)


@refused_by(BaseModelError)
def check_vocabulary(content: bytes, folder: Path) -> None:
    Vocabulary.read(content).split("forklift")


def check_base(name: TeacherName, file: str) -> Callable[[bytes, Path], str]:
    """Load a base with one file of other content, and read of it what a plan does."""

    @refused_by(BaseModelError, ConfigError)
    def check(content: bytes, folder: Path) -> None:
        base = folder / name.slug
        shutil.rmtree(base, ignore_errors=True)
        shutil.copytree(TINY / name.slug, base)
        (base / file).write_bytes(content)
        settings = TINY_SETTINGS[name](base_model=str(base))
        find_base(settings, Storage())
        load_teacher(name, settings, classes=CLASSES, prompts={}, storage=Storage(), cache=folder / "cache")

    return check


def base_kinds() -> list[Kind]:
    """The files of base models."""
    files = {DINO: ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")}
    files[SAM] = files[SAM2] = ("config.json", "preprocessor_config.json")
    kinds = []
    for name, of_teacher in files.items():
        for file in of_teacher:
            right = (TINY / name.slug / file).read_bytes()
            make = partial(json_of, json.loads(right))
            kinds.append(Kind(f"{file} of {name}", make, check_base(name, file), 0.1))
    weights = (TINY / SAM.slug / "model.safetensors").read_bytes()
    kinds.append(Kind("model.safetensors", partial(tensors_of, weights), check_base(SAM, "model.safetensors"), 0.1))
    special = {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "pad_token": "[PAD]"}
    file = "special_tokens_map.json"
    kinds.append(Kind(file, partial(json_of, special), check_base(DINO, file), 0.1))
    return kinds


def all_kinds(folder: Path) -> list[Kind]:
    """Every kind; what they need is made in ``folder``."""
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 2)}
    saved = save_checkpoint(
        Checkpoint(
            Progress(step=7), {"val": metrics(0.5)}, {"base_revision": "a"}, tensors, {"a/exp_avg": torch.ones(6)}
        ),
        folder / "checkpoint",
    ).read_bytes()
    boxes = np.array([[0, 0, 5, 5], [1, 1, 3, 9]], np.float32)
    seen = Detections(boxes, np.ones(2, np.float32), np.zeros(2, np.int64))
    detected = DetectedBoxes.of([boxes, boxes[:1]], [seen]).content
    outcome = json.loads(Outcome().to_message())
    event = json.loads(Event(event="step", teacher="sam", step=3, loss=0.5).line())
    commit = json.loads(Commit(attempt="a", files={"x": "0" * 64}).model_dump_json())
    vocabulary = (TINY / DINO.slug / "tokenizer.json").read_bytes()

    def labels(rng: random.Random) -> bytes:
        coco = document(rng)
        for annotation in coco["annotations"]:
            annotation["score"] = 0.5
        return json_of(coco, rng)

    def texts(rng: random.Random) -> bytes:
        return json_of(rng.choice([outcome, event]), rng)

    yaml = refused_by(ConfigError)
    return [
        Kind(
            "image", lambda rng: damaged(an_image(rng), rng) if rng.random() < 0.95 else an_image(rng), check_image, 2
        ),
        Kind("values of COCO", lambda rng: written(mutated(document(rng), rng), rng), check_coco, 2),
        Kind("bytes of COCO", lambda rng: damaged(written(document(rng), rng), rng), check_coco, 2),
        *(Kind(name, partial(make_other, name), check_other) for name in sorted(set(map(format_of, formats.RIGHT)))),
        Kind("manifest", partial(make_yaml, lambda: MANIFEST), yaml(lambda c, f: load_manifest(c, where="m.yaml")), 2),
        Kind(
            "teacher_config.yaml", partial(make_yaml, plain_config), yaml(lambda c, f: from_yaml(c, where="c.yaml")), 2
        ),
        Kind("--set", make_set, check_set, 2),
        Kind("commit.json", lambda rng: json_of(copy.deepcopy(commit), rng), check_commit),
        Kind("outcomes and progress lines", texts, check_text),
        Kind("labels with scores", labels, check_predictions),
        Kind("bytes of a checkpoint", partial(tensors_of, saved), check_checkpoint),
        Kind("state of a checkpoint", partial(sealed, saved), check_checkpoint),
        Kind("detected boxes", partial(tensors_of, detected), check_detected),
        Kind("vocabulary", partial(damaged, vocabulary), check_vocabulary, 0.5),
        *Adapters(folder).kinds(),
        *base_kinds(),
    ]
