"""What of a folder is labelled already: an object for each finished chunk, beside the labels, until they are whole.

    labels.json.parts/settings.json              what the labels depend on; first to come and first to go
    labels.json.parts/00000000-<digest>.jsonl    a line an image; the name tells which images, as they were listed

Each object is written at once or not at all, in S3 as on disk: work that was killed at any moment goes on after the
last chunk that was finished, on this machine or another.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.errors import ConfigError
from engine.labelling.records import Assembly, Json, dumps
from engine.storage import NotFoundError, Storage, join

SETTINGS = "settings.json"
HEAD = 1 << 12
"""Bytes at the beginning of the labels in which their digest stands."""


class Journal:
    """The finished chunks of one output.

    Args:
        output: The labels' URI.
        settings: All that the labels depend on besides the images.
        storage: How the output is reached.
    """

    def __init__(self, output: str, settings: Mapping[str, object], *, storage: Storage) -> None:
        self.output, self.storage = output, storage
        self.settings: Json = json.loads(dumps(settings))
        self.folder = f"{output.rstrip('/')}.parts"
        self.finished: set[str] = set()

    @property
    def digest(self) -> str:
        """Of the settings; it stands in the labels."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def skipped_uri(self) -> str:
        """Where unreadable images are listed."""
        return f"{self.output.removesuffix('.json')}.skipped.txt"

    def begin(self, *, again: bool) -> bool:
        """Take up the work where it was left; False if it is done.

        Raises:
            ConfigError: There are labels, or finished chunks, of other settings.
        """
        if again:
            self.clear()
            self.storage.delete(self.output)
        before = self._settings_before()
        if before is None:
            if self._is_done():
                self.clear()
                return False
            self.clear()
            self.storage.write_bytes(join(self.folder, SETTINGS), dumps(self.settings) + b"\n")
        elif before != self.settings:
            differs = sorted(k for k in before.keys() | self.settings.keys() if before.get(k) != self.settings.get(k))
            raise ConfigError(
                f"{self.output} was begun with other settings ({', '.join(differs)}): go on with those, give --again "
                "to begin anew, or another --output"
            )
        self.finished = {item.key for item in self.storage.list(self.folder)} - {SETTINGS}
        return True

    def finish(self, name: str, lines: Iterable[bytes]) -> None:
        """Keep a finished chunk."""
        self.storage.write_bytes(join(self.folder, name), b"".join(line + b"\n" for line in lines))
        self.finished.add(name)

    def assemble(self, names: Iterable[str], categories: Iterable[tuple[int, str]]) -> Assembly:
        """Write the labels from finished chunks, in the order of ``names``, and forget the chunks.

        Neither images nor annotations are held in memory. The same chunks give the same bytes.
        """
        assembly = Assembly()
        with tempfile.TemporaryDirectory(prefix="labels-") as temporary:
            whole, rest = Path(temporary, "labels.json"), Path(temporary, "annotations")
            with whole.open("wb") as file, rest.open("wb") as annotations:
                info = {"description": "labels by adapted teachers", "settings_sha256": self.digest}
                ids = [{"id": number, "name": name} for number, name in categories]
                file.write(b'{"info":' + dumps(info) + b',"categories":' + dumps(ids) + b',"images":[')
                for name in names:
                    for line in self.storage.read_bytes(join(self.folder, name)).splitlines():
                        image, found = assembly.add(line)
                        if image is not None:
                            file.write((b",\n" if assembly.images > 1 else b"\n") + image)
                        for annotation in found:
                            annotations.write((b",\n" if annotations.tell() else b"\n") + annotation)
                file.write(b'\n],"annotations":[')
            with whole.open("ab") as file, rest.open("rb") as annotations:
                while piece := annotations.read(1 << 20):
                    file.write(piece)
                file.write(b"\n]}\n")
            skipped = "".join(f"{one['file_name']}: {one['reason']}\n" for one in assembly.skipped)
            if skipped:
                self.storage.write_bytes(self.skipped_uri, skipped.encode(errors="backslashreplace"))
            else:
                self.storage.delete(self.skipped_uri)
            self.storage.upload(whole, self.output)
        self.clear()
        return assembly

    def clear(self) -> None:
        """Forget finished chunks: first what they are of, so that none is ever taken for one of another work."""
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

    def _is_done(self) -> bool:
        """Whether the output holds the labels of these very settings.

        Raises:
            ConfigError: It holds something else.
        """
        if not self.storage.exists(self.output):
            return False
        with self.storage.open(self.output) as stream:
            if self.digest.encode() in stream.read(HEAD):
                return True
        raise ConfigError(
            f"{self.output} is there already, with labels of other settings: give --again to replace it, or another "
            "--output"
        )
