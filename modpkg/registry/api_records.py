"""What a client and a server say to each other about people, tokens and rights.

`registry_spec/server.md` has the requests; `modpkg.registry.session_records` has those of
publishing. Moments are UTC times, as ``2026-11-28T10:00:00Z``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from modpkg.core.records import Line

SecretText = Annotated[str, Meta(max_length=10_000)]
"""A password or a token, as it is sent."""
Listed = Annotated[list[Line], Meta(max_length=100)]
Action = Literal["read", "publish", "submit", "review", "yank", "manage"]
ModuleRole = Literal["owner", "maintainer", "reviewer"]


class ErrorAnswer(Struct, frozen=True):
    """Why a request was refused."""

    code: str
    message: str


class Me(Struct, frozen=True):
    """Who a token belongs to, and what it is for: ``GET me``."""

    name: Line
    """Empty for somebody unknown."""
    administrator: bool
    actions: Listed
    modules: Listed
    """Patterns of the names that it is for."""
    token: int | None = None
    """The number of the token."""
    expires: Line = ""


class LoginRequest(Struct, frozen=True, kw_only=True):
    """A password, for which a token is given: ``POST login``."""

    name: Line
    password: SecretText
    token_name: Line = ""
    """What the token is called, by which its owner tells it apart."""
    days: Annotated[int, Meta(ge=1, le=3650)] | None = None
    """For how long; None for what the server gives."""


class TokenRequest(Struct, frozen=True, kw_only=True):
    """A token to make, with no more rights than the one that asks: ``POST tokens``."""

    name: Line
    actions: list[Action]
    modules: Listed = field(default_factory=lambda: ["*"])
    """Patterns of names, such as ``acme-*``."""
    days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class TokenInfo(Struct, frozen=True, kw_only=True):
    """What is known of a token; the token itself is kept nowhere."""

    id: int
    name: Line
    beginning: Line
    """Its first characters."""
    actions: Listed
    modules: Listed
    created: Line
    expires: Line = ""
    """Empty for one that does not expire."""
    used: Line = ""
    """When it was last used, to the minute; empty for never."""
    revoked: Line = ""


class TokenList(Struct, frozen=True):
    """The tokens of whoever asks: ``GET tokens``; one is revoked by ``DELETE tokens/ID``."""

    tokens: Annotated[list[TokenInfo], Meta(max_length=10_000)]


class NewToken(Struct, frozen=True):
    """A token that was made, which is shown this once."""

    token: SecretText
    account: Line
    """Whose it is."""
    info: TokenInfo


class IdentityToken(Struct, frozen=True):
    """What an issuer of OpenID Connect gave a CI job, for which a token of some minutes is given:
    ``POST oidc/token``."""

    token: Annotated[str, Meta(max_length=100_000)]
    module: Line
    """What it is going to publish."""


class RoleHolder(Struct, frozen=True):
    """A person or an organisation that has a role for a module."""

    name: Line
    role: ModuleRole
    organisation: bool = False


class TransferInfo(Struct, frozen=True):
    """A module that is offered to another account, until that one accepts it."""

    to: Line
    by: Line
    offered: Line


class ModuleOwners(Struct, frozen=True):
    """Who has which role for a module: ``GET modules/NAME/owners``."""

    module: Line
    holders: Annotated[list[RoleHolder], Meta(max_length=10_000)]
    transfer: TransferInfo | None = None


class RoleRequest(Struct, frozen=True):
    """A role to give: ``PUT modules/NAME/owners/ACCOUNT``; ``DELETE`` there takes it away."""

    role: ModuleRole


class TransferRequest(Struct, frozen=True):
    """Whom a module is offered to: ``POST modules/NAME/transfer``.

    ``POST modules/NAME/transfer/accept`` by that account makes it the owner, and ``DELETE
    modules/NAME/transfer`` by either side ends it.
    """

    to: Line
