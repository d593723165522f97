"""What a client and a server say to each other about people, tokens and rights.

`registry_spec/server.md` has the requests; `modpkg.registry.session_records` has those of
publishing. Moments are UTC times, as ``2026-11-28T10:00:00Z``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from modpkg.core.printable import ONE_LINE
from modpkg.core.records import Line

SecretText = Annotated[str, Meta(max_length=10_000)]
"""A password or a token, as it is sent."""
Listed = Annotated[list[Line], Meta(max_length=100)]
Action = Literal["read", "publish", "submit", "review", "yank", "manage"]
ModuleRole = Literal["owner", "maintainer", "reviewer"]
Label = Annotated[str, Meta(pattern=ONE_LINE, max_length=200)]
"""A short text for people."""


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
    organisations: Listed = []


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
    invited: Annotated[list[RoleHolder], Meta(max_length=10_000)] = field(default_factory=list)
    """Who has not accepted a role yet: for the module's owners all, for others what is theirs."""


class RoleRequest(Struct, frozen=True):
    """A role to give: ``PUT modules/NAME/owners/ACCOUNT``.

    Who has none is offered it, and has it by ``POST modules/NAME/owners/ACCOUNT/accept``.
    ``DELETE`` of ``modules/NAME/owners/ACCOUNT`` takes the role or the offer away.
    """

    role: ModuleRole


class TransferRequest(Struct, frozen=True):
    """Whom a module is offered to: ``POST modules/NAME/transfer``.

    ``POST modules/NAME/transfer/accept`` by that account makes it the owner, and ``DELETE
    modules/NAME/transfer`` by either side ends it.
    """

    to: Line


class Registration(Struct, frozen=True, kw_only=True):
    """Somebody who wants an account: ``POST register``, which answers with `Me`."""

    name: Label
    password: SecretText
    email: Label = ""
    invitation: Label | None = None
    """Needed where the registry does not let anybody in."""


class PasswordChange(Struct, frozen=True):
    """A new password, and the old one, which shows who it is: ``PUT me/password``."""

    old: SecretText
    new: SecretText


class AccountClosing(Struct, frozen=True):
    """The password of who closes his own account, which shows who it is: ``POST me/close``."""

    password: SecretText


class AccountChange(Struct, frozen=True, kw_only=True):
    """What an administrator changes of an account: ``PUT accounts/NAME``; None is left as it is."""

    disabled: bool | None = None
    """Whether it is closed: its tokens and logins end."""
    password: SecretText | None = None
    """A new one, for who has lost his."""


class NewInvitation(Struct, frozen=True):
    """An invitation to make one account, which is shown this once: ``POST invitations``."""

    code: Line
    expires: Line


class OfferedModule(Struct, frozen=True):
    """A module that is offered to another account."""

    module: Line
    to: Line
    by: Line
    offered: Line


class OfferedRole(Struct, frozen=True):
    """A role for a module that is offered to an account."""

    module: Line
    role: ModuleRole
    to: Line
    by: Line
    offered: Line


class OfferList(Struct, frozen=True):
    """What is offered to whoever asks, and to his organisations: ``GET transfers``."""

    transfers: Annotated[list[OfferedModule], Meta(max_length=10_000)]
    """Modules; those too that he offers."""
    roles: Annotated[list[OfferedRole], Meta(max_length=10_000)] = field(default_factory=list)


class OrganisationRequest(Struct, frozen=True, kw_only=True):
    """An organisation to found, which who asks owns: ``POST organisations``."""

    name: Label
    full_name: Label = ""


class OrganisationMember(Struct, frozen=True):
    """A person in an organisation."""

    name: Line
    role: Literal["owner", "member"]


class OrganisationInfo(Struct, frozen=True, kw_only=True):
    """An organisation, and who is in it: ``GET organisations/NAME``."""

    name: Line
    full_name: Line
    members: Annotated[list[OrganisationMember], Meta(max_length=10_000)]
    invited: Annotated[list[OrganisationMember], Meta(max_length=10_000)] = field(
        default_factory=list
    )
    """Who has not accepted yet: for the organisation's owners all, for others themselves."""


class MemberRequest(Struct, frozen=True):
    """The role that a person gets: ``PUT organisations/NAME/members/PERSON``.

    Who is no member is invited, and becomes one by ``POST organisations/NAME/accept``. ``DELETE``
    of the same takes the role or the invitation away.
    """

    role: Literal["owner", "member"] = "member"


class OrganisationInvitation(Struct, frozen=True):
    """An organisation that wants somebody as a member."""

    organisation: Line
    role: Literal["owner", "member"]
    by: Line
    invited: Line


class OrganisationInvitations(Struct, frozen=True):
    """The organisations that whoever asks is invited to: ``GET me/invitations``."""

    invitations: Annotated[list[OrganisationInvitation], Meta(max_length=10_000)]


class PublisherRequest(Struct, frozen=True, kw_only=True):
    """A CI job that may publish a module: ``POST modules/NAME/trusted-publishers``."""

    issuer: Label
    """The address of the issuer, such as ``https://token.actions.githubusercontent.com``."""
    repository: Label
    """``OWNER/NAME``."""
    workflow: Label
    """The file of the workflow, such as ``release.yml``."""
    environment: Label = ""
    """The environment that the job has to run in; empty for any."""


class PublisherInfo(Struct, frozen=True, kw_only=True):
    """A CI job that may publish a module; ``DELETE modules/NAME/trusted-publishers/ID`` ends it."""

    id: int
    issuer: Line
    repository: Line
    workflow: Line
    environment: Line
    created_by: Line
    created: Line


class PublisherList(Struct, frozen=True):
    """The CI jobs that may publish a module: ``GET modules/NAME/trusted-publishers``."""

    publishers: Annotated[list[PublisherInfo], Meta(max_length=10_000)]


class TokenAudience(Struct, frozen=True):
    """The audience that the token of a CI job has to be for: ``GET oidc/audience``."""

    audience: Line


class LoggedEvent(Struct, frozen=True, kw_only=True):
    """Who did what, when."""

    id: int
    at: Line
    actor: Line
    action: Line
    module: Line = ""
    version: Line = ""
    details: dict[str, Any] = {}


class EventList(Struct, frozen=True):
    """Some events, the latest first: ``GET events?module=&person=&before=``."""

    events: Annotated[list[LoggedEvent], Meta(max_length=1000)]
    before: int | None = None
    """What to ask with for those before them; None if there are none."""
