"""Addresses of what is in an OCI registry: ``oci://HOST/REPOSITORY[:TAG][@sha256:DIGEST]``.

The grammar is that of the OCI distribution specification (v1.1, "Pulling manifests") and, for the
host, of Docker's references. Nothing here speaks to a registry.
"""

from __future__ import annotations

import ipaddress

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.bounds import ADDRESS_CHARACTERS
from modpkg.core.digests import Digest
from modpkg.core.errors import RegistryError
from modpkg.core.lazy_pattern import lazy_pattern

_SECURE, _PLAIN = "oci://", "oci+http://"
LATEST = "latest"
"""The tag where none is named, as for Docker."""
_ADDRESS = lazy_pattern(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9a-fA-F:]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_REPOSITORY_CHARACTERS = 255


class OciAddress(Struct, frozen=True):
    """A repository of an OCI registry, or what a tag or a digest names in it."""

    host: str
    """With its port, where one is named."""
    repository: str
    tag: str | None = None
    digest: Digest | None = None
    plain: bool = False
    """Whether plain HTTP was asked for."""

    @property
    def name(self) -> str:
        """The last part of the repository's name."""
        return self.repository.rpartition("/")[2]

    @property
    def reference(self) -> str:
        """What is asked for: the digest, else the tag, else the tag ``latest``."""
        return self.digest or self.tag or LATEST

    @property
    def origin(self) -> str:
        """The address of the registry's API; on this machine it is spoken to without TLS."""
        host = "registry-1.docker.io" if self.host == "docker.io" else self.host
        plain = self.plain or is_loopback(self.host)
        return f"{'http' if plain else 'https'}://{host}"

    def pinned(self, digest: Digest) -> OciAddress:
        """Return the address of what has a digest, in the same repository."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        scheme = _PLAIN if self.plain else _SECURE
        return f"{scheme}{self.host}/{self.repository}{tag}{digest}"


def is_oci_address(text: str) -> bool:
    """Return whether a text is meant as the address of an OCI registry."""
    return text.startswith((_SECURE, _PLAIN))


def parse_oci_address(text: str) -> OciAddress:
    """Return the parts of an address.

    >>> address = parse_oci_address("oci://models.example:5000/team/chat:1.2")
    >>> address.repository, address.reference, address.origin
    ('team/chat', '1.2', 'https://models.example:5000')

    Raises:
        RegistryError: It is none.
    """
    plain = text.startswith(_PLAIN)
    rest = text.removeprefix(_PLAIN if plain else _SECURE)
    found = _ADDRESS.fullmatch(rest) if len(text) <= ADDRESS_CHARACTERS else None
    if not is_oci_address(text):
        raise _refusal(text, "it does not begin with oci://")
    if found is None:
        reason = "a repository's name has small letters, digits and single '.', '_', '-' and '/'"
        if "/" not in rest:
            reason = "it names no repository"
        elif "@" in rest.partition("/")[0]:
            reason = "a login does not belong into it; use 'docker login'"
        elif "@" in rest:
            reason = "behind '@' belongs 'sha256:' and 64 lower-case hex digits"
        raise _refusal(text, reason)
    if len(found["repository"]) > _REPOSITORY_CHARACTERS:
        raise _refusal(text, f"its repository has over {_REPOSITORY_CHARACTERS} characters")
    if found["port"] is not None and not 0 < int(found["port"]) < 65536:
        raise _refusal(text, "its port is no number up to 65535")
    host, repository = found["host"].lower(), found["repository"]
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:].partition("]")[0])
        except ValueError:
            raise _refusal(text, "its host is not one") from None
    if host == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    digest = None if found["digest"] is None else Digest(found["digest"])
    return OciAddress(host, repository, found["tag"], digest, plain)


def _refusal(text: str, reason: str) -> RegistryError:
    return RegistryError("M891", address=text[:200], reason=reason)


def is_loopback(host: str) -> bool:
    """Return whether a host, with or without a port, is this machine by its very text.

    >>> is_loopback("localhost:5000"), is_loopback("[::1]:5000"), is_loopback("models.example")
    (True, True, False)
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
