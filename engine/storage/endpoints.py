"""Refuses endpoints that would give a machine's credentials or metadata to the author of a manifest."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from engine.errors import ConfigError

METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"})
METADATA_ADDRESSES = frozenset(
    map(
        ipaddress.ip_address,
        (
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # EKS pod identity
            "fd20:ce::254",  # Google
            "168.63.129.16",  # Azure's WireServer
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
        ),
    )
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NAME = re.compile(r"[A-Za-z0-9._-]+")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str], Iterable[str]]
"""Return the addresses of a host name; empty if it does not resolve."""


def resolve(host: str) -> list[str]:
    """Return the addresses of a host name by the machine's own resolver."""
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def check_endpoint(url: str, *, resolver: Resolver = resolve) -> str:
    """Return ``url`` if connecting to it is allowed.

    Loopback and private ranges are allowed: stores inside a cluster or a lab have such addresses. A name that does not
    resolve is allowed: no connection is possible. IP addresses in any notation are never given to the resolver.

    Raises:
        ConfigError: The URL is not http(s), or is or resolves to a metadata service or a link-local address.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        address = _literal(host)
        name = host if address else host.encode("idna").decode("ascii").rstrip(".").lower()
    except ValueError:  # UnicodeError is one
        raise ConfigError(f"the endpoint {url!r} is not a URL such as https://s3.example.com") from None
    if parts.username or parts.password:
        raise ConfigError("the endpoint must not hold a name or password: credentials come from the AWS chain")
    if parts.query or parts.fragment:
        raise ConfigError("the endpoint must not hold a query: give https://host, and credentials by the AWS chain")
    # Some characters end the host for some parsers only: these would connect to another host than the one checked here.
    if parts.scheme not in {"http", "https"} or not (address or NAME.fullmatch(name)) or not url.isprintable():
        raise ConfigError(f"the endpoint {url!r} is not a URL such as https://s3.example.com")
    address = address or _literal(name)
    addresses = [address] if address else [ipaddress.ip_address(found) for found in resolver(name)]
    if name in METADATA_NAMES or any(_is_metadata(found) for found in addresses):
        raise ConfigError(f"the endpoint {url!r} is a metadata service or a link-local address, not an object store")
    return url


def _literal(host: str) -> Address | None:
    """Parse an IP address in any notation, such as 2852039166, 0xa9fea9fe, 0251.0376.0251.0376, 169.254.43518."""
    try:
        return ipaddress.ip_address(host.replace("%25", "%"))
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _is_metadata(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        address = ipaddress.IPv6Address(int(address))  # without the zone: fe80::1%eth0
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and (address in NAT64 or int(address) >> 32 == 0):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and _is_metadata(inner):
            return True
    return address.is_link_local or address in METADATA_ADDRESSES
