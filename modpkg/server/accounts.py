"""Accounts: made, proved with a password, closed."""

from __future__ import annotations

import datetime
import re
import secrets
from typing import Any

from litestar import Request, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, InvalidValue, NotFound, PublishError, UsageError
from modpkg.core.look_alike import skeleton
from modpkg.core.names import module_name
from modpkg.registry.api_records import (
    AccountChange,
    LoginRequest,
    Me,
    NewInvitation,
    NewToken,
    PasswordChange,
    Registration,
    TokenRequest,
)
from modpkg.server.addresses import address_of
from modpkg.server.api_tokens import create_token, end_tokens
from modpkg.server.callers import ACTIONS, Caller, caller_for, check_known, secret_digest
from modpkg.server.clock import now, shown
from modpkg.server.database import Database
from modpkg.server.events import log_event
from modpkg.server.guessing import count_attempt, forget_attempts
from modpkg.server.passwords import check_password, is_password, password_hash
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken, Invitation, Membership, WebLogin

NAME_CHARACTERS = 40
RESERVED = frozenset(["admin", "administrator", "api", "modpkg", "registry", "root", "system"])
INVITATION = datetime.timedelta(days=14)
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def new_account_name(db: Session, text: str) -> str:
    """Return the normal form of a name that a new person or organisation can have.

    Raises:
        InvalidValue: It is taken, looks like one that is, or cannot be a name.
    """
    name = str(module_name(text))
    reason = None
    if len(name) > NAME_CHARACTERS or not _NAME.fullmatch(name):
        reason = f"it has more than {NAME_CHARACTERS} characters, or others than a-z, 0-9 and -"
    elif name in RESERVED:
        reason = "it is reserved"
    else:
        alike = select(Account.name).where(Account.skeleton == skeleton(name))
        other = db.scalar(alike.limit(1))
        if other is not None:
            reason = "it is taken" if other == name else f"it looks like {other}"
    if reason is not None:
        raise InvalidValue("M435", name=text, reason=reason)
    return name


def add_account(db: Session, text: str, password: str | None, **fields: Any) -> Account:
    """Add an account, whose name nobody has; ``password`` is its hash.

    Raises:
        InvalidValue: It cannot have the name.
    """
    name = new_account_name(db, text)
    account = Account(name=name, password=password, created=now(), **fields)
    try:
        with db.begin_nested():
            db.add(account)
    except IntegrityError:
        raise InvalidValue("M435", name=text, reason="it is taken") from None
    return account


def register(
    database: Database, settings: ServerSettings, wanted: Registration, address: str
) -> Account:
    """Make an account for somebody.

    Raises:
        InvalidValue: The name or the password cannot be used.
        AccessRefused: Invitations are needed, or there were too many attempts.
    """
    count_attempt(database, "register", None, address)
    check_password(wanted.password, wanted.name)
    with database.begin() as db:  # before the work of hashing
        _check_invitation(db, settings, wanted.invitation)
        new_account_name(db, wanted.name)
    kept = password_hash(wanted.password)
    with database.begin() as db:
        code = _check_invitation(db, settings, wanted.invitation)
        account = add_account(db, wanted.name, kept, email=wanted.email)
        if code is not None:
            used = delete_rows(Invitation).where(Invitation.digest == code)
            if db.execute(used).rowcount != 1:  # type: ignore[attr-defined]
                raise AccessRefused("M437", reason="The invitation was used already")
        log_event(db, account.name, "account.register")
    return account


def _check_invitation(db: Session, settings: ServerSettings, code: str | None) -> str | None:
    """Return the digest of a valid invitation; None if there is none, and needs to be none."""
    if settings.open_registration:
        return None
    if code is None:
        raise AccessRefused("M437", reason="Registration is closed")
    row = db.get(Invitation, secret_digest(code))
    if row is None or row.expires <= now():
        raise AccessRefused("M437", reason="The invitation is wrong, used or expired")
    return row.digest


