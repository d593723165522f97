"""Closing one's own account: nothing is left without an owner."""

from __future__ import annotations

from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from sqlalchemy import select

from modpkg.core.errors import AccessRefused
from modpkg.registry.api_records import AccountClosing
from modpkg.server.accounts import end_account, proved_account
from modpkg.server.addresses import address_of
from modpkg.server.callers import Caller, check_known
from modpkg.server.database import Database
from modpkg.server.events import log_event
from modpkg.server.organisations import check_other_member, forget_invitations
from modpkg.server.owners import check_other_owner
from modpkg.server.state import Server
from modpkg.server.tables import Account, Membership, Module, Role


def close_own_account(database: Database, caller: Caller, password: str, address: str) -> None:
    """Close a caller's account: his logins and tokens end. What he published stays.

    Raises:
        AccessRefused: The password is wrong, or he asks with a token that is not for everything.
        PublishError: He is the last owner of a module or an organisation, or the last
            administrator.
    """
    own = check_known(caller, "manage", "the account")
    if not caller.reaches("manage", "*"):
        raise AccessRefused("M432", name=caller.name, action="manage", module="the account")
    proved_account(database, caller.name, password, address)
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
        end_account(db, account)
        log_event(db, account.name, "account.close", account=account.name)


@post("/api/1/me/close", sync_to_thread=True, status_code=204)
def close_account(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Request[Any, Any, Any],
    data: JSONBody[AccountClosing],
) -> None:
    """Close the account of who asks."""
    close_own_account(server.database, caller, data.password, address_of(server.settings, request))


ROUTES = [close_account]
