"""What an OCI registry asks for before it answers, and the token that its server of tokens gives.

RFC 9110 (11.6.1) has the form of a challenge, Distribution's "Token Authentication" that of an
answer with a token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

_CHALLENGE = re.compile(r'(?:^|[\s,])(bearer|basic)\s+|([a-z_]+)="([^"]*)"', re.IGNORECASE)
_TOKEN = re.compile(r"[\x21-\x7e]{1,32768}")


class _Token(Struct):
    token: str = ""
    access_token: str = ""


_decode = msgspec.json.Decoder(_Token).decode


def challenge_in(headers: Sequence[str]) -> dict[str, str] | None:
    """Return what a registry asks for: the parameters, and under ``""`` the scheme.

    A token is preferred to a password.

    >>> challenge_in(['Bearer realm="https://a.example/token",service="a"'])
    {'': 'bearer', 'realm': 'https://a.example/token', 'service': 'a'}
    """
    found: list[dict[str, str]] = []
    for header in headers[:8]:
        for scheme, key, value in _CHALLENGE.findall(header[:8192]):
            if scheme:
                found.append({"": scheme.lower()})
            elif found:
                found[-1].setdefault(key.lower(), value)
    found.sort(key=lambda challenge: challenge[""] != "bearer")
    return found[0] if found else None


def token_in(data: bytes) -> str | None:
    """Return the token in an answer; None if it has none that can be sent.

    >>> token_in(b'{"token": "abc"}'), token_in(b'{"token": "a b"}')
    ('abc', None)
    """
    try:
        given = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    token = given.token or given.access_token
    return token if _TOKEN.fullmatch(token) else None
