"""Who asks: a person with a token or a browser's login, or anybody."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import get_args

from litestar.connection import ASGIConnection
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused
from modpkg.registry.api_records import Action
from modpkg.server.clock import now
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken, TrustedPublisher, WebLogin

ACTIONS: tuple[Action, ...] = get_args(Action)
"""What a token can be for; a browser's login is for all."""
BEGINNING = "modpkg_"
"""What each token begins with."""


class Caller(Struct, frozen=True, kw_only=True):
    """Who sent a request."""

    account_id: int | None = None
    """None for somebody unknown."""
    name: str = ""
    is_administrator: bool = False
    actions: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    """Of the modules that a token is for."""
    token_id: int | None = None
    publisher_module: str | None = None
    """The one module that a trusted publisher's token is for; such a token has no person's rights.
    """
    login: str = ""
    """The digest of a browser's login."""
    csrf: str = ""
    """Of a browser's login: what its forms have to send back."""

    @property
    def is_known(self) -> bool:
        return self.account_id is not None

    def reaches(self, action: str, module: str) -> bool:
        """Return whether the token, if any, is for an action on a module."""
        return action in self.actions and any(fnmatchcase(module, one) for one in self.patterns)


ANYBODY = Caller()


def secret_digest(secret: str) -> str:
    """Return what is kept of a token or a cookie."""
    return hashlib.sha256(secret.encode()).hexdigest()


def check_known(caller: Caller, action: str, what: str) -> int:
    """Check that it is known who asks, and return the account's number.

    Raises:
        AccessRefused: It is not.
    """
    if caller.account_id is None:
        raise AccessRefused("M431", action=action, module=what)
    return caller.account_id


def caller_for(account: Account) -> Caller:
    """Return a person who has just proved who he is, without a token or a login yet."""
    return Caller(
        account_id=account.id,
        name=account.name,
        is_administrator=account.is_administrator,
        actions=frozenset(ACTIONS),
        patterns=("*",),
    )


def caller_of(server: Server, connection: ASGIConnection) -> Caller:  # type: ignore[type-arg]
    """Return who sent a request.

    Raises:
        AccessRefused: A token is wrong, expired or revoked.
    """
    # To the API only tokens are sent, but for reading: what a form of another site makes a
    # browser send there has no effect.
    cookie = connection.cookies.get(server.cookie)
    if connection.scope["path"].startswith("/api/") and not _is_reading(connection):
        cookie = None
    return caller_by(server, connection.headers.get("authorization"), cookie)


def caller_by(server: Server, authorization: str | None, cookie: str | None) -> Caller:
    """Return who sends a header, or else the cookie of a login.

    Raises:
        AccessRefused: A token is wrong, expired or revoked.
    """
    if authorization is None and cookie is None:
        return ANYBODY
    with server.database.begin() as db:
        if authorization is not None:
            return _by_token(db, authorization)
        return ANYBODY if cookie is None else _by_login(db, cookie)


def _is_reading(connection: ASGIConnection) -> bool:  # type: ignore[type-arg]
    return connection.scope.get("method") in ("GET", "HEAD")


def _by_token(db: Session, sent: str) -> Caller:
    kind, _, token = sent.partition(" ")
    row = None
    if kind.lower() == "bearer" and token.startswith(BEGINNING):
        row = db.scalar(select(ApiToken).where(ApiToken.digest == secret_digest(token)))
    moment = now()
    account = None if row is None else db.get(Account, row.account_id)
    if (
        row is None
        or account is None
        or account.disabled is not None
        or row.revoked is not None
        or (row.expires is not None and row.expires <= moment)
    ):
        raise AccessRefused("M430")
    module = None
    if row.publisher_id is not None:
        module = db.get_one(TrustedPublisher, row.publisher_id).module
    if row.used is None or (moment - row.used).total_seconds() > 60:
        row.used = moment
    return Caller(
        account_id=account.id,
        name=account.name,
        is_administrator=account.is_administrator and module is None,
        actions=frozenset(row.actions.split()),
        patterns=tuple(row.modules.split()),
        token_id=row.id,
        publisher_module=module,
    )


def _by_login(db: Session, cookie: str) -> Caller:
    row = db.get(WebLogin, secret_digest(cookie))
    account = None if row is None or row.expires <= now() else db.get(Account, row.account_id)
    if row is None or account is None or account.disabled is not None:
        return ANYBODY
    return Caller(
        account_id=account.id,
        name=account.name,
        is_administrator=account.is_administrator,
        actions=frozenset(ACTIONS),
        patterns=("*",),
        login=row.digest,
        csrf=row.csrf,
    )
