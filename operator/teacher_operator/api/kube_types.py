"""Names, labels and amounts as the core API of Kubernetes takes them, bounded. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from teacher_operator.api.quantities import QUANTITY

DNS_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"

Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=rf"^{DNS_NAME}$")]
"""The name of an object of Kubernetes."""

NameOrNone = Annotated[str, StringConstraints(max_length=253, pattern=rf"^({DNS_NAME})?$")]
"""The same, or empty: none, where a setting of the run would apply."""

DnsLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""DNS label (RFC 1123): the name of a volume or a claim in a pod."""

DataKey = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""A key of a ConfigMap or Secret."""

LabelKey = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
INT_OR_STRING = "x-kubernetes-int-or-string"


def _amount(value: Any) -> Any:
    """Text for a whole number: pods are made with text, and ``4`` is the same amount as ``"4"``."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=32,
        pattern=QUANTITY,
    ),
    BeforeValidator(_amount),
    Field(json_schema_extra={INT_OR_STRING: True}),
]
"""An amount as the core API takes it, and not below zero: ``4``, ``500m``, ``16Gi``, ``1e9``, ``.5``."""
