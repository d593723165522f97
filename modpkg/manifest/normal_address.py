"""The normal form of an address: what is one registry is one, however its address is written.

What was seen of a registry, what a lock has from it, and the login for it are found by it.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from modpkg.core.hub_address import is_hub_address
from modpkg.core.lazy_pattern import lazy_pattern

_PORTS = {"http": 80, "https": 443}
_ESCAPE = lazy_pattern(r"%([0-9A-Fa-f]{2})")
_NOT_PLAIN = lazy_pattern(r"[^!-~]+")
_UNRESERVED = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"  # RFC 3986, 2.3
)


def origin(address: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of an address.

    >>> origin("HTTPS://Models.example.:443/acme")
    ('https', 'models.example', 443)
    """
    parts = urlsplit(address)
    default = _PORTS.get(parts.scheme)
    port = default if parts.port is None else parts.port
    host = parts.hostname or ""
    return parts.scheme, _host(host) if parts.scheme in _PORTS else host, port


def origin_text(address: str) -> str:
    """Return scheme, host and port of an address as text; the whole of one that has none.

    >>> origin_text("HTTPS://Models.example:443/acme")
    'https://models.example'
    """
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return normal_address(f"{parts.scheme}://{host}") if host else address


def normal_address(address: str) -> str:
    """Return the normal form of a URL, or of the path of a folder, to compare it with others.

    Of URLs of http and https that is what RFC 3986 calls normal (6.2.2, 6.2.3), and neither a user
    nor what comes after the path counts. A name in an object store stays as it is.

    >>> normal_address("HTTPS://ada@Models.example.:443/a/../%61cme/")
    'https://models.example/acme'
    >>> normal_address("file:///srv/models/"), normal_address("/srv/x/../models")
    ('/srv/models', '/srv/models')
    """
    if is_hub_address(address):
        return address.rstrip("/")  # names of a hub have upper and lower case
    if "://" not in address:
        return os.path.normpath(address) if Path(address).is_absolute() else address
    try:
        scheme, host, port = origin(address)
    except ValueError:  # not a port
        return address
    parts = urlsplit(address)
    if scheme == "file":
        return os.path.normpath(unquote(parts.path))
    place = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS.get(scheme):
        place = f"{place}:{port}"
    if scheme in _PORTS:
        return f"{scheme}://{place}{_normal_path(parts.path)}"
    user = f"{parts.username}@" if parts.username else ""  # the container of abfs://
    return f"{scheme}://{user}{place}{parts.path.rstrip('/')}"


def site_name(address: str) -> str:
    """Return the name of the folder or file that has what is remembered of a registry."""
    return hashlib.sha256(normal_address(address).encode()).hexdigest()[:32]


def _host(host: str) -> str:
    """Return a host without the dot that may end it, in ASCII, and IPv6 in its short form."""
    try:
        if ":" in host:
            from ipaddress import IPv6Address  # seldom needed

            return IPv6Address(host).compressed
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError is one
        return host
    return host.removesuffix(".") or host


def _normal_path(path: str) -> str:
    """Return a path without needless escapes, dot segments, and a slash at its end."""
    parts: list[str] = []
    path = _ESCAPE.sub(_unescaped, _NOT_PLAIN.sub(lambda match: quote(match[0]), path))
    for part in path.split("/"):
        if part == "..":
            del parts[max(len(parts) - 1, 1) :]  # the first is what comes before the first slash
        elif part != ".":
            parts.append(part)
    return "/".join(parts).rstrip("/")


def _unescaped(match: re.Match[str]) -> str:
    letter = chr(int(match[1], 16))
    return letter if letter in _UNRESERVED else match[0].upper()
