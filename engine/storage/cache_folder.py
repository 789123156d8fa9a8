"""The cache folder on this machine, which is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Return ``$TEACHER_CACHE``, else ``teacher-finetune`` in the user's cache folder."""
    chosen = os.environ.get("TEACHER_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{home}/teacher-finetune").expanduser()
