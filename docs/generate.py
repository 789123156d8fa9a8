"""Write the pages that are generated from the code: ``make docs``. A test fails if a page is out of date."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from engine.augmentation import table_markdown
from engine.cli.app import app
from engine.dataset.checks.problem_catalogue import CATALOGUE, IMAGES_LEFT_OUT, OBJECTS_LEFT_OUT, REPAIRED
from engine.dataset.types import Severity
from engine.errors import EXIT_ERRORS, InterruptedTrainingError, TeacherError
from teacher_operator.api.kubernetes_strings import INT_OR_STRING
from teacher_operator.api.spec import INPUTS, PLATFORM, TeacherFineTuneSpec

DOCS = Path(__file__).resolve().parent
SCHEMA = TeacherFineTuneSpec.model_json_schema(by_alias=True)

MANIFEST_HEAD = """\
# The manifest

Fields of `spec` of a `TeacherFineTune`. Only `dataset` and `output` are required; defaults of the others follow from
the data. Decimal numbers are strings in quotes, as Kubernetes APIs advise. With `teacher run`, `--set` sets any
setting of `teacher_config.yaml` that the manifest does not have, such as `--set teachers.sam.clip_norm=0.5`, or
`--set 'teachers.*.evaluations=5'` for every teacher.

## Inputs of the run

On a cluster these never change after the object was created, except `storage.credentialsSecretRef` and
`storage.caBundleConfigMapRef`. Every URI is `s3://`, `gs://`, `az://` or `pvc://`; base models may also come from
the hub.

"""

PLATFORM_HEAD = """
## Platform settings

