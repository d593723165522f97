"""What registries call themselves."""

from __future__ import annotations

import re
import secrets

_UNIQUE = re.compile(r"-[0-9a-f]{8}$")


def new_name(last: str) -> str:
    """Return a name for a new registry, that no other has although many places are called alike.

    >>> plain_name(new_name("models"))
    'models'
    """
    plain = "".join(letter for letter in last if letter.isprintable()).strip()
    return f"{plain[:80] or 'registry'}-{secrets.token_hex(4)}"


def plain_name(name: str) -> str:
    """Return a registry's name without what `new_name` made it unique with."""
    return _UNIQUE.sub("", name)
