"""Base of all sections of the spec, and the strings in it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationInfo
from pydantic.alias_generators import to_camel

from engine.text.pydantic_errors import form

Uri = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=1024,
        pattern=form(r"^[^\x00-\x1f]+$", "text without line breaks and other control characters"),
    ),
]
"""``s3://``, ``gs://`` or ``az://bucket/key``, ``pvc://claim/path``, ``file:///path`` or a plain path."""

SettingPath = Annotated[str, StringConstraints(min_length=1, max_length=128)]
SettingValue = Annotated[str, StringConstraints(max_length=4096)]

NUMBERS = {"numbers": True}
"""Validation context in which a decimal string may be a number, as Python gives it."""


def _number_as_text(value: object, info: ValidationInfo) -> object:
    """Return a number as its decimal string if the context is :data:`NUMBERS`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number and info.context == NUMBERS else value


DecimalString = Annotated[
    str,
    StringConstraints(
        max_length=32,
        pattern=form(
            r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$", "a number that is not negative, such as 0.05 or 1e-4"
        ),
    ),
    BeforeValidator(_number_as_text),
]
"""A non-negative decimal number in quotes, such as ``"0.05"`` or ``"1e-4"``."""


def _is_probability(value: str) -> str:
    if Decimal(value) >= 1:
        raise ValueError('must be at least "0" and below "1"')
    return value


def _is_positive(value: str) -> str:
    if not 0 < Decimal(value) <= 1:
        raise ValueError('must be above "0" and at most "1"')
    return value


def _is_part(value: str) -> str:
    if not 0 < Decimal(value) < 1:
        raise ValueError('must be above "0" and below "1"')
    return value


def _is_share(value: str) -> str:
    if Decimal(value) > 1:
        raise ValueError('must be at least "0" and at most "1"')
    return value


Dropout = Annotated[DecimalString, AfterValidator(_is_probability)]
LearningRate = Annotated[DecimalString, AfterValidator(_is_positive)]
Share = Annotated[DecimalString, AfterValidator(_is_share)]
Part = Annotated[DecimalString, AfterValidator(_is_part)]
"""A share that is neither nothing nor all."""


class SpecModel(BaseModel):
    """Base of all that users write: frozen, camelCase outside, unknown names refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    REMOVED: ClassVar[Mapping[str, str]] = {}
    """Removed and renamed fields as users wrote them, with what to do instead; see
    :func:`engine.text.pydantic_errors.parse`."""
