"""Which file a ``file_name`` means."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qs, unquote, urlsplit

FEW = 16
"""Paths with the same last part that are compared one by one."""


class FileNames:
    """Finds the file that a ``file_name`` means among those that are there.

    Tools write it relative to some folder of theirs, with backslashes, quoted for a URL, or as a path of their server.
    So a name means the file of exactly that name; or else the only one whose path ends in it, or in whose end it ends
    (``images/a.jpg`` is ``a.jpg``); or else, of a URL or an absolute path, the only one with the same last part.
    ``day/1.jpg`` never is ``night/1.jpg``.

    Args:
        keys: Paths of the files, relative to their folder.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = frozenset(keys)
        self._same_end: dict[str, list[str]] = {}
        self._ends: dict[str, _Ends] = {}
        self._nearest: dict[tuple[str, ...], str | None] = {}

    def find(self, file_name: str) -> str | None:
        """The key of the file; None if there is none, or if it may be one of several."""
        if file_name in self.keys:
            return file_name
        for candidate in dict.fromkeys((file_name, file_name.replace("\\", "/"), *_unquoted(file_name))):
            found = candidate if candidate in self.keys else self._by_end(candidate)
            if found is not None:
                return found
        return None

    def _by_end(self, path: str) -> str | None:
        if not self._same_end:
            for key in self.keys:
                self._same_end.setdefault(_last(key).lower(), []).append(key)
        last = _last(path).lower()
        keys = self._same_end.get(last)
        if not keys:
            return None
        wanted = [part for part in path.split("/") if part not in ("", ".")]
        foreign = path.startswith("/") or wanted[0].endswith(":")
        if len(keys) <= FEW:
            return _nearest(wanted, keys, foreign=foreign)
        ends = [self._ends.setdefault(last, _Ends(keys, 1))]
        for part in reversed(wanted[:-1]):
            longer = ends[-1].longer(part.lower())
            if longer is None:
                break
            ends.append(longer)
        if len(ends) < len(wanted) and not foreign:
            whole = next((whole for end in reversed(ends) if (whole := end.longer(None))), None)
            return None if whole is None else _nearest(wanted, whole.keys, foreign=False)
        end = tuple(wanted[-len(ends) :])
        if end not in self._nearest:  # all of these fit, and there may be as many of them as images
            self._nearest[end] = _nearest(wanted, ends[-1].keys, foreign=foreign)
        return self._nearest[end]


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
                parts = key.split("/")
                before = parts[-1 - self.depth].lower() if len(parts) > self.depth else None
                self._longer.setdefault(before, _Ends([], self.depth + 1)).keys.append(key)
        return self._longer.get(part)


def is_unsafe(file_name: str) -> bool:
    """Whether a name leads out of its folder."""
    return "\0" in file_name or ".." in file_name.replace("\\", "/").split("/")


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _nearest(wanted: list[str], keys: list[str], *, foreign: bool) -> str | None:
    """The only path that ``wanted`` ends in or that ends in it (of a foreign one: that ends most like it)."""
    scores: dict[str, tuple[int, int]] = {}
    for key in keys:
        there = key.split("/")
        common = _common_end([p.lower() for p in wanted], [p.lower() for p in there])
        if foreign or common == min(len(wanted), len(there)):
            scores[key] = common, _common_end(wanted, there)
    best = max(scores.values(), default=None)
    likeliest = [key for key, score in scores.items() if score == best]
    return likeliest[0] if len(likeliest) == 1 else None


def _common_end(one: list[str], other: list[str]) -> int:
    count = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _unquoted(file_name: str) -> list[str]:
    """The path in ``/data/local-files/?d=a%20b.jpg``, ``s3://bucket/a.jpg`` or ``http://host/data/upload/a.jpg``."""
    if "%" not in file_name and "?" not in file_name and "://" not in file_name:
        return []
    try:
        parts = urlsplit(file_name)
        inner = parse_qs(parts.query).get("d")
    except ValueError:
        return [unquote(file_name)]
    path = f"/{inner[0]}" if inner else f"/{unquote(parts.path)}" if parts.scheme else unquote(parts.path)
    return [unquote(file_name), path]
