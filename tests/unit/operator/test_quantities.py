"""Amounts are compared as the API server compares them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from teacher_operator.api.quantities import parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4),
        ("+4", 4),
        ("500m", Decimal("0.5")),
        ("1e9", 10**9),
        ("1E3", 1000),
        ("1E", 10**18),
        ("12e-3", Decimal("0.012")),
        (".5", Decimal("0.5")),
        ("1.", 1),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 * 2**29),
        ("100Gi", 100 * 2**30),
        ("2P", 2 * 10**15),
    ],
)
def test_a_quantity_is_a_number(text: str, number: Decimal) -> None:
    assert parse_quantity(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1 Gi", "1GiB", "much", "0x10", "1\n"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(text)
