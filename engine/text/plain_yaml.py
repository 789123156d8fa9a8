"""YAML as plain data: text, numbers, booleans, nulls, lists and maps; everything else is refused.

A manifest, a configuration or a value of ``--set`` may come from anybody. So one reader reads all of them, from the
parser's events: no anchors or aliases (a kilobyte of them can stand for gigabytes), no tags, no merge keys, no key
twice, bounded size, depth and number of values. Scalars are those of YAML 1.2's core schema. Where an unquoted one is
text there but something else in YAML 1.1, which kubectl reads (``no``, ``0o17``, ``1:30``, ``2020-01-01``), it has to
be quoted, so that one machine and a cluster never read two things.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from engine.errors import ConfigError

MAX_BYTES = 4 << 20
"""Bytes of a text. Configurations that list thousands of classes have a tenth of it."""
MAX_DEPTH = 40
MAX_VALUES = 200_000
MAX_DIGITS = 18
"""Digits of a whole number: so many fit into 64 bits."""
MAX_NUMBER = 100
"""Characters of a decimal number or a date; what is longer is text."""

PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]
"""Keys and indices that lead to a value."""

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
OLD_YAML = re.compile(
    r"""(?x)
    (?i:yes|no|on|off)
    | [-+]?0[0-7_]+ | [-+]?0[oO][0-7_]+ | [-+]?0[xX][0-9a-fA-F_]+ | [-+]?0[bB][01_]+   # of another base
    | [-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?                         # with underscores
    | [-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?                                    # sexagesimal
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(([Tt]|[\ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}.*)?    # a date
    | [-+]?\.(?i:inf) | \.(?i:nan) | =
    """
)
"""Unquoted text that YAML 1.1 reads as something else."""


BREAKS = frozenset("\x85\u2028\u2029")
"""Line breaks of Unicode."""


@dataclass(frozen=True)
class Document:
    """One document of a text.

    Attributes:
        value: Plain data.
        lines: The line of each value, counted from 1, by its path.
    """

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line of a value, or of the nearest that holds it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None


class _Dumper(yaml.SafeDumper):
    """PyYAML's, with quotes around text that the reader takes for a number, and escapes for its line breaks.

    ``98737285e415`` is a number in YAML 1.2, and an unescaped line break of Unicode is read as a space.
    """


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _is_special(text) else None)


_Dumper.add_representer(str, _represent_text)


def _is_special(text: str) -> bool:
    """Return whether the reader takes unescaped text for something else, or refuses it."""
    patterns = (INTEGER, DECIMAL, OLD_YAML)
    return (
        not BREAKS.isdisjoint(text)
        or text in NULLS
        or text in BOOLEANS
        or any(pattern.fullmatch(text) for pattern in patterns)
    )


def write_yaml(value: Any) -> str:
    """Return plain data as YAML that :func:`read_document` reads back to the same values."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text.rstrip("\n")


def read_document(content: str | bytes, *, where: str, as_text: bool = False) -> Document:
    """Read a text of one document.

    Args:
        content: The text, in UTF-8 where it is bytes.
        where: What it is called in messages, e.g. its path.
        as_text: Every scalar is text as it stands, names of settings too: for files whose names may look like numbers.

    Raises:
        ConfigError: It is not YAML, not plain data, too large, or not one document.
    """
    found = read_documents(content, where=where, as_text=as_text)
    if len(found) != 1:
        raise ConfigError(f"{where} must hold one YAML document, found {len(found)}")
    return found[0]


def read_documents(content: str | bytes, *, where: str, as_text: bool = False) -> list[Document]:
    """Read all documents of a text, except empty ones. Args and errors as for :func:`read_document`."""
    text = _text(content, where)
    reader = _Reader(where, as_text=as_text)
    events = _events(text, where)
    found = []
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            document = reader.document(events)
            if document.value is not None:
                found.append(document)
    return found


def _text(content: str | bytes, where: str) -> str:
    size = len(content)
    if size > MAX_BYTES:
        raise ConfigError(f"{where} has {size:,} bytes, more than the {MAX_BYTES:,} that are read: is it another file?")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content.removeprefix("\ufeff")
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ConfigError(f"{where} is not text in UTF-8 ({error.reason}): save it as UTF-8") from None
    return text


def _events(text: str, where: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=PARSER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ConfigError(f"{where} is not YAML: {line}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


class _Reader:
    """Builds values of events. Events are taken one by one, so that what is too deep or too much is never held."""

    def __init__(self, where: str, *, as_text: bool) -> None:
        self.where, self.as_text = where, as_text
        self.values = 0
        self.lines: dict[Path, int] = {}

    def document(self, events: Iterator[Any]) -> Document:
        self.lines = {}
        value = self._value(next(events), events, ())
        return Document(value, self.lines)

    def _value(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        self.lines[path] = event.start_mark.line + 1
        self.values += 1
        if self.values > MAX_VALUES:
            raise self._fault(event, path, f"there are more than {MAX_VALUES:,} values: is it another file?")
        if isinstance(event, yaml.AliasEvent):
            raise self._fault(event, path, f"aliases (*{_short(event.anchor)}) are not supported: write the value out")
        if event.anchor is not None:
            raise self._fault(event, path, f"anchors (&{_short(event.anchor)}) are not supported: write the value out")
        if event.tag is not None:
            raise self._fault(event, path, f"tags ({_short(event.tag)}) are not supported: write the plain value")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            raise self._fault(event, path[:3], f"nested more than {MAX_DEPTH} deep")
        return self._map(events, path) if isinstance(event, yaml.MappingStartEvent) else self._list(events, path)

    def _list(self, events: Iterator[Any], path: Path) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            found.append(self._value(event, events, (*path, len(found))))
        return found

    def _map(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        event: Any
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._fault(event, path, "the name of a setting must be text, not a list, a map or an alias")
            if event.value == "<<" and event.implicit[0]:
                raise self._fault(event, path, "merge keys (<<) are not supported: write the settings out")
            key = self._value(event, events, path)
            if not isinstance(key, str):
                raise self._fault(
                    event, path, f'the name of a setting must be text: write "{_short(event.value)}" in quotes'
                )
            if key in found:
                raise self._fault(event, (*path, key), "is given twice: leave one of them out")
            found[key] = self._value(next(events), events, (*path, key))
        return found

    def _scalar(self, event: Any, path: Path) -> Any:
        text: str = event.value
        if "\x00" in text:
            raise self._fault(event, path, "holds a NUL character: take it out")
        if self.as_text or not event.implicit[0]:  # in quotes, or a block
            return text
        if text in NULLS:
            return None
        if text in BOOLEANS:
            return BOOLEANS[text]
        if INTEGER.fullmatch(text):
            if len(text.lstrip("+-")) > MAX_DIGITS:
                raise self._fault(event, path, f"the number {_short(text)} is too large")
            return int(text)
        if len(text) > MAX_NUMBER:
            return text
        if OLD_YAML.fullmatch(text):
            advice = "; if a boolean is meant, true or false" if text.isalpha() else ""
            raise self._fault(
                event, path, f'{text} is not text to every reader of YAML: write "{text}" in quotes{advice}'
            )
        if DECIMAL.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                raise self._fault(event, path, f"the number {_short(text)} is too large")
            return number
        return text

    def _fault(self, event: Any, path: Path, fault: str) -> ConfigError:
        field = ".".join(map(str, path))
        return ConfigError(
            f"{self.where}, line {event.start_mark.line + 1}: {_short(field)}{': ' if field else ''}{fault}"
        )


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= 80 else f"{text[:79]}…"
