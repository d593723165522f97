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
_NUMBER = lazy_pattern(r"0x[0-9a-f]*|[0-9]+")
_DOT = lazy_pattern("[\u3002\uff0e\uff61]")
"""Full stops that separate the parts of a name as "." does (RFC 3490, 3.1)."""
_NO_HOST = lazy_pattern(r"[\x00-\x20\x7f#%/:<>?@\[\\\]^|]")
"""What no host has: the "forbidden domain code points" of WHATWG."""
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

    Of URLs of http and https that is what RFC 3986 calls normal (6.2.2, 6.2.3), with a host as
    WHATWG's URL standard has it, and neither a user nor what comes after the path counts. A name in
    an object store stays as it is.

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
    """Return a host as the URL standard of WHATWG has it; as it is, if that has none for it.

    It is in ASCII and in lower case, without the dot that may end it, and addresses are in their
    usual form. A name is not looked up: ``localhost`` is another host than ``127.0.0.1``.
    """
    try:
        if ":" in host:
            from ipaddress import IPv6Address  # seldom needed

            return IPv6Address(host).compressed
        name = unquote(host, errors="strict").lower() if "%" in host else host
        if not name.isascii():
            name = _in_ascii(name)
        if not _NO_HOST.search(name):
            host = _dotted(name.removesuffix("."))
    except ValueError:  # UnicodeError is one
        pass
    return host


def _in_ascii(host: str) -> str:
    """Return a name as DNS has it.

    Raises:
        ValueError: It has none, or two: IDNA of 2003, which Python knows, and of 2008, by which
            registries are read, take letters such as "ß" for others, so that two hosts would be
            one.
    """
    from unicodedata import normalize  # seldom needed

    host = _DOT.sub(".", host)
    name = host.encode("idna").decode("ascii")
    if name.encode().decode("idna").lower() != normalize("NFKC", host).lower():
        raise ValueError(host)
    return name


def _dotted(host: str) -> str:
    """Return a host; an IPv4 address, in whatever numbers it is written, as four of them.

    https://url.spec.whatwg.org/#concept-ipv4-parser

    >>> _dotted("127.1"), _dotted("0x7f000001"), _dotted("0177.0.0.01"), _dotted("1.example")
    ('127.0.0.1', '127.0.0.1', '127.0.0.1', '1.example')

    Raises:
        ValueError: It ends like an address, and is none; or it ends in nothing.
    """
    parts = host.split(".")
    if not parts[-1]:
        raise ValueError(host)
    if not _NUMBER.fullmatch(parts[-1]):
        return host
    *first, last = [_number(part) for part in parts]
    if len(parts) > 4 or any(number > 255 for number in first) or last >= 256 ** (5 - len(parts)):
        raise ValueError(host)
    rest = last.to_bytes(4 - len(first), "big")
    return ".".join(map(str, [*first, *rest]))


def _number(text: str) -> int:
    """Return a number of an IPv4 address, as C writes it.

    Raises:
        ValueError: It is none.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    if text[:2] == "0x":
        return int(text[2:] or "0", 16)
    return int(text, 8 if text[0] == "0" else 10)


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
