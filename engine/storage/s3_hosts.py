"""Bucket addressing for stores other than AWS: in the path, or in the host name if the store requires it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from engine.errors import ConfigError
from engine.spec import AddressingStyle
from engine.storage.endpoints import check_endpoint

CODES = frozenset({"InvalidPathAccess", "PathStyleDomainForbidden", "SecondLevelDomainForbidden"})
"""Error codes of Volcengine TOS, Tencent COS and Alibaba OSS for a bucket in the path."""

WORDS = re.compile(r"virtual[- ]?(host|style)|third level domain", re.IGNORECASE)
"""Phrases in the messages of other stores that refuse a bucket in the path."""

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class BucketHosts:
    """Event handlers for a botocore client that uses path-style addressing.

    Args:
        style: ``virtual``: move the bucket into the host name; ``auto``: move it after the store has required it.
    """

    def __init__(self, style: AddressingStyle) -> None:
        self.style = style
        self._virtual = style is AddressingStyle.VIRTUAL
        self._checked: set[str] = set()

    def register(self, events: Any) -> None:
        """Install the handlers in a client."""
        if self.style is not AddressingStyle.PATH:
            events.register("before-call.s3", self._before)
            events.register_first("needs-retry.s3", self._after)

    def _before(self, params: dict[str, Any], **_: Any) -> None:
        if self._virtual:
            self._move(params)

    def _after(
        self, response: tuple[Any, Mapping[str, Any]] | None, request_dict: dict[str, Any], **_: Any
    ) -> float | None:
        """Return 0, to retry immediately, if the store requires the bucket in the host name."""
        answer = response[1].get("Error", {}) if response is not None else {}
        wanted = answer.get("Code") in CODES or (
            response is not None and response[0].status_code in (400, 403) and WORDS.search(answer.get("Message", ""))
        )
        if not wanted or not self._move(request_dict):
            return None
        self._virtual = True
        return 0.0

    def _move(self, request: dict[str, Any]) -> bool:
        """Move the bucket of a request from its path to its host; False if the path has no bucket.

        Raises:
            ConfigError: The host name is invalid, or connecting to it is not allowed.
        """
        parts = urlsplit(request["url"])
        _, bucket, rest = parts.path.split("/", 2) if parts.path.count("/") > 1 else (*parts.path.split("/", 1), "")
        # A request to the server itself has no bucket; a retried request has been moved before.
        if not bucket or request["context"].get("moved"):
            return False
        host = f"{parts.scheme}://{bucket}.{parts.netloc}"
        if host not in self._checked:
            if _is_address(parts.hostname or "") or not LABEL.fullmatch(bucket):
                raise ConfigError(
                    f"bucket {bucket} cannot be part of the host name of {parts.scheme}://{parts.netloc}: "
                    "storage.addressingStyle virtual needs an endpoint with a name, and a bucket that is valid in one"
                )
            check_endpoint(host)
            self._checked.add(host)
        request["url"] = parts._replace(netloc=f"{bucket}.{parts.netloc}", path=f"/{rest}").geturl()
        request["context"]["moved"] = True
        return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def requester_pays(params: dict[str, Any], **_: Any) -> None:
    """Add the header by which the caller pays (handler of ``before-call``)."""
    params["headers"]["x-amz-request-payer"] = "requester"
