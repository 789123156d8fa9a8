"""Images and classes of a COCO file, as far as they have been read."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.dataset.checks.problems import ProblemLog
from engine.dataset.coco_records import RawCategory
from engine.dataset.id_index import IdIndex
from engine.dataset.images.table import ImageTable
from engine.dataset.types import ImageId

LEFT_OUT = -2
"""Image index of an image that is listed but cannot be used."""


@dataclass
class Header:
    """Images and classes of one file, as far as they are known.

    Attributes:
        images: The usable images, in file order.
        image_index: From image id to index in ``images``, or LEFT_OUT.
        class_ids: Category ids in the order of their first use by an annotation.
        class_index: From category id to position in ``class_ids``.
        categories: From category id to category.
        repeats: Number of images whose file belongs to an earlier image too.
    """

    images: ImageTable = field(default_factory=ImageTable)
    image_index: IdIndex = field(default_factory=IdIndex)
    class_ids: list[ImageId] = field(default_factory=list)
    class_index: dict[ImageId | None, int] = field(default_factory=dict)
    categories: dict[ImageId, RawCategory] = field(default_factory=dict)
    repeats: int = 0

    def class_names(self, log: ProblemLog) -> list[str]:
        """Return the name of each class of ``class_ids``, without surrounding spaces; missing names are replaced."""
        names: list[str] = []
        for class_id in self.class_ids:
            name = self.categories[class_id].name
            # "replace": a lone surrogate, which JSON allows, cannot be encoded.
            tidy = (name or "").encode("utf-8", errors="replace").decode("utf-8").strip()
            if not tidy:
                log.add("unnamed_class", [class_id])
                tidy = f"class {class_id}"
            elif tidy != name:
                log.add("untidy_class_name", [name])
            names.append(tidy)
        return names


class GrowingClassIndex(dict[ImageId | None, int]):
    """Class indices in the order of first use: the categories are usually at the end of the file."""

    def __init__(self, header: Header) -> None:
        super().__init__(header.class_index)
        self._ids = header.class_ids

    def get(self, key: ImageId | None, default: int = -1) -> int:  # type: ignore[override]
        """Return the index of a category id, a new one at its first use."""
        if key is None:
            return default
        if key not in self:
            self[key] = len(self._ids)
            self._ids.append(key)
        return self[key]
