"""Git LFS pointers: the short texts that a clone without ``git lfs pull`` has in place of large files."""

from __future__ import annotations

POINTER = b"version https://git-lfs.github.com/spec/"
"""What a pointer begins with."""

LONGEST_POINTER = 1024
"""Bytes that a pointer has at most, by its specification."""

ADVICE = "is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned, and copy it again"


def is_pointer(head: bytes) -> bool:
    r"""Whether a file that begins with these bytes is a pointer.

    >>> is_pointer(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"), is_pointer(b"{}")
    (True, False)
    """
    return head.startswith(POINTER)
