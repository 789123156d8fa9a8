"""Where things are kept on this machine between runs."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """``$TEACHER_CACHE``, else ``teacher-finetune`` in the user's cache folder."""
    chosen = os.environ.get("TEACHER_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{home}/teacher-finetune").expanduser()