def invite(db: Session, caller: Caller) -> NewInvitation:
    """Make an invitation to make an account.

    Raises:
        AccessRefused: The caller is not an administrator.
    """
    check_administrator(caller)
    code, expires = secrets.token_urlsafe(24), now() + INVITATION
    db.execute(delete_rows(Invitation).where(Invitation.expires <= now()))
    db.add(Invitation(digest=secret_digest(code), by_id=caller.account_id, expires=expires))
    log_event(db, caller.name, "account.invite")
    return NewInvitation(code, shown(expires))


def check_administrator(caller: Caller) -> None:
    """Check that a caller is an administrator, and asks with what is for managing everything.

    Raises:
        AccessRefused: He is not.
    """
    check_known(caller, "administer", "the registry")
    if not caller.is_administrator or not caller.reaches("manage", "*"):
        raise AccessRefused("M432", name=caller.name, action="administer", module="the registry")


def proved_account(database: Database, name: str, password: str, address: str) -> Account:
    """Return the account of somebody who knows its password.

    Raises:
        AccessRefused: The name or the password is wrong, or there were too many attempts.
    """
    count_attempt(database, "login", name, address)
    with database.begin() as db:
        account = find_account(db, name)
    usable = account is not None and not account.is_organisation and account.disabled is None
    right = is_password(password, account.password if account is not None and usable else None)
    if account is None or not right:
        raise AccessRefused("M433")
    forget_attempts(database, "login", name, address)
    return account


def find_account(db: Session, name: str) -> Account | None:
    """Return the person or organisation with a name, in any form; None if there is none."""
    try:
        normal = str(module_name(name))
    except InvalidValue:
        return None
    return db.scalar(select(Account).where(Account.name == normal))


def account_named(db: Session, name: str, *, organisation: bool | None = None) -> Account:
    """Return the person or organisation with a name.

    Raises:
        NotFound: There is none, or it is not of that kind.
    """
    found = find_account(db, name)
    if (
        found is None
        or found.disabled is not None
        or organisation not in (None, found.is_organisation)
    ):
        what = {None: "account", True: "organisation", False: "person"}[organisation]
        raise NotFound("M439", what=what, name=name)
    return found


def _any_account(db: Session, name: str) -> Account:
    """Return the person or organisation with a name, closed or not.

    Raises:
        NotFound: There is none.
    """
    found = find_account(db, name)
    if found is None:
        raise NotFound("M439", what="account", name=name)
    return found


def change_password(
    database: Database, caller: Caller, change: PasswordChange, address: str
) -> None:
    """Change a caller's password; his other logins of browsers end.

    Raises:
        AccessRefused: The old one is wrong, or he asks with a token that is not for everything.
        InvalidValue: The new one cannot be used.
    """
    check_known(caller, "manage", "the account")
    if not caller.reaches("manage", "*"):
        raise AccessRefused("M432", name=caller.name, action="manage", module="the account")
    check_password(change.new, caller.name)
    account = proved_account(database, caller.name, change.old, address)
    set_password(database, account.id, change.new, keep=caller.login)


def set_password(
    database: Database, account_id: int, password: str, keep: str = "", by: str = ""
) -> None:
    """Set the password of an account, and end all its logins of browsers but ``keep``.

    ``by`` is the administrator who does so; empty for the person.
    """
    kept = password_hash(password)
    with database.begin() as db:
        account = db.get_one(Account, account_id)
        account.password = kept
        own = WebLogin.account_id == account_id
        db.execute(delete_rows(WebLogin).where(own, WebLogin.digest != keep))
        log_event(db, by or account.name, "account.password", account=account.name)


def set_disabled(db: Session, caller: Caller, name: str, disabled: bool) -> None:
    """Close an account, whose logins and tokens end, or open it again.

    Raises:
        AccessRefused: The caller is not an administrator.
        NotFound: There is no such account.
        PublishError: It is the last administrator's.
    """
    check_administrator(caller)
    account = _any_account(db, name)
    if disabled:
        end_account(db, account)
    else:
        account.disabled = None
    action = "account.disable" if disabled else "account.enable"
    log_event(db, caller.name, action, account=account.name)


