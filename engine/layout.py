"""Artifacts of a run in object storage, under ``<output>/<name>/<run id>/``::

    teacher_config.yaml  dataset.json  metrics.json  report.html  logs/<teacher>/  metadata.json
    teachers/<teacher>_lora/   adapter_config.json  adapter_model.safetensors  teacher.json  README.md
                               result.json  samples.json  samples/  validation/  last/
    attempts/                  commits of the publishing attempts: :mod:`engine.storage.publication`

Each teacher's ``result.json`` is written after all else of that teacher; ``metadata.json`` after all else of the
run: a run without it is not published, and a reader never sees half of one. No pickle is written or read.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import Field, ValidationError

from engine.config import RunConfig
from engine.errors import ConfigError, StorageError
from engine.results.card_snippets import FROM_ORIGINAL, is_original, plain_snippet
from engine.results.no_gain import warning
from engine.results.types import Result, TeacherResult
from engine.spec import TeacherName
from engine.storage import NotFoundError, Storage, join, safe_join
from engine.storage.bounded_read import JSON_BYTES, read_bounded
from engine.storage.checked_fetch import fetch_checked
from engine.storage.publication import Publication, sha256_of
from engine.text.format_version import FORMAT_VERSION, refuse_newer

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
CARD = "README.md"
RESULT = "result.json"
SAMPLES = "samples.json"
SPLITS = "splits.json"
VALIDATION_PAGES = "validation"
LAST = "last"
METADATA = "metadata.json"

R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class RunLayout:
    """URIs of the artifacts of one run; ``root`` is a URI or a local folder."""

    root: str

    @classmethod
    def of(cls, config: RunConfig) -> RunLayout:
        """Return the layout below the configuration's output."""
        return cls(join(config.output, config.name, config.run_id))

    @property
    def config(self) -> str:
        """``teacher_config.yaml``."""
        return join(self.root, "teacher_config.yaml")

    @property
    def dataset(self) -> str:
        """``dataset.json``: the result of inspection, a :class:`engine.dataset.DatasetInfo`."""
        return join(self.root, "dataset.json")

    @property
    def metrics(self) -> str:
        """Results of all teachers, as in :class:`RunMetrics`."""
        return join(self.root, "metrics.json")

    @property
    def report(self) -> str:
        """One page for people."""
        return join(self.root, "report.html")

    @property
    def metadata(self) -> str:
        """Written last: a :class:`RunMetadata`."""
        return join(self.root, METADATA)

    def publication(self, teacher: TeacherName | None = None, *, storage: Storage) -> Publication:
        """Return the publication of one teacher, or of the files of the whole run: once, by one attempt."""
        return Publication(self.root, "run" if teacher is None else teacher.slug, storage=storage)

    def logs(self, teacher: TeacherName) -> str:
        """TensorBoard's folder of one teacher."""
        return join(self.root, "logs", teacher.slug)

    def teacher(self, teacher: TeacherName) -> str:
        """Folder of one teacher's adapter, as for :func:`engine.teachers.load_adapted`."""
        return join(self.root, "teachers", f"{teacher.slug}_lora")


class RunMetrics(Result):
    """``metrics.json``: the results of every teacher."""

    name: str
    run_id: str
    teachers: tuple[TeacherResult, ...]


class FileEntry(Result):
    """One published file."""

    path: str = Field(description="Relative to the run's folder.")
    sha256: str
    size_bytes: int


class RunMetadata(Result):
    """``metadata.json``: the published files, their data and their environment."""

    format_version: int = FORMAT_VERSION
    name: str
    run_id: str
    created: str = Field(description="UTC, ISO 8601.")
    data_digest: str
    classes: tuple[str, ...] = Field(description="In the order of the prompt.")
    seed: int
    environment: dict[str, str] = Field(description="Versions and hardware.")
    teachers: tuple[TeacherResult, ...]
    files: tuple[FileEntry, ...] = Field(description="Every file of the run but this one and what resuming needs.")


