"""Format versions of the files of runs: files written by a newer version of teacher are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.errors import TeacherError

FORMAT = "format_version"
FORMAT_VERSION = 1
"""The version written, and the newest version read. Old files have none."""


def refuse_newer(document: bytes | str | Mapping[str, Any], *, where: str, error: type[TeacherError]) -> None:
    """Check that this version can read a file's format.

    Args:
        document: The file's object, or its JSON; what is not a JSON object is left to its reader.
        where: Name of the file in messages.
        error: Class of the error.

    Raises:
        TeacherError: The file was written by a newer version; the class is ``error``.
    """
    if isinstance(document, bytes | str):
        try:
            document = json.loads(document)
        except (ValueError, RecursionError):
            return
    if not isinstance(document, Mapping):
        return
    found = document.get(FORMAT, FORMAT_VERSION)
    if type(found) is not int or not 1 <= found <= FORMAT_VERSION:
        raise error(
            f"{where} has {FORMAT} {str(found)[:40]}, and this version of teacher reads up to {FORMAT_VERSION}: a "
            "newer version wrote it, so upgrade teacher-finetune (pip install --upgrade teacher-finetune)"
        )
