"""What registries call themselves."""

from __future__ import annotations

import re
import secrets

import msgspec

from modpkg.core.errors import UsageError
from modpkg.core.records import SPEC, RegistryInfo, RegistryName

_UNIQUE = re.compile(r"-[0-9a-f]{8}$")


def new_name(last: str) -> str:
    """Return a name for a new registry, that no other has although many places are called alike.

    >>> plain_name(new_name("models"))
    'models'
    """
    plain = "".join(letter for letter in last if letter.isprintable()).strip()
    return f"{plain[:80] or 'registry'}-{secrets.token_hex(4)}"


def check_name(name: str) -> None:
    """Check that a new registry can have a name: it can never be changed.

    Raises:
        UsageError: It cannot.
    """
    try:
        msgspec.json.decode(msgspec.json.encode(name), type=RegistryName)
        valid = not name.endswith("\n")
    except (msgspec.ValidationError, UnicodeEncodeError):
        valid = False
    if not valid:
        raise UsageError(
            "M901",
            message=f"{name!r} cannot be a name for a registry: that is one line of at most 100 "
            "characters, which begins with another character than a space.",
        )


def new_info(name: str | None, last: str) -> RegistryInfo:
    """Return the identity of a new registry, called ``name`` or by the end of its address.

    Raises:
        UsageError: It cannot have the name.
    """
    if name is None:
        name = new_name(last)
    check_name(name)
    return RegistryInfo(spec=SPEC, name=name)


def plain_name(name: str) -> str:
    """Return a registry's name without what `new_name` made it unique with."""
    return _UNIQUE.sub("", name)
