"""Draw detections over some of the labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.dataset.types import Detections
from engine.errors import ConfigError
from engine.evaluation.drawing import draw_readable
from engine.storage import Storage, join


@dataclass(frozen=True)
class Overlays:
    """Folder and number of drawn images.

    Attributes:
        folder: Path or ``s3://``.
        count: Maximum number, spread evenly over all images.
    """

    folder: str
    count: int = 20

    def shows(self, position: int, total: int) -> bool:
        """Test if the image at a position in the listing is drawn.

        >>> [i for i in range(10) if Overlays("", 3).shows(i, 10)]
        [0, 4, 7]
        """
        return position == 0 or position * self.count // total != (position - 1) * self.count // total

    def refuse_inside(self, images: str, storage: Storage) -> None:
        """Check that the output folder is not inside the folder of images, for all spellings of both paths.

        Raises:
            ConfigError: It is inside: the next call would label the drawn images.
        """
        inner, outer = storage.local_path(self.folder), storage.local_path(images)
        if inner is None or outer is None:
            inside = f"{join(self.folder)}/".startswith(f"{join(images)}/")
        else:
            inside = inner.resolve().is_relative_to(outer.resolve())
        if inside:
            raise ConfigError(
                f"{self.folder} is inside {images}: drawn images there would be labelled, choose another folder"
            )

    def write(
        self, key: str, image: NDArray[np.uint8], seen: Detections, classes: Sequence[str], *, storage: Storage
    ) -> None:
        """Draw an image without its unsure labels, and store it as JPEG, named after its key."""
        file = BytesIO()
        sure = seen if seen.unsure is None else seen.select(np.flatnonzero(~seen.unsure))
        Image.fromarray(draw_readable(image, sure, classes)).save(file, "JPEG", quality=90)
        storage.write_bytes(join(self.folder, f"{key.replace('/', '__')}.jpg"), file.getvalue())
