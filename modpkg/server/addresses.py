"""From where a request comes."""

from __future__ import annotations

import ipaddress
from typing import Any

from litestar.connection import ASGIConnection

from modpkg.server.settings import ServerSettings

NOWHERE = "unknown"


def address_of(settings: ServerSettings, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the address that a request comes from; for IPv6 the network, which one site has.

    What a proxy in front of the server writes into ``X-Forwarded-For`` counts only if the operator
    names its address: anybody can send that header.
    """
    client = connection.client
    found = _parsed(client.host if client is not None else "")
    proxies = [ipaddress.ip_network(text) for text in settings.proxies]
    if found is not None and proxies:
        sent = connection.headers.getall("x-forwarded-for", [])
        for part in reversed(",".join(sent).split(",")):
            if not any(found in network for network in proxies):
                break
            before = _parsed(part.strip())
            if before is None:
                break
            found = before
    if found is None:
        return NOWHERE
    if found.version == 6:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def is_loopback(address: str) -> bool:
    """Return whether an address that `address_of` returned is this machine's own."""
    return address.startswith("127.") or address == "::/64"


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
