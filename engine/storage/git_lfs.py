"""Git LFS pointers: short text files that replace large files in a clone without ``git lfs pull``."""

from __future__ import annotations

POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of a pointer."""

LONGEST_POINTER = 1024
"""Maximum bytes of a pointer by its specification."""

ADVICE = "is a Git LFS pointer, not the file itself: run `git lfs pull` in the clone, and copy the file again"


def is_pointer(head: bytes) -> bool:
    r"""Return True if a file that begins with these bytes is a pointer.

    >>> is_pointer(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"), is_pointer(b"{}")
    (True, False)
    """
    return head.startswith(POINTER)