def model_card(result: TeacherResult, config: RunConfig, *, versions: Mapping[str, str]) -> str:
    """Return ``README.md`` of an adapter: origin, metrics, and code to load it."""
    settings = config.teachers.of(result.teacher)
    assert settings is not None  # noqa: S101 - a result is of a teacher that was configured
    title = {TeacherName.GROUNDING_DINO: "Grounding DINO", TeacherName.SAM: "SAM"}[result.teacher]
    revision = result.base_revision or "unknown"
    rows = [
        ("AP", result.before.ap, result.after.ap),
        ("AP50", result.before.ap50, result.after.ap50),
        ("AP75", result.before.ap75, result.after.ap75),
    ]
    if result.before.miou is not None and result.after.miou is not None:
        rows.append(("mean IoU from true boxes", result.before.miou, result.after.miou))
    if result.from_detector_before is not None and result.from_detector_after is not None:
        rows.append(("AP from Grounding DINO's boxes", result.from_detector_before.ap, result.from_detector_after.ap))
    if result.retention is not None:
        rows.append(("AP on other things", result.retention.base.ap, result.retention.adapted.ap))
    lora = settings.lora
    return "\n".join(
        [
            "---",
            "library_name: peft",
            f"base_model: {_yaml_text(result.base_model)}",
            "tags: [lora, " + result.teacher.slug.replace("_", "-") + "]",
            "---",
            "",
            f"# {title} adapted to {_cell(config.name)}",
            "",
            f"A LoRA adapter (preset `{lora.preset.value}`, rank {lora.rank}, alpha {lora.alpha}, "
            f"{result.trainable_parameters:,} parameters) for {_code(result.base_model)} at revision "
            f"{_code(revision)}.",
            "",
            *([f"**Note: {_cell(said)}.**", ""] if (said := warning(result)) is not None else []),
            "With transformers and PEFT alone:",
            "",
            "```python",
            *plain_snippet(result).splitlines(),
            "```",
            "",
            *([FROM_ORIGINAL, ""] if is_original(result.base_model) else []),
            "With teacher-finetune, which also asks for more classes than one caption holds:",
            "",
            "```python",
            *LOADING_LINES.format(uri=result.adapter.uri.removesuffix(f"/{ADAPTER}")).splitlines(),
            "```",
            "",
            "| on the validation part | base | adapted |",
            "| --- | --- | --- |",
            *(f"| {label} | {before:.3f} | {after:.3f} |" for label, before, after in rows),
            "",
            "| | |",
            "| --- | --- |",
            f"| classes, in the order of the prompt | {', '.join(map(_cell, config.data.classes))} |",
            f"| score thresholds | {', '.join(f'{_cell(name)} {at:.3f}' for name, at in result.thresholds.items())} |",
            f"| what is left of the base's skill on other things | {_left(result)} |",
            f"| annotations (sha256) | `{config.data.digest}` |",
            f"| adapter (sha256) | `{result.adapter.sha256}` |",
            f"| best epoch, epochs made | {result.best_epoch:g}, {result.epochs:g} |",
            f"| seed | {config.training.seed} |",
            *(f"| {name} | {version} |" for name, version in versions.items()),
            "",
        ]
    )


def _cell(text: str) -> str:
    r"""Escape untrusted text for a cell of a Markdown table.

    >>> _cell("a|b <script>\n")
    'a\\|b &lt;script&gt; '
    """
    safe = "".join(character if character.isprintable() else " " for character in html.escape(text, quote=False))
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", safe)


def _code(text: str) -> str:
    r"""Quote untrusted text as inline code of Markdown; its backticks do not end the code.

    >>> _code("a`b``"), _code("model")
    ('``` a`b`` ```', '`model`')
    """
    safe = "".join(character if character.isprintable() else " " for character in text)
    runs = [len(run) for run in re.findall("`+", safe)]
    if not runs:
        return f"`{safe}`"
    fence = "`" * (max(runs) + 1)
    return f"{fence} {safe} {fence}"


def _yaml_text(text: str) -> str:
    r"""Quote untrusted text as a YAML value in one line.

    >>> _yaml_text('a"\nb: c')
    '"a\\"\\nb: c"'
    """
    return yaml.safe_dump(text, default_style='"', width=math.inf).strip()


