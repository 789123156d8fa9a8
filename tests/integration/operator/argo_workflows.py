"""Waiting by Argo Workflows: the conditions of a resource template, as its executor evaluates them.

The rules are those of ``matchConditions`` in ``workflow/executor/resource.go`` of argo-workflows. A condition is a
label selector of Kubernetes, whose keys are looked up in the object as gjson paths. So a key must be a name that
labels may have: letters, digits, ``-``, ``_``, ``.`` and ``/``, which leaves gjson's queries out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
KEY = re.compile(rf"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?{NAME}")
REQUIREMENT = re.compile(r"\s*(!)?\s*([^\s=!<>,()]+)\s*(?:(==|=|!=|<|>)\s*([^\s=!<>,()]*))?\s*")


def state(body: Mapping[str, Any], *, success: str, failure: str) -> str:
    """Return Failed if any requirement of ``failure`` holds, else Succeeded if all of ``success`` do, else Running.

    Raises:
        ValueError: Argo Workflows refuses a condition: the step ends with an error.
    """
    wanted, unwanted = requirements(success), requirements(failure)
    if any(_holds(body, *one) for one in unwanted):
        return "Failed"
    return "Succeeded" if all(_holds(body, *one) for one in wanted) else "Running"


def requirements(selector: str) -> list[tuple[str, str, str]]:
    """The key, operator and value of each requirement; of the operators, those without a list of values."""
    found = []
    for part in selector.split(","):
        match = REQUIREMENT.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not a requirement that a label selector may have")
        negated, key, operator, value = match.groups()
        if not KEY.fullmatch(key) or (value and not re.fullmatch(NAME, value)) or (negated and operator):
            raise ValueError(f"{part!r} has a key or value that a label selector may not have")
        if operator in ("<", ">") and not re.fullmatch(r"-?\d+", value):
            raise ValueError(f"{part!r} compares with something that is no integer")
        found.append((key, "!" if negated else operator or "exists", value or ""))
    return found


def _holds(body: Mapping[str, Any], key: str, operator: str, value: str) -> bool:
    found = _at(body, key.split("."))
    match operator:
        case "exists":
            return found is not None
        case "!":
            return found is None
        case "!=":
            return found is None or found != value
        case "<" | ">":
            if found is None or not re.fullmatch(r"-?\d+", found):
                return False
            return int(found) < int(value) if operator == "<" else int(found) > int(value)
    return found == value and found is not None


def _at(value: Any, path: list[str]) -> str | None:
    """What gjson finds, as text; of a list, a number is the place of an item."""
    for name in path:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
