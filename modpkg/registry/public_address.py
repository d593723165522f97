"""Whether an address is one of the internet, or of a network that is more private."""

from __future__ import annotations

import ipaddress

_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses behind NAT64 (RFC 6052)."""


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether anybody on the internet can be asked at an address, and only there.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("8.8.8.8", "10.0.0.1", "::ffff:10.0.0.1")]
    [True, False, False]
    """
    if (inner := _inner(address)) is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv6Address) and address.teredo is not None:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def privacy_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """Return how private an address is: 0 for the internet, 2 for this machine or its link alone.

    >>> texts = ("8.8.8.8", "10.0.0.1", "169.254.0.1", "::1", "::ffff:169.254.0.1")
    >>> [privacy_of(ipaddress.ip_address(text)) for text in texts]
    [0, 1, 2, 2, 2]
    """
    if is_public(address):
        return 0
    address = _inner(address) or address
    return 1 if address.is_private and not (address.is_loopback or address.is_link_local) else 2


def _inner(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    """Return the address of version 4 that one of version 6 stands for; None if it has none."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address.teredo is None and address in _TRANSLATED:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner
