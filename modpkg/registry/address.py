"""The address of a registry, checked before any library gets it."""

from __future__ import annotations

from urllib.parse import urlsplit

from modpkg.core.bounds import ADDRESS_CHARACTERS
from modpkg.core.errors import RegistryError
from modpkg.core.hub_address import is_hub_address, parse_hub_address
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.oci_address import is_oci_address
from modpkg.manifest.config import SCHEMES
from modpkg.manifest.normal_address import origin

_LOCAL = ("", "localhost")
_PLAIN_HOST = lazy_pattern("[!-$&-~]+")
"""In its normal form: there, an escape or a letter beyond ASCII is one that no standard maps."""


def check_address(address: str) -> None:
    """Check that an address is a URL of a kind that registries have, or may be a path.

    Raises:
        RegistryError: It is neither.
    """
    reason = _problem(address)
    if reason is not None:
        raise RegistryError("M845", address=address, reason=reason)


def _problem(address: str) -> str | None:
    if len(address) > ADDRESS_CHARACTERS:
        return f"it is over {ADDRESS_CHARACTERS:,} characters"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in address):
        return "it has a control character"
    if "://" not in address:
        return None
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return "its host is not one"
    try:
        _ = parts.port
    except ValueError:
        return "its port is no number up to 65535"
    if is_oci_address(address):
        return "an OCI registry holds models ('modpkg export NAME oci://…'), and no modules"
    if parts.scheme not in SCHEMES:
        return f"a registry is at one of {', '.join(SCHEMES)}, and not at {parts.scheme!r}"
    if parts.scheme == "file":
        other = (host or "") not in _LOCAL
        return "a file of another machine is not to be had by an address" if other else None
    if is_hub_address(address):
        parse_hub_address(address)
        return None
    if any(letter.isspace() for letter in parts.netloc) or "\\" in parts.netloc or not host:
        return "its host is not one"
    if parts.scheme in ("http", "https") and not _PLAIN_HOST.fullmatch(origin(address)[1]):
        return "its host may be read as one name or another; write it in ASCII (xn--…)"
    return None
