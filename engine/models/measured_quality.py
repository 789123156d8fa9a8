"""Read thresholds, quality and category ids that a run has measured for its adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, FiniteFloat, ValidationError

from engine.dataset.types import DatasetInfo
from engine.errors import StorageError
from engine.layout import RESULT, RunLayout
from engine.spec import TeacherName
from engine.storage import NotFoundError, Storage, join, parent
from engine.storage.bounded_read import JSON_BYTES, read_bounded
from engine.text.plain_json import parse_json

POOR_F1 = 0.1
"""F1 below which labels of a class are mostly wrong."""


class _Quality(BaseModel):
    f1: FiniteFloat


class _Ap(BaseModel):
    ap: FiniteFloat


class _File(BaseModel):
    sha256: str


class MeasuredQuality(BaseModel):
    """The fields needed from an adapter's ``result.json``, of any version."""

    adapter: _File | None = None
    thresholds: dict[str, FiniteFloat] = {}
    quality: dict[str, _Quality] = {}
    before: _Ap | None = None
    after: _Ap | None = None
    strength: FiniteFloat = 1.0

    def remarks(self, teacher: TeacherName) -> Iterator[str]:
        """Yield warnings about labels of this adapter."""
        if self.strength == 0:
            yield f"the adapter of {teacher} has strength 0, as none was better than the base: labels are the base's"
        elif self.before is not None and self.after is not None and self.after.ap < self.before.ap:
            yield (
                f"the adapter of {teacher} is worse than its base (AP {self.before.ap:.3f} -> {self.after.ap:.3f}): "
                "train it longer or on more images before you trust its labels"
            )
        poor = {name: one.f1 for name, one in self.quality.items() if 0 <= one.f1 < POOR_F1}
        if poor and not teacher.traits.needs_masks:
            named = ", ".join(f"{name} ({f1:.2f})" for name, f1 in sorted(poor.items(), key=lambda item: item[1])[:10])
            yield f"classes that are hardly found, so that most of their labels are wrong, with their F1: {named}"


def read_measured(adapter: str, storage: Storage) -> MeasuredQuality:
    """Read the metrics of the run; empty if it has none."""
    uri = join(adapter, RESULT)
    try:
        content = read_bounded(storage, uri, limit=JSON_BYTES)
    except NotFoundError:
        return MeasuredQuality()
    try:
        return parse_json(MeasuredQuality, content, where=uri, error=StorageError)
    except StorageError as error:
        raise StorageError(f"{uri} cannot be read: {error}. Fetch the run again, or give a threshold") from None


def read_category_ids(adapter: str, classes: Sequence[str], storage: Storage) -> tuple[int, ...]:
    """Return the dataset's own category ids if the adapter is still in its run's folder; else counted from 1."""
    uri = RunLayout(parent(parent(adapter))).dataset
    try:
        known = {
            one.name: one.id
            for one in DatasetInfo.model_validate_json(read_bounded(storage, uri, limit=JSON_BYTES)).classes
        }
    except (NotFoundError, ValidationError):
        known = {}
    ids = tuple(known.get(name, 0) for name in classes)
    return ids if all(name in known for name in classes) else tuple(range(1, len(classes) + 1))
