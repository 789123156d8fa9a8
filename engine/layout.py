"""Names of the files of a run, in object storage under ``<output>/<name>/<run id>/`` and in a trainer's folder::

    teacher_config.yaml  dataset.json  metrics.json  report.html  logs/<teacher>/  metadata.json
    students/<student>/        student.json, a transformers folder, and the files of a teacher from README.md on
    teachers/<teacher>_lora/   adapter_config.json  adapter_model.safetensors  teacher.json  README.md
                               result.json  samples.json  samples/  splits.json  validation/
                               last/   checkpoint-<step>.safetensors  detected-<sha256>.safetensors  best/
                                       trial-<number>/  fold-<number>/  final/   checkpoints of several trainings
    artifacts/<student>/       exported files of a student: model.onnx …, detect.py, artifacts.json
    attempts/                  commits of the publishing attempts: :mod:`engine.storage.publication`

Each teacher's ``result.json`` is written after all else of that teacher; ``metadata.json`` after all else of the
run: a run without it is not published, and a reader never sees half of one. No pickle is written or read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from engine.registry import ModelName, StudentName
from engine.text.uris import join

# Of the whole run
CONFIG = "teacher_config.yaml"
DATASET = "dataset.json"
METRICS = "metrics.json"
REPORT = "report.html"
METADATA = "metadata.json"
LOGS = "logs"
TEACHERS = "teachers"
STUDENTS = "students"
ARTIFACTS = "artifacts"

# In a teacher's folder
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CARD = "teacher.json"
STUDENT_CARD = "student.json"
ARTIFACT_RESULTS = "artifacts.json"
README = "README.md"
RESULT = "result.json"
SAMPLES = "samples.json"
SAMPLE_IMAGES = "samples"
SPLITS = "splits.json"
VALIDATION_PAGES = "validation"
LAST = "last"
"""Folder of the checkpoints; it is not part of what is published."""

# In the folder of the checkpoints
TRIAL, FOLD, FINAL = "trial-{}", "fold-{}", "final"
"""Folders of the checkpoints of each trial of a sweep, of each fold, and of the last training of a cross-validation.
Numbers begin at 1."""

BEST = "best"
"""Folder of the best adapter of a run that failed for good."""

DETECTED_BOXES = "detected-{}.safetensors"
"""Boxes that prompt SAM, by the sha256 of the file."""

CHECKPOINT = re.compile(r"checkpoint-(\d{8,})\.safetensors")

# Below the run's folder, while attempts publish
ATTEMPTS = "attempts"
COMMIT = "commit.json"
WITHDRAWN = "withdrawn"
ELECTION = "election-{}"
PROPOSAL = "proposal-{}.json"


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint of a step."""
    return f"checkpoint-{step:08d}.safetensors"


def checkpoint_step(name: str) -> int | None:
    """Return the step of a checkpoint from its file name; None for any other file."""
    found = CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None


def sample_image(index: int) -> str:
    """Return the file name of an example image by its index in the validation split."""
    return f"{index:06d}.jpg"


def validation_page(number: int) -> str:
    """Return the file name of a page of validation images; the first is 1."""
    return f"page-{number:03d}.html"


def adapter_folder(teacher: ModelName) -> str:
    """Return the path of a teacher's adapter, or of a student, relative to the run's folder."""
    if isinstance(teacher, StudentName):
        return f"{STUDENTS}/{teacher.slug}"
    return f"{TEACHERS}/{teacher.slug}_lora"


def model_folders(uri: str, kind: type[ModelName]) -> tuple[str, ...]:
    """Return where a model may be, if ``uri`` is its own folder or that of its run."""
    return (uri, *(RunLayout(uri).teacher(name) for name in kind))


class RunIdentity(Protocol):
    """The settings that determine the folder of a run; a :class:`engine.config.RunConfig` has them."""

    @property
    def output(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def run_id(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class RunLayout:
    """URIs of the files of one run; ``root`` is a URI or a local folder."""

    root: str

    @classmethod
    def of(cls, run: RunIdentity) -> RunLayout:
        """Return the layout below the run's output."""
        return cls(join(run.output, run.name, run.run_id))

    @property
    def config(self) -> str:
        """The resolved configuration, a :class:`engine.config.RunConfig`."""
        return join(self.root, CONFIG)

    @property
    def dataset(self) -> str:
        """The result of inspection, a :class:`engine.dataset.DatasetInfo`."""
        return join(self.root, DATASET)

    @property
    def metrics(self) -> str:
        """Results of all teachers, a :class:`engine.results.run_files.RunMetrics`."""
        return join(self.root, METRICS)

    @property
    def report(self) -> str:
        """One page for people."""
        return join(self.root, REPORT)

    @property
    def metadata(self) -> str:
        """Written last: a :class:`engine.results.run_files.RunMetadata`."""
        return join(self.root, METADATA)

    def logs(self, teacher: ModelName) -> str:
        """TensorBoard's folder of one teacher."""
        return join(self.root, LOGS, teacher.slug)

    def teacher(self, teacher: ModelName) -> str:
        """Folder of one teacher's adapter, as for :func:`engine.teachers.load_adapted`, or of a student."""
        return join(self.root, adapter_folder(teacher))

    def artifacts(self, student: ModelName) -> str:
        """Folder of the exported files of a student."""
        return join(self.root, ARTIFACTS, student.slug)

    def result(self, teacher: ModelName) -> str:
        """Result of one teacher, a :class:`engine.results.types.TeacherResult`."""
        return join(self.teacher(teacher), RESULT)
