"""Closing one's own account: nothing is left without an owner."""

from __future__ import annotations

import datetime
from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from sqlalchemy import select

from modpkg.core.errors import AccessRefused, PublishError
from modpkg.registry.api_records import AccountClosing
from modpkg.server.accounts import end_account, proved_account
from modpkg.server.addresses import address_of
from modpkg.server.callers import Caller, check_known
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.organisations import check_other_member, forget_invitations
from modpkg.server.owners import check_other_owner
from modpkg.server.role_invitations import forget_role_offers
from modpkg.server.state import Server
from modpkg.server.tables import Account, Membership, Module, Role, WebLogin

FRESH_MINUTES = 10
"""For how long a login of an issuer stands in place of a password, for who has none."""


def close_own_account(server: Server, caller: Caller, password: str, address: str) -> None:
    """Close a caller's account: his logins and tokens end. What he published stays.

    Raises:
        AccessRefused: The password is wrong, or he asks with a token that is not for everything.
        PublishError: He is the last owner of a module or an organisation, or the last
            administrator; or he has no password, and has not just logged in.
    """
    database = server.database
    own = check_known(caller, "manage", "the account")
    if not caller.reaches("manage", "*"):
        raise AccessRefused("M432", name=caller.name, action="manage", module="the account")
    with database.begin() as db:
        has_password = db.get_one(Account, own).password is not None
    if has_password:
        proved_account(database, caller.name, password, address)
    else:
        _check_fresh(server, caller)
    with database.begin() as db:
        account = db.get_one(Account, own)
        owned = select(Role.module).where(Role.account_id == own, Role.role == "owner")
        for name in db.scalars(owned.order_by(Role.module)).all():
            db.get_one(Module, name, with_for_update=True)
            check_other_owner(db, name, account)
        rows = select(Membership).where(Membership.person_id == own)
        for row in db.scalars(rows.order_by(Membership.organisation_id)).all():
            group = db.get_one(Account, row.organisation_id, with_for_update=True)
            check_other_member(db, group, row, account)
        forget_invitations(db, account)
        forget_role_offers(db, account)
        end_account(db, account)
        log_event(db, account.name, "account.close", account=account.name)


def _check_fresh(server: Server, caller: Caller) -> None:
    """Check that somebody without a password has just logged in, by an issuer.

    Raises:
        PublishError: He has not, or asks with a token, which says nothing of that.
    """
    with server.database.begin() as db:
        login = db.get(WebLogin, caller.login)
    minutes = datetime.timedelta(minutes=FRESH_MINUTES)
    if login is None or login.created < now() - minutes:
        reason = (
            f"{caller.name} has no password to prove whose account it is: log in again at "
            f"{server.settings.url}/login, and close it on its page within {FRESH_MINUTES} minutes"
        )
        raise PublishError("M449", reason=reason)


@post("/api/1/me/close", sync_to_thread=True, status_code=204)
def close_account(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Request[Any, Any, Any],
    data: JSONBody[AccountClosing],
) -> None:
    """Close the account of who asks."""
    close_own_account(server, caller, data.password, address_of(server.settings, request))


ROUTES = [close_account]
