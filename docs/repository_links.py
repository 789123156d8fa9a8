"""MkDocs hook: links of a page that lead out of ``docs/`` become links to the repository.

Without ``repo_url`` they become plain text. A link to a missing file is a warning, which fails ``make docs``.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.hooks.repository_links")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return the page with its links to files outside ``docs/`` replaced."""

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = (DOCS / target).resolve()
        if not path.exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
            return match[0]
        if not config.repo_url:
            return text
        kind = "tree" if path.is_dir() else "blob"
        return f"[{text}]({config.repo_url.rstrip('/')}/{kind}/main/{path.relative_to(DOCS.parent)}{anchor})"

    return LINK.sub(replace, markdown)
