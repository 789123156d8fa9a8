"""Which file a ``file_name`` means."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qs, unquote, urlsplit


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
        keys = self._same_end.get(_last(path).lower())
        if not keys:
            return None
        wanted = [part for part in path.split("/") if part not in ("", ".")]
        foreign = path.startswith("/") or wanted[0].endswith(":")
        scores: dict[str, tuple[int, int]] = {}
        for key in keys:
            there = key.split("/")
            common = _common_end([p.lower() for p in wanted], [p.lower() for p in there])
            if foreign or common == min(len(wanted), len(there)):
                scores[key] = common, _common_end(wanted, there)
        best = max(scores.values(), default=None)
        likeliest = [key for key, score in scores.items() if score == best]
        return likeliest[0] if len(likeliest) == 1 else None


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
