"""Refuses endpoints that would hand a machine's own credentials, or its metadata, to whoever wrote a manifest."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from engine.errors import ConfigError

METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"})
METADATA_ADDRESSES = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))

Resolver = Callable[[str], Iterable[str]]
"""From a host name to its addresses; none if it has none."""


def resolve(host: str) -> list[str]:
    """The addresses of a host name, as the machine itself would find them; decimal and hexadecimal forms too."""
    try:
        return [str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def check_endpoint(url: str, *, resolver: Resolver = resolve) -> str:
    """Return ``url`` if it may be connected to.

    Loopback and private ranges are fine: stores inside a cluster or a lab are there.

    Raises:
        ConfigError: It is no http(s) URL, or is or resolves to a metadata service or a link-local address.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigError(f"the endpoint {url!r} is no URL such as https://s3.example.com")
    if parts.username or parts.password:
        raise ConfigError("the endpoint must not hold a name or password: credentials come from the AWS chain")
    bad = host.rstrip(".").lower() in METADATA_NAMES or any(_is_metadata(address) for address in resolver(host))
    if bad:
        raise ConfigError(f"the endpoint {url!r} is a metadata service or a link-local address, not an object store")
    return url


def _is_metadata(text: str) -> bool:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_metadata(str(inner))
    return address.is_link_local or address in METADATA_ADDRESSES
