"""Match the ``file_name`` of COCO entries to existing files, and resolve entries that match the same file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

FEW = 16
"""Maximum number of paths with the same last part to compare one by one."""

EXACT = 1 << 20
"""Strength of a name equal to the path of the file."""

WHOLE = 1 << 10
"""Minimum strength if the name ends with the whole path of the file, or the path with the whole name."""

UNUSUAL = re.compile(r"[\\%?:]|\.\.|//|^\./|/\./|[^\x00-\x7f]")
"""Pattern of names that are more than a plain path."""

JUNK = frozenset(
    {
        "__macosx",
        ".ds_store",
        ".appledouble",
        ".spotlight-v100",
        ".trashes",
        ".fseventsd",
        ".ipynb_checkpoints",
        "@eadir",
        "$recycle.bin",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)
"""Files and folders, in lower case, that desktops, archive tools and notebooks create."""


def is_junk(key: str) -> bool:
    """Test whether a desktop or archive tool created the file: ``._a.jpg``, ``__MACOSX/a.jpg``, ``Thumbs.db``.

    >>> is_junk("__MACOSX/images/a.jpg"), is_junk("images/._a.jpg"), is_junk("images/a.jpg")
    (True, True, False)
    """
    return any(part.startswith("._") or part.lower() in JUNK for part in key.split("/"))


class Match(NamedTuple):
    """The file that a name refers to.

    Attributes:
        key: Path of the file, relative to the image folder.
        strength: Certainty of the match: ``EXACT``; ``WHOLE`` plus the number of common parts if one path ends with the
            other; or the number of common parts, for a URL or an absolute path.
    """

    key: str
    strength: int


class FileNames:
    """Find the existing file that a ``file_name`` refers to.

    Tools write names relative to a folder of their own, with backslashes, URL-quoted, or as a path on their server.
    A name refers to the file of exactly that name; else to the only file whose path ends with the name, or that the
    name ends with (``images/a.jpg`` is ``a.jpg``); else, for URLs, absolute paths and names that lead out of the
    folder,
    to the only file with the same last part. ``day/1.jpg`` never matches ``night/1.jpg``. Accented letters match
    whether composed (NFC) or decomposed (NFD, as on macOS).

    A single name cannot show that another entry refers to the same file: see :func:`rejected`.

    Args:
        keys: Paths of the files, relative to their folder.
        same: Links among ``keys``, with the path of their target: both count as one file.
    """

    def __init__(self, keys: Iterable[str], same: Mapping[str, str] | None = None) -> None:
        self.same = same or {}
        self.keys = frozenset(key for key in keys if key not in self.same)
        self._same_end: dict[str, list[str]] = {}
        self._ends: dict[str, _Ends] = {}
        self._nearest: dict[tuple[str, ...], Match | None] = {}
        self._composed: dict[str, str | None] | None = None

    def find(self, file_name: str) -> str | None:
        """Return the key of the file; None if there is none or the name is ambiguous."""
        match = self.match(file_name)
        return None if match is None else match.key

    def match(self, file_name: str) -> Match | None:
        """Return the file and the strength of the match; None if there is none or the name is ambiguous."""
        if file_name in self.keys:
            return Match(file_name, EXACT)
        if not UNUSUAL.search(file_name):
            key = self.same.get(file_name)
            return self._by_end(file_name) if key is None else Match(key, EXACT)
        key = self._exact(file_name) or self._exact(tidied(file_name))
        if key is not None:
            return Match(key, EXACT)
        for candidate in dict.fromkeys(_readings(file_name.replace("\\", "/"))):
            tidy = tidied(candidate)
            key = self._exact(tidy)
            if key is not None:
                return Match(key, WHOLE + len(tidy.split("/")))
            match = self._by_end(tidy)
            if match is not None:
                return match
        return None

    def _exact(self, path: str) -> str | None:
        if path in self.keys:
            return path
        if path in self.same:
            return self.same[path]
        if path.isascii():
            return None
        if self._composed is None:
            self._composed = {}
            for key in (*self.keys, *self.same):
                if not key.isascii():
                    composed, file = _composed(key), self.same.get(key, key)
                    known = self._composed.get(composed, file)
                    self._composed[composed] = file if known == file else None  # two files with equal composed names
        return self._composed.get(_composed(path))

    def _by_end(self, path: str) -> Match | None:
        if not self._same_end:
            for key in (*self.keys, *self.same):
                self._same_end.setdefault(_last(_composed(key)).lower(), []).append(key)
        last = _composed(_last(path)).lower()
        keys = self._same_end.get(last)
        if not keys:
            return None
        wanted = [part for part in path.split("/") if part not in ("", ".")]
        foreign = path.startswith("/") or wanted[0].endswith(":") or ".." in wanted
        outside = ".." in wanted
        if outside:
            wanted = wanted[len(wanted) - wanted[::-1].index("..") :]
        if not wanted:
            return None
        if len(keys) <= FEW:
            return self._nearest_of(wanted, keys, foreign=foreign, outside=outside)
        ends = [self._ends.setdefault(last, _Ends(keys, 1))]
        for part in reversed(wanted[:-1]):
            longer = ends[-1].longer(_composed(part).lower())
            if longer is None:
                break
            ends.append(longer)
        if len(ends) < len(wanted) and not foreign:
            whole = next((whole for end in reversed(ends) if (whole := end.longer(None))), None)
            return None if whole is None else self._nearest_of(wanted, whole.keys, foreign=False)
        end = tuple(wanted[-len(ends) :])
        if end not in self._nearest:  # all of these match, possibly as many as there are images
            self._nearest[end] = self._nearest_of(wanted, ends[-1].keys, foreign=foreign, outside=outside)
        return self._nearest[end]

    def _nearest_of(self, wanted: list[str], keys: list[str], *, foreign: bool, outside: bool = False) -> Match | None:
        """Return the only file that ends with ``wanted`` or that ``wanted`` ends with (foreign names: the longest
        common end).

        Args:
            wanted: Parts of a name; with ``outside``, the parts after those that lead out of the folder.
            keys: Files with the same last part.
            foreign: The name is a path on another machine.
            outside: Leading parts were removed.
        """
        parts = [_composed(part) for part in wanted]
        lower = [part.lower() for part in parts]
        best: tuple[int, int] | None = None
        likeliest: dict[str, bool] = {}
        for key in keys:
            there = _composed(key).split("/")
            common = _common_end(lower, [part.lower() for part in there])
            if not foreign and common != min(len(wanted), len(there)):
                continue
            score = common, _common_end(parts, there)
            if best is None or score > best:
                best, likeliest = score, {}
            if score == best:
                likeliest[self.same.get(key, key)] = common == len(there) or (common == len(wanted) and not outside)
        if best is None or len(likeliest) != 1:
            return None
        ((key, whole),) = likeliest.items()
        return Match(key, best[0] + WHOLE * whole)


def rejected(claims: Mapping[str, Match]) -> list[str]:
    """Return the names that match a file but do not refer to it.

    The strongest match refers to the file: if an entry has the exact path, all guesses are rejected. If two matches are
    equally strong, both are rejected. The same name in several entries counts once.

    Args:
        claims: Tidied names with their matches, all of the same file.
    """
    best = max(match.strength for match in claims.values())
    surest = [name for name, match in claims.items() if match.strength == best]
    return [name for name in claims if len(surest) > 1 or name != surest[0]]


def tidied(file_name: str) -> str:
    r"""Normalise a name: forward slashes, no empty parts or dots, composed (NFC).

    >>> tidied("./day\\1.jpg"), tidied("/a//1.jpg")
    ('day/1.jpg', '/a/1.jpg')
    """
    plain = "/." not in file_name and "//" not in file_name and "\\" not in file_name and file_name.isascii()
    if plain and not file_name.startswith(".") and not file_name.endswith("/"):
        return file_name  # the usual case
    path = _composed(file_name.replace("\\", "/"))
    parts = "/".join(part for part in path.split("/") if part not in ("", "."))
    return f"/{parts}" if path.startswith("/") else parts


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class _Ends:
    """Paths with the same last ``depth`` parts (ignoring case), grouped on demand by the preceding part.

    If most have the same last part (``camera_017/frame.png``), comparing every name with every path would take days.
    """

    __slots__ = ("_longer", "depth", "keys")

    def __init__(self, keys: list[str], depth: int) -> None:
        self.keys, self.depth = keys, depth
        self._longer: dict[str | None, _Ends] | None = None

    def longer(self, part: str | None) -> _Ends | None:
        """Return the paths with this preceding part; None: the paths without one."""
        if self._longer is None:
            self._longer = {}
            for key in self.keys:
                parts = _composed(key).split("/")
                before = parts[-1 - self.depth].lower() if len(parts) > self.depth else None
                self._longer.setdefault(before, _Ends([], self.depth + 1)).keys.append(key)
        return self._longer.get(part)


def is_unsafe(file_name: str) -> bool:
    """Test whether a name leads out of its folder."""
    return "\0" in file_name or ".." in file_name.replace("\\", "/").split("/")


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _common_end(one: list[str], other: list[str]) -> int:
    count = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _readings(path: str) -> list[str]:
    """Return possible readings of a path: as written, unquoted, or the path in a URL or
    ``/data/local-files/?d=a%20b.jpg``.

    The path that Label Studio writes after ``d=`` is relative to a folder of its server, so it is as reliable as a
    relative name.
    """
    if "%" not in path and "?" not in path and "://" not in path:
        return [path]
    try:
        parts = urlsplit(path)
        inner = parse_qs(parts.query).get("d")
    except ValueError:
        return [path, unquote(path)]
    if inner:
        raw = path.partition("?")[2].partition("d=")[2]  # if nothing was quoted
        return [inner[0].lstrip("/"), unquote(raw).lstrip("/")]
    if parts.scheme and parts.netloc:
        return [f"/{unquote(parts.path)}", f"/{parts.path}"]
    return [path, unquote(path), unquote(parts.path)]
