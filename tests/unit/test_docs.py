"""Generated pages match the code, and links of all Markdown files lead somewhere."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATE = runpy.run_path(str(DOCS / "generate.py"))
PAGES, BLOCKS = GENERATE["PAGES"], GENERATE["BLOCKS"]
MARKDOWN = sorted(
    [*ROOT.glob("*.md"), *(p for d in (".github", "docs", "examples", "helm") for p in (ROOT / d).rglob("*.md"))]
)


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_has_not_drifted(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run `make docs`"


@pytest.mark.parametrize(("page", "name"), BLOCKS)
def test_a_generated_part_of_a_page_has_not_drifted(page: str, name: str) -> None:
    text = (ROOT / page).read_text()
    assert text == GENERATE["with_block"](text, name, BLOCKS[page, name]()), "run `make docs`"


def prose(file: Path) -> str:
    """The text without fenced blocks and code spans, in which nothing is a link."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(file: Path) -> set[str]:
    """The anchors that GitHub and the site give to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_to_a_heading_of_it(file: Path) -> None:
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", prose(file)) if not re.match(r"[a-z]+:", t)]
    for target in targets:
        path, _, anchor = target.partition("#")
        linked = (file.parent / path).resolve() if path else file
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_that_is_named_exists(file: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", file.read_text(encoding="utf-8"))
    folders = "benchmarks|config|crds|docs|engine|examples|helm|operator|optimizer_image|tests|trainer_image"
    paths = {span.rstrip("/") for span in spans if re.fullmatch(rf"(?:{folders})/[\w./-]+", span)}
    assert {path for path in paths if not (ROOT / path).exists() and "NAME" not in path} == set()
    tests = {span for span in spans if re.fullmatch(r"test_\w+\.py", span)}
    assert {name for name in tests if not any((ROOT / "tests").rglob(name))} == set()


def test_links_are_found() -> None:
    assert len(MARKDOWN) > 20
    assert "](docs/" in prose(ROOT / "README.md")


@pytest.mark.parametrize("link", ["other.md", "#no-such-heading", "../missing.md"])
def test_make_docs_fails_on_a_broken_link(link: str, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="`make install` installs it")
    command = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "mkdocs build" in line).split()[1:]
    config = re.sub(r"^nav:.*", "nav: [index.md]\n", (ROOT / "mkdocs.yml").read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(config)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "repository_links.py").write_text((DOCS / "repository_links.py").read_text())
    for text, fails in (("A page.", False), (f"A [link]({link}).", True)):
        (tmp_path / "docs" / "index.md").write_text(f"# Title\n\n{text}\n")
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", *command], cwd=tmp_path, capture_output=True, check=False
        )
        assert bool(done.returncode) == fails, done.stderr


def test_every_import_of_an_example_exists() -> None:
    cells = json.loads((ROOT / "examples" / "label.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for file in MARKDOWN:
        code += re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    imports = re.findall(r"^from (engine[\w.]*) import ([\w, ]+)$", "\n".join(code), flags=re.MULTILINE)
    assert len(imports) > 5
    for module, names in imports:
        imported = importlib.import_module(module)
        assert [name for name in names.split(", ") if not hasattr(imported, name)] == [], module


def test_make_help_is_two_columns() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    described = [re.match(r"[a-z-]+ +", line) for line in shown if re.match(r"[a-z-]+  ", line)]
    assert len(described) == len([line for line in shown if line and not line.startswith("make")])
    assert len({found.end() for found in described if found}) == 1