def end_account(db: Session, account: Account) -> None:
    """Close an account, whose logins and tokens end.

    Raises:
        PublishError: It is the last administrator's.
    """
    if account.is_administrator:
        others = select(Account.id).where(
            Account.is_administrator.is_(True),
            Account.disabled.is_(None),
            Account.id != account.id,
        )
        if db.scalar(others.limit(1)) is None:
            raise PublishError("M449", reason=f"{account.name} is the last administrator")
    account.disabled = now()
    db.execute(delete_rows(WebLogin).where(WebLogin.account_id == account.id))
    mine = select(ApiToken.id).where(ApiToken.account_id == account.id)
    end_tokens(db, [*db.scalars(mine)])


def make_administrator(database: Database, name: str, password: str | None = None) -> None:
    """Make somebody an administrator, and open his account; with a password, make it if need be.

    Raises:
        UsageError: There is no such person, and no password to make an account with.
        NotFound: It is an organisation.
        InvalidValue: The name or the password cannot be used.
    """
    if password is not None:
        check_password(password, name)
    kept = None if password is None else password_hash(password)
    with database.begin() as db:
        account = find_account(db, name)
        if account is None and kept is not None:
            account = add_account(db, name, kept)
        if account is None:
            message = f"Nobody is called {name} here; give --password-stdin to make the account."
            raise UsageError("M901", message=message)
        if account.is_organisation:
            raise NotFound("M439", what="person", name=name)
        if kept is not None:
            account.password = kept
            db.execute(delete_rows(WebLogin).where(WebLogin.account_id == account.id))
        account.is_administrator = True
        account.disabled = None
        log_event(db, account.name, "account.administrator")


@get("/api/1/me", sync_to_thread=True)
def me(server: NamedDependency[Server], caller: NamedDependency[Caller]) -> Me:
    """Return who asks."""
    groups: list[str] = []
    expires = None
    if caller.account_id is not None:
        with server.database.begin() as db:
            query = select(Account.name).join(Membership, Membership.organisation_id == Account.id)
            mine = query.where(Membership.person_id == caller.account_id)
            groups = sorted(db.scalars(mine))
            if caller.token_id is not None:
                expires = db.get_one(ApiToken, caller.token_id).expires
    return Me(
        caller.name,
        caller.is_administrator,
        sorted(caller.actions),
        [*caller.patterns],
        caller.token_id,
        shown(expires),
        groups,
    )


@post("/api/1/register", sync_to_thread=True)
def register_account(
    server: NamedDependency[Server], request: Request[Any, Any, Any], data: JSONBody[Registration]
) -> Me:
    """Make an account."""
    account = register(server.database, server.settings, data, address_of(server.settings, request))
    return Me(account.name, False, [], [])


@post("/api/1/login", sync_to_thread=True)
def login(
    server: NamedDependency[Server], request: Request[Any, Any, Any], data: JSONBody[LoginRequest]
) -> NewToken:
    """Return a token for a name and a password."""
    address = address_of(server.settings, request)
    account = proved_account(server.database, data.name, data.password, address)
    with server.database.begin() as db:
        name = data.token_name or "login"
        wanted = TokenRequest(name=name, actions=[*ACTIONS], days=data.days)
        return create_token(db, caller_for(account), wanted)


@put("/api/1/me/password", sync_to_thread=True, status_code=204)
def put_password(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Request[Any, Any, Any],
    data: JSONBody[PasswordChange],
) -> None:
    """Change the password of who asks."""
    change_password(server.database, caller, data, address_of(server.settings, request))


@post("/api/1/invitations", sync_to_thread=True)
def make_invitation(
    server: NamedDependency[Server], caller: NamedDependency[Caller]
) -> NewInvitation:
    """Make an invitation; for administrators."""
    with server.database.begin() as db:
        return invite(db, caller)


@put("/api/1/accounts/{name:str}", sync_to_thread=True, status_code=204)
def put_account(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[AccountChange],
) -> None:
    """Close an account, open it again, or give it a new password; for administrators."""
    check_administrator(caller)
    with server.database.begin() as db:
        _any_account(db, name)  # be there anything to change or not
    if data.password is not None:
        with server.database.begin() as db:
            account = account_named(db, name, organisation=False)
        check_password(data.password, account.name)
        set_password(server.database, account.id, data.password, by=caller.name)
    if data.disabled is not None:
        with server.database.begin() as db:
            set_disabled(db, caller, name, data.disabled)


ROUTES = [me, register_account, login, put_password, make_invitation, put_account]
