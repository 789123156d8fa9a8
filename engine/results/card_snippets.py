"""Python that loads an adapter with transformers and PEFT alone, for its model card: no package of ours is imported.

It computes the same as the teacher's class. Each teacher brings its own, see ``card_code`` of its traits.
"""

from __future__ import annotations

import re

from engine.registry import by_suffix
from engine.results.types import TeacherResult
from engine.storage import is_claim, is_remote, local_path, name, parent
from engine.traits import TeacherTraits

DEFAULT_THRESHOLD = 0.3
"""Score threshold of a class without a measured one."""


def plain_snippet(result: TeacherResult) -> str:
    """Return Python for one image, from base and adapter to its detections.

    Class names are read from the adapter's files at run time: untrusted text is never part of the code.
    """
    traits = result.teacher.traits
    return traits.card_code(result) if isinstance(traits, TeacherTraits) else ""


def snippet_values(result: TeacherResult) -> dict[str, str]:
    """Return Python for ``base`` and ``adapter``, and ``revision``, an argument of ``from_pretrained`` or empty."""
    folder = parent(result.adapter.uri)
    return {
        "base": _folder(result.base_model, default="base"),
        "adapter": _folder(folder, default=name(folder)),
        # Only a commit of the hub is one: of other bases it is a digest.
        "revision": f", revision={result.base_revision!r}" if _is_commit(result.base_revision) else "",
    }


def original_note(result: TeacherResult) -> str:
    """Return how to convert the base, if it is a checkpoint of its authors, which transformers cannot read."""
    traits = by_suffix(result.base_model)
    return "" if traits is None else traits.card_note


def _folder(uri: str, *, default: str) -> str:
    """Return a folder as a Python literal; for a remote folder the name of its local copy, with the URI as comment."""
    original = by_suffix(uri)
    if is_remote(uri) or is_claim(uri) or original is not None:
        copied = name(uri.rstrip("/")).removesuffix(original.original_suffix if original else "") or default
        return f"{copied!r}  # a folder made of {uri!r}, see below" if original else f"{copied!r}  # of {uri!r}"
    return repr(str(local_path(uri)) if uri.startswith("file:") else uri.rstrip("/"))


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
