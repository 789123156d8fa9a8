"""Reads small untrusted JSON files, bounded and checked: configurations of models, adapters and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from engine.errors import TeacherError
from engine.text.pydantic_errors import faults_in

MAX_BYTES = 1 << 20
MAX_DEPTH = 64

M = TypeVar("M", bound=BaseModel)


def read_object(content: bytes, *, where: str, error: type[TeacherError], limit: int = MAX_BYTES) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        content: JSON in UTF-8.
        where: Name of the file in messages, e.g. its path.
        error: Class of the error.
        limit: Maximum bytes.

    Raises:
        TeacherError: The file is too large, not JSON or not an object, nested too deep, has a name twice, a number
            that is not finite, or invalid Unicode; the class is ``error``.
    """

    def no_number(text: str) -> NoReturn:
        raise ValueError(f"{text} is not a number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name is given twice in one object")
        return found

    if len(content) > limit:
        raise error(f"{where} has {len(content):,} bytes, more than the {limit:,} that are read: is it another file?")
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=no_number, object_pairs_hook=once)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # lone surrogates, 1e999
    except RecursionError:
        raise error(f"{where} cannot be read: it is nested too deep") from None
    except ValueError as fault:
        raise error(f"{where} cannot be read, since it is not JSON: {str(fault)[:200]}") from None
    if not isinstance(value, dict):
        raise error(f"{where} cannot be read: it holds no JSON object")
    if _depth(value) > MAX_DEPTH:
        raise error(f"{where} cannot be read: it is nested more than {MAX_DEPTH} deep")
    return value


def read_object_file(path: Path, *, error: type[TeacherError], limit: int = MAX_BYTES) -> dict[str, Any]:
    """The same from a file, of which not more than the limit is read. It raises FileNotFoundError too."""
    return read_object(file_content(path, error=error, limit=limit), where=str(path), error=error, limit=limit)


def file_content(path: Path, *, error: type[TeacherError], limit: int) -> bytes:
    """Return the content of a file of at most ``limit`` bytes. It raises FileNotFoundError too."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror or fault}") from None
    if len(content) > limit:
        raise error(f"{path} has more than the {limit:,} bytes that are read of such a file: is it another file?")
    return content


def parse_json(model: type[M], content: bytes, *, where: str, error: type[TeacherError]) -> M:
    """Validate JSON as ``model``; of each fault the field and what was found is in the message.

    Raises:
        TeacherError: Of the kind ``error``.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as fault:
        raise error(f"{where} cannot be used:\n{faults_in(fault, model)}") from None
    except (ValueError, RecursionError) as fault:
        raise error(f"{where} cannot be used: {str(fault)[:200]}") from None


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth
