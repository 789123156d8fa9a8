"""Pictures of what was labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.dataset.types import Detections
from engine.evaluation.drawing import draw
from engine.storage import Storage, join


@dataclass(frozen=True)
class Overlays:
    """Where pictures go, and how many.

    Attributes:
        folder: Path or ``s3://``.
        count: At most; they are spread evenly over all images.
    """

    folder: str
    count: int = 20

    def shows(self, position: int, total: int) -> bool:
        """Whether the image at a position in the listing is drawn.

        >>> [i for i in range(10) if Overlays("", 3).shows(i, 10)]
        [0, 4, 7]
        """
        return position == 0 or position * self.count // total != (position - 1) * self.count // total

    def write(
        self, key: str, image: NDArray[np.uint8], seen: Detections, classes: Sequence[str], *, storage: Storage
    ) -> None:
        """Draw an image and keep it as JPEG, called after its key."""
        file = BytesIO()
        Image.fromarray(draw(image, seen, classes)).save(file, "JPEG", quality=90)
        storage.write_bytes(join(self.folder, f"{key.replace('/', '__')}.jpg"), file.getvalue())
