"""What proves to a registry who asks: a token, or a user and a password."""

from __future__ import annotations

import base64
import os

from msgspec import Struct

from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.redacted import is_token
from modpkg.manifest.stored_logins import StoredToken
from modpkg.toml.node import Node

_SENDABLE = lazy_pattern(r"[\x21-\x7e]+")


class Secret(Struct, frozen=True):
    """A secret: in the file, or in an environment variable that the file names."""

    node: Node
    in_environment: bool

    def __repr__(self) -> str:
        return f"Secret(in_environment={self.in_environment})"

    def reveal(self) -> str:
        """Return the secret.

        Raises:
            ManifestError: The variable is not set.
        """
        text = self.node.text(most=10_000)
        if not self.in_environment:
            return text
        if not (value := os.environ.get(text, "").strip()):
            name = f" {text}" if text.isupper() and not is_token(text) else ""
            raise self.node.fail(f"names an environment variable{name} that is not set; set it")
        return value


class Token(Struct, frozen=True):
    """Authentication by a bearer token."""

    token: Secret

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return (self.token,)

    def authorization(self) -> str:
        """Return the value of the header ``Authorization``.

        Raises:
            ManifestError: An environment variable is not set, or its value cannot be sent.
        """
        token = self.token.reveal()
        if not _SENDABLE.fullmatch(token):
            raise self.token.node.fail("has a space or a letter that no token can have")
        return f"Bearer {token}"

    def echoes(self) -> tuple[bytes, ...]:
        """Return what no answer of the server may have in it."""
        return _long_enough(self.token.reveal())


class Password(Struct, frozen=True):
    """HTTP basic authentication: a username and a password."""

    username: Secret
    password: Secret

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return (self.username, self.password)

    def authorization(self) -> str:
        """Return the value of the header ``Authorization``.

        Raises:
            ManifestError: See `Token`.
        """
        username = self.username.reveal()
        if ":" in username:
            raise self.username.node.fail("has a ':' in it, which no username can have")
        pair = f"{username}:{self.password.reveal()}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def echoes(self) -> tuple[bytes, ...]:
        """Return what no answer of the server may have in it."""
        username, encoded = self.username.reveal(), self.authorization().removeprefix("Basic ")
        parts = [self.password.reveal(), *([username] if is_token(username) else [])]
        return _long_enough(encoded, *parts)


class SentToken(Struct, frozen=True):
    """A bearer token that another tool keeps, or that comes from the environment."""

    token: str
    remedy: str = ""
    """What helps where the token is not accepted; empty if the settings are to be corrected."""

    def __repr__(self) -> str:
        return "SentToken()"

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return ()

    def authorization(self) -> str:
        """Return the value of the header ``Authorization``."""
        return f"Bearer {self.token}"

    def echoes(self) -> tuple[bytes, ...]:
        """Return what no answer of the server may have in it."""
        return _long_enough(self.token)


def _long_enough(*secrets: str) -> tuple[bytes, ...]:
    """Return secrets that no honest file has in it by chance: a word of a language can be there."""
    return tuple(
        text.encode()
        for text in secrets
        if len(text) >= 8 and (len(text) >= 24 or not text.isalpha())
    )


Login = Token | Password | SentToken | StoredToken
