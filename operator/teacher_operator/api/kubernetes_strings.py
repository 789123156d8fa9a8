"""Types of names, labels and quantities that the core API of Kubernetes accepts, with a maximum length. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from teacher_operator.api.quantities import QUANTITY

DNS_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"

Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=rf"^{DNS_NAME}$")]
"""Name of a Kubernetes object."""

NameOrNone = Annotated[str, StringConstraints(max_length=253, pattern=rf"^({DNS_NAME})?$")]
"""Name of a Kubernetes object, or an empty text, which removes the setting of the run."""

DnsLabel = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""DNS label (RFC 1123): the name of a volume or a claim in a pod."""

DataKey = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""Key of a ConfigMap or Secret."""

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
    """Convert an integer to text: pods are created with text, and ``4`` is the same quantity as ``"4"``."""
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
"""Non-negative quantity in the notation of the core API: ``4``, ``500m``, ``16Gi``, ``1e9``, ``.5``."""
