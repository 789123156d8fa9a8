"""Write ``teacher_config.yaml`` with a comment on each line, and read it back to the same values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from engine.config.model import DistillConfig, RunConfig
from engine.config.sections import ModelsConfig
from engine.errors import ConfigError
from engine.layout import CONFIG
from engine.text.format_version import refuse_newer
from engine.text.plain_yaml import read_document, write_yaml
from engine.text.pydantic_errors import parse

HEADER = """\
# Everything that determines the result of this run. The same file on the same data gives the same adapters:
#   teacher train --config teacher_config.yaml
# Values that the user did not set are derived from the data; docs/training.md gives the rules and their reasons.
"""


def to_yaml(config: RunConfig) -> str:
    """Return the configuration as commented YAML."""
    return HEADER + "\n".join(_lines(config, indent=0)) + "\n"


def from_yaml(text: str | bytes, *, where: str = CONFIG) -> RunConfig:
    """Read the output of :func:`to_yaml`, which may have been edited by hand.

    Raises:
        ConfigError: The text is not valid YAML, or settings are unknown, missing or wrong.
    """
    document = read_document(text, where=where)
    if isinstance(document.value, dict):
        refuse_newer(document.value, where=where, error=ConfigError)
    kind = DistillConfig if isinstance(document.value, dict) and "students" in document.value else RunConfig
    return parse(kind, document.value, where=where, line_of=document.line)


def _lines(model: BaseModel, *, indent: int) -> Iterator[str]:
    pad = "  " * indent
    kind = model.resolved() if isinstance(model, ModelsConfig) else type(model)
    for name, field in kind.model_fields.items():
        if field.exclude:
            continue
        value = getattr(model, name)
        comment = f"  # {field.description}" if field.description else ""
        if isinstance(value, BaseModel):
            yield f"{pad}{name}:{comment}"
            yield from _lines(value, indent=indent + 1)
        else:
            yield from _leaf(name, model.model_dump(mode="json", include={name})[name], pad, comment)


def _leaf(name: str, value: Any, pad: str, comment: str) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        yield f"{pad}{name}:{comment}"
        yield from (f"{pad}  {line}" for line in write_yaml(value).split("\n"))
    else:
        yield f"{pad}{write_yaml({name: value})}{comment}"
