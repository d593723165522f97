"""The tables of the server's database; a change of them is a new file of ``migrations``."""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    event,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from modpkg.core.look_alike import skeleton


class Moment(TypeDecorator[datetime.datetime]):
    """A moment in UTC; SQLite does not keep the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(
        self, value: datetime.datetime | None, dialect: Dialect
    ) -> datetime.datetime | None:
        return None if value is None else value.astimezone(datetime.timezone.utc)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.timezone.utc)
        moment: datetime.datetime = value.astimezone(datetime.timezone.utc)
        return moment


Big = BigInteger().with_variant(Integer(), "sqlite")
"""Integers that count by themselves: those of SQLite are of this type only."""


class ServerTable(DeclarativeBase):
    """The base of all tables; constraints have names, by which a migration changes them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime.datetime: Moment, str: Text, dict[str, Any]: JSON}  # noqa: RUF012


def _skeleton(context: DefaultExecutionContext) -> str:
    name: str = context.get_current_parameters()["name"]  # type: ignore[no-untyped-call]
    return skeleton(name)


class Account(ServerTable):
    """A person or an organisation; both are named in one space, and can own modules."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(Big, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    skeleton: Mapped[str] = mapped_column(String(100), index=True, default=_skeleton)
    """What names that look alike have in common; see `modpkg.core.look_alike`."""
    is_organisation: Mapped[bool] = mapped_column(default=False)
    full_name: Mapped[str] = mapped_column(default="")
    email: Mapped[str] = mapped_column(default="")
    password: Mapped[str | None]
    """Its Argon2 hash; None for organisations, and for people who log in elsewhere."""
    is_administrator: Mapped[bool] = mapped_column(default=False)
    created: Mapped[datetime.datetime]
    disabled: Mapped[datetime.datetime | None]


class Membership(ServerTable):
    """A person in an organisation."""

    __tablename__ = "memberships"
    organisation_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, index=True)
    role: Mapped[str]
    """``owner`` or ``member``."""


class MemberInvitation(ServerTable):
    """A person whom an organisation wants as a member, until he accepts."""

    __tablename__ = "member_invitations"
    organisation_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, index=True)
    role: Mapped[str]
    """``owner`` or ``member``."""
    by_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    invited: Mapped[datetime.datetime]


class Identity(ServerTable):
    """Who a person is for an issuer of OpenID Connect."""

    __tablename__ = "identities"
    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)


class ApiToken(ServerTable):
    """A token of a person, or of a trusted publisher for a short time."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(Big, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """The SHA-256 of the token, which is kept nowhere."""
    beginning: Mapped[str] = mapped_column(default="")
    """Its first characters, by which people tell theirs apart."""
    actions: Mapped[str]
    """Separated by spaces; see `modpkg.server.callers.ACTIONS`."""
    modules: Mapped[str] = mapped_column(default="*")
    """Patterns of names, separated by spaces."""
    created: Mapped[datetime.datetime]
    expires: Mapped[datetime.datetime | None]
    revoked: Mapped[datetime.datetime | None]
    used: Mapped[datetime.datetime | None]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("tokens.id"), index=True)
    """The token that it was made with, and ends with."""
    publisher_id: Mapped[int | None] = mapped_column(ForeignKey("publishers.id"), index=True)


class WebLogin(ServerTable):
    """A login of a browser."""

    __tablename__ = "logins"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The SHA-256 of the cookie's value."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    csrf: Mapped[str]
    created: Mapped[datetime.datetime]
    expires: Mapped[datetime.datetime]


class FailedAttempts(ServerTable):
    """How often somebody failed to prove who he is; several servers count together."""

    __tablename__ = "attempts"
    what: Mapped[str] = mapped_column(String(200), primary_key=True)
    """Such as ``name ada`` or ``address 192.0.2.1``."""
    since: Mapped[datetime.datetime] = mapped_column(index=True)
    count: Mapped[int]


class Invitation(ServerTable):
    """A code with which somebody may make one account."""

    __tablename__ = "invitations"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    by_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    expires: Mapped[datetime.datetime]


class OpenidRequest(ServerTable):
    """A browser that was sent to an issuer, until it comes back."""

    __tablename__ = "openid_requests"
    state: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The SHA-256 of what the issuer sends back, and of the browser's cookie."""
    issuer: Mapped[str]
    nonce: Mapped[str]
    verifier: Mapped[str]
    """Of PKCE (RFC 7636)."""
    next: Mapped[str]
    """The path of the page that is shown afterwards."""
    login: Mapped[str] = mapped_column(default="")
    """The digest of the browser's login, to whose account what it comes back with is linked; empty
    where it is to log in."""
    expires: Mapped[datetime.datetime] = mapped_column(index=True)


class UsedIdToken(ServerTable):
    """A token of a CI that was exchanged, and is not taken again."""

    __tablename__ = "used_id_tokens"
    issuer: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    """Its ``jti``, or the SHA-256 of what is signed."""
    expires: Mapped[datetime.datetime] = mapped_column(index=True)