def _left(result: TeacherResult) -> str:
    if result.retention is None or result.retention.share < 0:
        return "not measured"
    return f"{result.retention.share:.0%} of its AP for {len(result.retention.prompts)} prompts"


LOADING_LINES = """\
from engine.teachers import load_adapted
teacher = load_adapted({uri!r})
detections = teacher.predict(samples)  # engine.dataset.Sample.of(image) of an RGB array; for SAM, of(image, boxes_xyxy)
"""
"""Three lines that load an adapter, for the model card and the report."""


def run_metrics(config: RunConfig, results: Sequence[TeacherResult]) -> RunMetrics:
    """The content of ``metrics.json``."""
    return RunMetrics(name=config.name, run_id=config.run_id, teachers=tuple(results))


def read_metadata(layout: RunLayout, storage: Storage) -> RunMetadata:
    """Return ``metadata.json`` of a run.

    Raises:
        StorageError: The file does not exist, or was not written by this version.
    """
    return _read(RunMetadata, layout.metadata, storage)


def read_result(layout: RunLayout, teacher: TeacherName, storage: Storage) -> TeacherResult | None:
    """Return the result of a published teacher, else None.

    Raises:
        StorageError: The file was not written by this version.
    """
    uri = join(layout.teacher(teacher), RESULT)
    return _read(TeacherResult, uri, storage) if storage.exists(uri) else None


def _read(kind: type[R], uri: str, storage: Storage) -> R:
    content = read_bounded(storage, uri, limit=JSON_BYTES)
    refuse_newer(content, where=uri, error=StorageError)
    try:
        return kind.model_validate_json(content)
    except ValidationError:
        raise StorageError(
            f"{uri} was not written by this version of teacher: read it with the version that wrote it, "
            "or train into another output"
        ) from None


def fetch_run(layout: RunLayout, folder: Path, *, storage: Storage, overwrite: bool = False) -> list[Path]:
    """Download a published run into ``folder``, checking every file against its sha256.

    After any failure the folder is unchanged: files are replaced only when all are fetched and verified.

    Args:
        layout: Layout of the run.
        folder: Target folder. Files of this run that it holds already are not fetched again.
        storage: Access to the run.
        overwrite: Replace files of another run, or other files.

    Returns:
        The adapter folders, one per teacher.

    Raises:
        ConfigError: Other files in the folder would be overwritten, or a link in it points outside.
        StorageError: The run is not published, or a file differs from the published one.
    """
    try:
        metadata = read_metadata(layout, storage)
    except NotFoundError:
        raise StorageError(
            f"{layout.root} is not a published run: it has no metadata.json. Give <output>/<name>/<run id>/ of a run "
            "that has ended, as `teacher run` prints it"
        ) from None
    digests = {entry.path: entry.sha256 for entry in metadata.files}
    if not overwrite:
        _refuse_others(metadata, folder)
    seal = METADATA, metadata.model_dump_json(indent=2).encode()
    fetch_checked(layout.root, digests, folder, seal=seal, storage=storage)
    return [folder / "teachers" / f"{result.teacher.slug}_lora" for result in metadata.teachers]


def _refuse_others(metadata: RunMetadata, folder: Path) -> None:
    """Raise ConfigError unless the folder holds at most an earlier fetch of this run, perhaps interrupted."""
    advice = "fetch into another folder, or give --overwrite"
    there = folder / METADATA
    if there.is_file():
        content = there.read_bytes()
        refuse_newer(content, where=str(there), error=ConfigError)
        try:
            run_id = RunMetadata.model_validate_json(content).run_id
        except ValidationError:
            run_id = "another version's or program's"
        if run_id != metadata.run_id:
            raise ConfigError(f"{folder} holds another run already ({run_id}, not {metadata.run_id}): {advice}")
        return
    for entry in metadata.files:
        path = safe_join(folder, entry.path)
        if path.is_file() and sha256_of(path) != entry.sha256:
            raise ConfigError(f"{path} exists already, and is not a file of this run: {advice}")
