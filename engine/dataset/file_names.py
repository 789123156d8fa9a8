"""Which file a ``file_name`` means, and what two entries that end on one file mean."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

FEW = 16
"""Paths with the same last part that are compared one by one."""

EXACT = 1 << 20
"""Strength of a name that is the path of the file."""

WHOLE = 1 << 10
"""Strength, at least, of a name that the whole path of the file ends in, or that ends in it."""

UNUSUAL = re.compile(r"[\\%?:]|\.\.|//|^\./|/\./|[^\x00-\x7f]")
"""What a name has that is not just a path."""

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
"""Files and folders, in small letters, that desktops, archives and notebooks leave among those of a user."""


def is_junk(key: str) -> bool:
    """Test whether a desktop or an archive made the file, not the user: ``._a.jpg``, ``__MACOSX/a.jpg``, ``Thumbs.db``.

    >>> is_junk("__MACOSX/images/a.jpg"), is_junk("images/._a.jpg"), is_junk("images/a.jpg")
    (True, True, False)
    """
    return any(part.startswith("._") or part.lower() in JUNK for part in key.split("/"))


class Match(NamedTuple):
    """The file that a name means.

    Attributes:
        key: Its path, relative to the folder of the images.
        strength: How sure that is: ``EXACT``; or ``WHOLE`` and above where one path ends in the other, by the number of
            their common parts; or else the number of the common parts, of a URL or an absolute path.
    """

    key: str
    strength: int


class FileNames:
    """Finds the file that a ``file_name`` means among the existing ones.

    Tools write it relative to some folder of theirs, with backslashes, quoted for a URL, or as a path of their server.
    So a name means the file of exactly that name; or else the only one whose path ends in it, or in whose end it ends
    (``images/a.jpg`` is ``a.jpg``); or else, of a URL, an absolute path or one that leads out of its folder, the only
    one with the same last part. ``day/1.jpg`` never is ``night/1.jpg``. Accented letters are the same whether composed
    (NFC) or not (NFD, as macOS writes them).

    What one name alone cannot show is that another entry means the same file: see :func:`rejected`.

    Args:
        keys: Paths of the files, relative to their folder.
        same: Paths that are links to other ones of ``keys``, with the path of these: both are one file.
    """

    def __init__(self, keys: Iterable[str], same: Mapping[str, str] | None = None) -> None:
        self.same = same or {}
        self.keys = frozenset(key for key in keys if key not in self.same)
        self._same_end: dict[str, list[str]] = {}
        self._ends: dict[str, _Ends] = {}
        self._nearest: dict[tuple[str, ...], Match | None] = {}
        self._composed: dict[str, str | None] | None = None

    def find(self, file_name: str) -> str | None:
        """The key of the file; None if there is none, or if it may be one of several."""
        match = self.match(file_name)
        return None if match is None else match.key

    def match(self, file_name: str) -> Match | None:
        """The file, and how sure that is; None if there is none, or if it may be one of several."""
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
                    self._composed[composed] = file if known == file else None  # two files that look the same
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
        if end not in self._nearest:  # all of these fit, and there may be as many of them as images
            self._nearest[end] = self._nearest_of(wanted, ends[-1].keys, foreign=foreign, outside=outside)
        return self._nearest[end]

    def _nearest_of(self, wanted: list[str], keys: list[str], *, foreign: bool, outside: bool = False) -> Match | None:
        """The only file that ``wanted`` ends in or that ends in it (of a foreign one: that ends most like it).

        Args:
            wanted: Parts of a name; ``outside``: those after what leads out of its folder.
            keys: Files with the same last part.
            foreign: The name is of another machine.
            outside: There were more parts before, which say nothing.
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
    """Names of those that end on one file which do not mean it.

    The surest name means the file: where another entry has the path of a file itself, no other one is a guess away from
    it. Where two are equally sure, neither is right. One name that stands in several entries is one claim.

    Args:
        claims: Names, tidied, with their matches, all of the same file.
    """
    best = max(match.strength for match in claims.values())
    surest = [name for name, match in claims.items() if match.strength == best]
    return [name for name in claims if len(surest) > 1 or name != surest[0]]


def tidied(file_name: str) -> str:
    r"""A name with slashes alone, without empty parts and dots, composed: equal for names that say the same.

    >>> tidied("./day\\1.jpg"), tidied("/a//1.jpg")
    ('day/1.jpg', '/a/1.jpg')
    """
    plain = "/." not in file_name and "//" not in file_name and "\\" not in file_name and file_name.isascii()
    if plain and not file_name.startswith(".") and not file_name.endswith("/"):
        return file_name  # as most are
    path = _composed(file_name.replace("\\", "/"))
    parts = "/".join(part for part in path.split("/") if part not in ("", "."))
    return f"/{parts}" if path.startswith("/") else parts


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class _Ends:
    """Paths that share their last ``depth`` parts, letter case aside; divided by the part before when asked for it.

    Where most have the same last part (``camera_017/frame.png``), comparing each name with each path would take days.
    """

    __slots__ = ("_longer", "depth", "keys")

    def __init__(self, keys: list[str], depth: int) -> None:
        self.keys, self.depth = keys, depth
        self._longer: dict[str | None, _Ends] | None = None

    def longer(self, part: str | None) -> _Ends | None:
        """Those of them that have this part before; None: those that have no other part."""
        if self._longer is None:
            self._longer = {}
            for key in self.keys:
                parts = _composed(key).split("/")
                before = parts[-1 - self.depth].lower() if len(parts) > self.depth else None
                self._longer.setdefault(before, _Ends([], self.depth + 1)).keys.append(key)
        return self._longer.get(part)


def is_unsafe(file_name: str) -> bool:
    """Whether a name leads out of its folder."""
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
    """Return what a path may mean: itself, unquoted, or what ``/data/local-files/?d=a%20b.jpg`` and URLs have in them.

    What Label Studio writes after ``d=`` is relative to a folder of its server, and so as good as a relative name.
    """
    if "%" not in path and "?" not in path and "://" not in path:
        return [path]
    try:
        parts = urlsplit(path)
        inner = parse_qs(parts.query).get("d")
    except ValueError:
        return [path, unquote(path)]
    if inner:
        raw = path.partition("?")[2].partition("d=")[2]  # where nothing was quoted
        return [inner[0].lstrip("/"), unquote(raw).lstrip("/")]
    if parts.scheme and parts.netloc:
        return [f"/{unquote(parts.path)}", f"/{parts.path}"]
    return [path, unquote(path), unquote(parts.path)]
