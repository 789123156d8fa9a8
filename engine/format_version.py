"""Versions of the files that runs leave behind: one written by a newer version of teacher is refused, not half read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.errors import TeacherError

FORMAT = "format_version"
FORMAT_VERSION = 1
"""What this version writes, and the newest that it reads. Files from before it was written have none."""


def refuse_newer(document: bytes | str | Mapping[str, Any], *, where: str, error: type[TeacherError]) -> None:
    """See that a file is of a format that this version reads.

    Args:
        document: The file's object, or its JSON; what is not a JSON object is left to its reader.
        where: What the file is called in messages.
        error: What is raised.

    Raises:
        TeacherError: Of the kind ``error``: it was written by a newer version.
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
