"""Requests to stores other than AWS, with the bucket in the host name where a store takes no other."""

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
"""Refusals of a bucket in the path, of Volcengine TOS, Tencent COS and Alibaba OSS."""

WORDS = re.compile(r"virtual[- ]?(host|style)|third level domain", re.IGNORECASE)
"""In the message of others that refuse it."""

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class BucketHosts:
    """Handlers of botocore's events for a client that writes buckets into paths.

    Args:
        style: ``virtual``: the bucket is moved into the host name; ``auto``: once the store has asked for that.
    """

    def __init__(self, style: AddressingStyle) -> None:
        self.style = style
        self._virtual = style is AddressingStyle.VIRTUAL
        self._checked: set[str] = set()

    def register(self, events: Any) -> None:
        """Have a client ask here."""
        if self.style is not AddressingStyle.PATH:
            events.register("before-call.s3", self._before)
            events.register_first("needs-retry.s3", self._after)

    def _before(self, params: dict[str, Any], **_: Any) -> None:
        if self._virtual:
            self._move(params)

    def _after(
        self, response: tuple[Any, Mapping[str, Any]] | None, request_dict: dict[str, Any], **_: Any
    ) -> float | None:
        """0, to ask again at once, where the store wants the bucket in the host name."""
        answer = response[1].get("Error", {}) if response is not None else {}
        wanted = answer.get("Code") in CODES or (
            response is not None and response[0].status_code in (400, 403) and WORDS.search(answer.get("Message", ""))
        )
        if not wanted or not self._move(request_dict):
            return None
        self._virtual = True
        return 0.0

    def _move(self, request: dict[str, Any]) -> bool:
        """Move the bucket of a request from its path to its host; whether it was there.

        Raises:
            ConfigError: There can be no such host, or it must not be connected to.
        """
        parts = urlsplit(request["url"])
        _, bucket, rest = parts.path.split("/", 2) if parts.path.count("/") > 1 else (*parts.path.split("/", 1), "")
        # The server itself has no bucket, and what has moved before is in its place.
        if not bucket or request["context"].get("moved"):
            return False
        host = f"{parts.scheme}://{bucket}.{parts.netloc}"
        if host not in self._checked:
            if _is_address(parts.hostname or "") or not LABEL.fullmatch(bucket):
                raise ConfigError(
                    f"bucket {bucket} cannot stand in the host name of {parts.scheme}://{parts.netloc}: "
                    "storage.addressingStyle virtual needs an endpoint that has a name, and a bucket that fits into one"
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
    """Handler of ``before-call``: the caller pays."""
    params["headers"]["x-amz-request-payer"] = "requester"
