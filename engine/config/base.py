"""Base of all settings, and the mark of those that do not change the result of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationInfo, field_validator

from engine.text.pydantic_errors import form

MOST = 1_000_000
"""Largest count that a setting may have: far above useful values, and small enough for arithmetic."""

OneName = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=128,
        pattern=form(r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", "a name of letters, digits, _, . and -"),
    ),
]
"""The name of one folder."""


class OutsideRunId:
    """Mark of a setting that does not change the result of a run: location, speed, logging, limits that only reject.

    Such a setting has no part in the run id, and may differ when a run is resumed.
    """


OUTSIDE_RUN_ID = OutsideRunId()


def outside_run_id(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of the settings with the mark :class:`OutsideRunId`."""
    return frozenset(name for name, field in model.model_fields.items() if OUTSIDE_RUN_ID in field.metadata)


class ConfigModel(BaseModel):
    """Base of all settings: frozen, unknown names are rejected. A field's description is its comment in the YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    REMOVED: ClassVar[Mapping[str, str]] = {}
    """Removed and renamed settings, with what to do instead; see :func:`engine.text.pydantic_errors.parse`."""

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans: pydantic would accept them as 1 and 0."""
        kind = None if info.field_name is None else cls.model_fields[info.field_name].annotation
        takes = kind is bool or bool in get_args(kind)
        if isinstance(value, bool) and not takes and info.field_name != "checkpointing":  # it has its own message
            raise ValueError("must not be true or false")
        return value
