"""Journal of a labelling run: one stored object per finished chunk, next to the output, until all are finished.

    labels.json.parts/settings.json              settings that decide the labels; written first, deleted first
    labels.json.parts/00000000-<digest>.jsonl    one line per image; the digest covers key, ETag and size of the images

Each object is written atomically, in S3 and on disk: a run that was killed at any moment resumes after its last
finished chunk, on this machine or another. Existing labels stay until new labels replace them; they record their
settings and images.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from engine.errors import ConfigError, DataError, StorageError
from engine.labelling.image_stream import Listing
from engine.labelling.records import Assembly, Json, dumps
from engine.storage import NotFoundError, Storage, join

SETTINGS = "settings.json"
INFO = b'{"info":'
"""First bytes of a labels file."""

HEAD = 1 << 12
"""Number of leading bytes of a labels file that contain its ``info``."""

SKIPPED = b"# images that could not be read, and why\n"
"""First line of a list of skipped images: a file without it was not written by this module."""


class Journal:
    """The finished chunks of one output.

    Args:
        output: URI of the labels file.
        settings: Everything except the images that decides the labels.
        storage: Storage of the output.
    """

    def __init__(self, output: str, settings: Mapping[str, object], *, storage: Storage) -> None:
        self.output, self.storage = output, storage
        self.settings: Json = json.loads(dumps(settings))
        self.folder = f"{output.rstrip('/')}.parts"
        self.finished: set[str] = set()

    @property
    def digest(self) -> str:
        """Hash of the settings, which is stored in the labels."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def skipped_uri(self) -> str:
        """URI of the list of unreadable images."""
        return f"{self.output.removesuffix('.json')}.skipped.txt"

    def begin(self, listing: Listing, *, again: bool) -> bool:
        """Start or resume; return False if the labels are complete.

        Args:
            listing: The current images.
            again: Delete finished chunks; existing labels stay until they are replaced.

        Raises:
            ConfigError: Labels or finished chunks of other settings exist, or labels of other images, or the output
                is not a labels file.
        """
        if self.storage.exists(self.output) and "settings_sha256" not in self._info():
            raise ConfigError(
                f"{self.output} already exists and is not a labels file of this program: move it away, or give another "
                "--output (output=)"
            )
        if self._lists_skipped() is False:
            raise ConfigError(
                f"{self.skipped_uri} already exists and is not a list of skipped images, which would be written there: "
                "move it away, or give another --output (output=)"
            )
        if again:
            self.clear()
        before = self._settings_before()
        if before is None:
            if not again and self._is_done(listing):
                self.clear()
                return False
            self.clear()
            self.storage.write_bytes(join(self.folder, SETTINGS), dumps(self.settings) + b"\n")
        elif before != self.settings:
            differs = sorted(k for k in before.keys() | self.settings.keys() if before.get(k) != self.settings.get(k))
            raise ConfigError(
                f"{self.output} was begun with other settings ({', '.join(differs)}): use those settings to resume, "
                "give --again (again=True) to start over, or another --output (output=)"
            )
        self.finished = {item.key for item in self.storage.list(self.folder)} - {SETTINGS}
        return True

    def finish(self, name: str, lines: Iterable[bytes]) -> None:
        """Store a finished chunk."""
        self.storage.write_bytes(join(self.folder, name), b"".join(line + b"\n" for line in lines))
        self.finished.add(name)

    def assemble(self, listing: Listing, categories: Iterable[tuple[int, str]]) -> Assembly:
        """Write the labels from finished chunks, in the order of the listing, and delete the chunks.

        Neither images nor annotations are held in memory. The same chunks give the same bytes.

        Raises:
            DataError: No image could be read. Nothing is written or deleted.
        """
        assembly = Assembly()
        with tempfile.TemporaryDirectory(prefix="labels-") as temporary:
            whole, rest = Path(temporary, "labels.json"), Path(temporary, "annotations")
            with whole.open("wb") as file, rest.open("wb") as annotations:
                info = {
                    "description": "labels by adapted teachers",
                    "settings_sha256": self.digest,
                    "images_sha256": listing.digest,
                    "images_listed": listing.images,
                }
                ids = [{"id": number, "name": name} for number, name in categories]
                file.write(INFO + dumps(info) + b',"categories":' + dumps(ids) + b',"images":[')
                for name, size in zip(listing.names, listing.sizes, strict=True):
                    for image, found in self._lines(name, size, assembly):
                        if image is not None:
                            file.write((b",\n" if assembly.images > 1 else b"\n") + image)
                        for annotation in found:
                            annotations.write((b",\n" if annotations.tell() else b"\n") + annotation)
                file.write(b'\n],"annotations":[')
            skipped = [f"{one['file_name']}: {one['reason']}\n" for one in assembly.skipped]
            if not assembly.images:
                raise DataError(
                    f"none of the {listing.images:,} images in {self.settings['images']} can be read, such as "
                    f"{skipped[0].rstrip()}"
                )
            with whole.open("ab") as file, rest.open("rb") as annotations:
                while piece := annotations.read(1 << 20):
                    file.write(piece)
                file.write(b"\n]}\n")
            if skipped:
                self.storage.write_bytes(self.skipped_uri, SKIPPED + "".join(skipped).encode(errors="backslashreplace"))
            elif self._lists_skipped():
                self.storage.delete(self.skipped_uri)
            self.storage.upload(whole, self.output)
        self.clear()
        return assembly

    def _lines(self, name: str, size: int, assembly: Assembly) -> Iterator[tuple[bytes | None, Iterable[bytes]]]:
        """Yield the images and annotations of a finished chunk; delete a damaged chunk, so that a rerun relabels it."""
        uri = join(self.folder, name)
        lines = self.storage.read_bytes(uri).splitlines()
        try:
            if len(lines) != size:
                raise ValueError(f"{len(lines)} lines for {size} images")
            for line in lines:
                yield assembly.add(line)
        except (ValueError, LookupError, TypeError) as error:
            self.storage.delete(uri)
            raise StorageError(
                f"{uri} is damaged ({error}) and was deleted: run the same command again to label its images again"
            ) from None

    def clear(self) -> None:
        """Delete finished chunks, the settings first, so that no chunk is used with other settings."""
        self.storage.delete(join(self.folder, SETTINGS))
        for item in list(self.storage.list(self.folder)):
            self.storage.delete(item.uri)
        local = self.storage.local_path(self.folder)
        if local is not None and local.is_dir():
            shutil.rmtree(local)

    def _settings_before(self) -> Json | None:
        try:
            before: Json = json.loads(self.storage.read_bytes(join(self.folder, SETTINGS)))
        except NotFoundError:
            return None
        except ValueError:
            return {}
        return before

    def _is_done(self, listing: Listing) -> bool:
        """Test if the output contains the labels of exactly these settings and images.

        Raises:
            ConfigError: It contains something else.
        """
        if not self.storage.exists(self.output):
            return False
        info = self._info()
        if info.get("settings_sha256") != self.digest:
            raise ConfigError(
                f"{self.output} already exists, with labels of other settings: give --again (again=True) to "
                "replace it, or another --output (output=)"
            )
        if info.get("images_sha256") != listing.digest:
            raise ConfigError(
                f"{self.settings['images']} has changed since {self.output} was made, with {info.get('images_listed')} "
                f"images then and {listing.images} now: images were added, deleted or rewritten. Give --again "
                "(again=True) to label all of them and replace it, or another --output (output=)"
            )
        return True

    def _info(self) -> Json:
        """Return the ``info`` of the labels; empty if this module did not write the file."""
        with self.storage.open(self.output) as stream:
            head = stream.read(HEAD)
        try:
            info: Json = json.JSONDecoder().raw_decode(head.removeprefix(INFO).decode(errors="replace"))[0]
        except ValueError:
            return {}
        return info if head.startswith(INFO) and isinstance(info, dict) else {}

    def _lists_skipped(self) -> bool | None:
        """Test if the file at ``skipped_uri`` is a list of skipped images; None if it does not exist."""
        if not self.storage.exists(self.skipped_uri):
            return None
        with self.storage.open(self.skipped_uri) as stream:
            return stream.read(len(SKIPPED)) == SKIPPED