class Module(ServerTable):
    """The rights on a module; its releases are in the storage."""

    __tablename__ = "modules"
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    skeleton: Mapped[str] = mapped_column(String(100), index=True, default=_skeleton)
    """What names that look alike have in common; see `modpkg.core.look_alike`."""
    is_private: Mapped[bool] = mapped_column(default=False)
    archived: Mapped[str | None]
    """Why nothing more is published; None while something may be."""
    created: Mapped[datetime.datetime]


class PrivateBlob(ServerTable):
    """A blob that a private module has; derived from the storage."""

    __tablename__ = "private_blobs"
    digest: Mapped[str] = mapped_column(String(80), primary_key=True)
    module: Mapped[str] = mapped_column(ForeignKey("modules.name"), primary_key=True)


class Role(ServerTable):
    """What an account is for a module: ``owner``, ``maintainer`` or ``reviewer``."""

    __tablename__ = "roles"
    module: Mapped[str] = mapped_column(ForeignKey("modules.name"), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, index=True)
    role: Mapped[str]


class RoleInvitation(ServerTable):
    """A role for a module that its owner offers to an account, until that one accepts it."""

    __tablename__ = "role_invitations"
    module: Mapped[str] = mapped_column(ForeignKey("modules.name"), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True, index=True)
    role: Mapped[str]
    """``owner``, ``maintainer`` or ``reviewer``."""
    by_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    offered: Mapped[datetime.datetime]


class Transfer(ServerTable):
    """A module that its owner offers to another account, until that one takes it."""

    __tablename__ = "transfers"
    module: Mapped[str] = mapped_column(ForeignKey("modules.name"), primary_key=True)
    to_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    by_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    offered: Mapped[datetime.datetime]


class TrustedPublisher(ServerTable):
    """A CI job, known by claims of its issuer, that may publish a module."""

    __tablename__ = "publishers"
    id: Mapped[int] = mapped_column(Big, primary_key=True)
    module: Mapped[str] = mapped_column(ForeignKey("modules.name"), index=True)
    issuer: Mapped[str]
    claims: Mapped[dict[str, Any]]
    """What the job has to be, and what was learned of its repository when it first published."""
    created_by: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    created: Mapped[datetime.datetime]
    removed: Mapped[datetime.datetime | None]
    """Since when it may not publish any more; None while it may."""


class PublishingSession(ServerTable):
    """A release that is being uploaded."""

    __tablename__ = "sessions"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Random, not to be guessed."""
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    module: Mapped[str] = mapped_column(String(100), index=True)
    version: Mapped[str]
    release: Mapped[str] = mapped_column(String(80), default="")
    """The release digest."""
    line: Mapped[str]
    """The index line, as JSON: as declared, and once it is committed as it was published."""
    size: Mapped[int] = mapped_column(Big, default=0)
    """Bytes of the blobs that were declared."""
    is_candidate: Mapped[bool] = mapped_column(default=False)
    message: Mapped[str] = mapped_column(default="")
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created: Mapped[datetime.datetime]
    expires: Mapped[datetime.datetime] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(default="open")
    """``open`` or ``committed``."""
    number: Mapped[int | None]
    """Of the candidate that it has become."""


class SessionBlob(ServerTable):
    """A blob that a session has declared."""

    __tablename__ = "session_blobs"
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), primary_key=True)
    size: Mapped[int] = mapped_column(Big)


class Event(ServerTable):
    """Who did what, when; only added to."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Big, primary_key=True)
    at: Mapped[datetime.datetime]
    actor: Mapped[str] = mapped_column(String(100), index=True)
    """The name of an account, as it was then."""
    action: Mapped[str] = mapped_column(String(40))
    """Such as ``publish``, ``yank``, ``owner.add``."""
    module: Mapped[str | None] = mapped_column(String(100), index=True)
    version: Mapped[str | None]
    is_public: Mapped[bool] = mapped_column(default=True)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


class DownloadCount(ServerTable):
    """How often a release was fetched from this server in a day."""

    __tablename__ = "downloads"
    __table_args__ = (UniqueConstraint("module", "version", "day"),)
    id: Mapped[int] = mapped_column(Big, primary_key=True)
    module: Mapped[str] = mapped_column(String(100))
    version: Mapped[str]
    day: Mapped[str] = mapped_column(String(10))
    count: Mapped[int]


ONLY_ADDED = {
    "sqlite": [
        f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are only added'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION events_only_added() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'events are only added'; END $$",
        "CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON events "
        "FOR EACH ROW EXECUTE FUNCTION events_only_added()",
        "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION events_only_added()",
    ],
}
"""By kind of database, what refuses any change of an event, whoever asks for it."""
for _kind, _statements in ONLY_ADDED.items():
    for _statement in _statements:
        event.listen(
            Event.__table__,
            "after_create",
            DDL(_statement).execute_if(dialect=_kind),  # type: ignore[no-untyped-call]
        )