These apply only to a cluster: `teacher run` ignores them, as well as `storage.credentialsSecretRef` and
`storage.caBundleConfigMapRef`. They may change during a run;
[operator.md](operator.md#changes-to-a-running-object) describes the effect.

"""

TABLE = """\
| setting | type or values | meaning |
| --- | --- | --- |
"""


def manifest_page() -> str:
    """Return the page of all settings, from the schema."""
    return MANIFEST_HEAD + _table(INPUTS) + PLATFORM_HEAD + _table(PLATFORM)


PROBLEMS_HEAD = """\
# Dataset problems

Every kind of problem that inspection or a trainer may report, and its handling. Data that is left out or repaired is
counted; [robustness.md](robustness.md#data) describes when a run is refused.

| problem | handling | meaning | remedy |
| --- | --- | --- | --- |
"""


def problems_page() -> str:
    """Return the page of all problems, from their catalogue."""
    rows = (
        f"| `{code}` | {_policy(code, severity)} | {message} | {advice} |"
        for code, (severity, message, advice) in CATALOGUE.items()
    )
    return PROBLEMS_HEAD + "\n".join(rows) + "\n"


def _policy(code: str, severity: Severity) -> str:
    if severity is Severity.ERROR:
        return "refused"
    if code in IMAGES_LEFT_OUT | OBJECTS_LEFT_OUT:
        return "left out"
    return "repaired" if code in REPAIRED else "reported"


def _table(names: Sequence[str]) -> str:
    """Return the table of some settings of the spec."""
    some = SCHEMA | {"properties": {name: SCHEMA["properties"][name] for name in names}}
    return TABLE + "\n".join(_rows(some, "")) + "\n"


def augmentation_page() -> str:
    """Return the page of the table of transforms."""
    return table_markdown()


EXIT_CODES_HEAD = """\
| code | reason | meaning | retried |
| --- | --- | --- | --- |
| 0 | | success | |
"""

EXIT_CODES_END = f"""
| 130 | | a second Ctrl-C, which ends the program immediately | |
| 2 | | an unknown command or option, or an invalid option value | no |
| {TeacherError.exit_code} | `{TeacherError.reason}` | any other error | yes |
"""


def exit_codes() -> str:
    """Return the table of the exit codes of ``teacher``, from the errors."""
    rows = (
        f"| {code} | `{error.reason}` | {_meaning(error)} | {_retried(error)} |" for code, error in EXIT_ERRORS.items()
    )
    return EXIT_CODES_HEAD + "\n".join(rows) + EXIT_CODES_END


FAILURES_HEAD = """\
| reason | exit code | retried | meaning | remedy |
| --- | --- | --- | --- | --- |
"""


def failures() -> str:
    """Return the table of the failures that a trainer or an inspection reports, from the errors."""
    rows = (
        f"| `{error.reason}` | {code} | {_retried(error)} | {_meaning(error)} | {error.advice} |"
        for code, error in EXIT_ERRORS.items()
    )
    return FAILURES_HEAD + "\n".join(rows) + "\n"


def _meaning(error: type[TeacherError]) -> str:
    """Return the first line of an error's docstring as a cell of a table."""
    text = (error.__doc__ or "").splitlines()[0].removesuffix(".")
    return text if text.startswith("SIG") else text[0].lower() + text[1:]


def _retried(error: type[TeacherError]) -> str:
    if error is InterruptedTrainingError:
        return "yes, not counted"
    return "yes" if error.retryable else "no"


BLOCKS = {
    ("README.md", "exit codes"): exit_codes,
    ("docs/operator.md", "failures"): failures,
}
"""Generated parts of pages: by page and by the name in ``<!-- generated: NAME -->``, which ``<!-- end -->`` closes."""


def with_block(text: str, name: str, content: str) -> str:
    """Return the text of a page with new content of one generated part."""
    start = f"<!-- generated: {name} -->\n"
    end = "<!-- end -->"
    before, found, after = text.partition(start)
    if not found:
        raise ValueError(f"there is no {start.strip()}")
    return f"{before}{start}\n{content}\n{end}{after.partition(end)[2]}"


COMMANDS_HEAD = """\
# Commands

Options of `teacher`, as `teacher COMMAND --help` prints them. [The tutorial](laptop.md) uses most of them in context.

"""


def commands_page() -> str:
    """Return the page of all commands and options of ``teacher``."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command, info_name="teacher"), name="teacher")
    sections = text[text.index("## `teacher ") :]
    without_help = re.sub(r"^\* `(-h, )?--help`: .*\n", "", sections, flags=re.MULTILINE)
    text = re.sub(r"^(\* `.*?`: )(.*)$", lambda m: m[1] + _plain(m[2]), without_help, flags=re.MULTILINE)
    return COMMANDS_HEAD + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _plain(text: str) -> str:
    """Escape characters that Markdown would interpret."""
    return text.replace("<", "&lt;").replace("*", "\\*")


PAGES = {
    "manifest.md": manifest_page,
    "augmentation.md": augmentation_page,
    "problems.md": problems_page,
    "commands.md": commands_page,
}


def _rows(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        required = " (required)" if name in schema.get("required", []) else ""
        inner, many = _inner(field)
        path = f"{prefix}{name}{'[]' if many else ''}"
        meaning = field.get("description") or inner.get("description", "")
        yield f"| `{path}`{required} | {_kind(field)} | {meaning.replace('<', '&lt;')} |"
        if "properties" in inner and prefix != "stages[].":  # repeats the fields of `pod` and of the run
            yield from _rows(inner, f"{path}.")


def _resolve(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a field refers to, without null."""
    if "anyOf" in field:
        field = next(option for option in field["anyOf"] if option.get("type") != "null") | {}
    if "$ref" in field:
        resolved: dict[str, Any] = SCHEMA["$defs"][field["$ref"].rsplit("/", 1)[1]]
        return resolved
    return field


def _inner(field: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    resolved = _resolve(field)
    if resolved.get("type") == "array":
        return _resolve(resolved["items"]), True
    return resolved, False


def _kind(field: dict[str, Any]) -> str:
    resolved, many = _inner(field)
    if "enum" in resolved:
        kind = ", ".join(f"`{value}`" for value in resolved["enum"])
    elif resolved.get("type") == "integer":
        kind = f"{resolved['minimum']} to {resolved['maximum']}"
    elif "additionalProperties" in resolved and isinstance(resolved["additionalProperties"], dict):
        kind = "map of strings"
    elif resolved.get("type") == "boolean":
        kind = "boolean"
    elif "properties" in resolved:
        kind = "list of objects" if many else "object"
    elif resolved.get("type") == "object" and "patternProperties" not in resolved:
        kind = "object as in a pod"
    elif resolved.get("type") == "object":
        kind = "map of strings"
    elif INT_OR_STRING in resolved:
        kind = "quantity, such as 4, 500m or 16Gi"
    elif "eE" in resolved.get("pattern", ""):
        kind = "decimal number in quotes"
    else:
        kind = "string"
    default = field.get("default")
    return kind + (f"; default {json.dumps(default)}" if isinstance(default, int | str) else "")


if __name__ == "__main__":
    for page, text in PAGES.items():
        (DOCS / page).write_text(text(), encoding="utf-8")
    for (page, name), content in BLOCKS.items():
        path = DOCS.parent / page
        path.write_text(with_block(path.read_text(encoding="utf-8"), name, content()), encoding="utf-8")
