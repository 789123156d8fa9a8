"""Match classes of a dataset and an adapter by name: report unmatched ones, and refuse data without a match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.dataset.types import CocoDataset
from engine.errors import DataError
from engine.text.safe_text import listed


@dataclass(frozen=True)
class ClassMatch:
    """Result of matching the classes of a dataset by name with those of another side.

    Attributes:
        unknown: Number of objects per class that the other side does not have: they are left out.
        absent: Classes of the other side without an object in the dataset.
        objects: Number of all objects of the dataset.
        side: Name of the other side in messages, such as "the adapter".
    """

    unknown: dict[str, int]
    absent: tuple[str, ...]
    objects: int
    side: str

    def sentences(self) -> Iterator[str]:
        """Return sentences about what the result leaves out."""
        if self.unknown:
            lost = sum(self.unknown.values())
            names = [f"{name} ({count:,})" for name, count in self.unknown.items()]
            yield (
                f"{lost:,} of {self.objects:,} objects are of classes that {self.side} does not have; they are left "
                f"out: {listed(names)}"
            )
        if self.absent:
            yield f"no object of the data is of these classes of {self.side}: {listed(self.absent)}"


def match_classes(dataset: CocoDataset, classes: Sequence[str], *, side: str) -> ClassMatch:
    """Compare the classes of a dataset with those of another side, such as an adapter.

    Args:
        dataset: The dataset with its own classes.
        classes: Class names of the other side.
        side: Name of the other side in messages.

    Raises:
        DataError: The dataset has objects, and no object's class exists on the other side.
    """
    counts = Counter(found.class_index for objects in dataset.annotations for found in objects)
    by_name = {name: counts[index] for index, name in enumerate(dataset.classes) if counts[index]}
    unknown = {name: count for name, count in by_name.items() if name not in classes}
    if by_name and len(unknown) == len(by_name):
        raise DataError(
            f"the data has objects of {listed(by_name)}, and {side} knows {listed(classes)}: no class has the same "
            f"name{_same_but_for_case(by_name, classes)}. Give data of these classes, or rename them"
        )
    return ClassMatch(
        unknown=unknown,
        absent=tuple(name for name in classes if name not in by_name),
        objects=sum(by_name.values()),
        side=side,
    )


def _same_but_for_case(names: Iterable[str], classes: Sequence[str]) -> str:
    folded = {one.casefold().strip(): one for one in classes}
    alike = [f"{name} and {folded[key]}" for name in names if (key := name.casefold().strip()) in folded]
    return f" ({listed(alike)} differ in upper and lower case)" if alike else ""
