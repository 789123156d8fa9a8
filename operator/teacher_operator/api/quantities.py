"""Quantities in the notation of Kubernetes. Pure."""

from __future__ import annotations

import re
from decimal import Decimal

QUANTITY = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$"
"""Pattern of a non-negative quantity: ``4``, ``500m``, ``16Gi``, ``1e9``, ``.5``."""

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse_quantity(text: str) -> Decimal:
    """Return the number that a quantity stands for, in its base unit: bytes, cores or a count.

    Raises:
        ValueError: The text does not match ``QUANTITY``.
    """
    match = re.fullmatch(QUANTITY[1:-1], text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity of Kubernetes")
    number, suffix = Decimal(match[1]), match[3] or ""
    if suffix in BINARY:
        return number * Decimal(2) ** BINARY[suffix]
    if suffix in DECIMAL:
        return number.scaleb(DECIMAL[suffix])
    return number.scaleb(int(suffix[1:]))
