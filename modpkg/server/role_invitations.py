"""Roles for modules that are offered: who is to have one accepts, or not."""

from __future__ import annotations

from typing import cast

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modpkg.core.errors import InvalidValue, NotFound, PublishError
from modpkg.core.names import module_name
from modpkg.registry.api_records import ModuleRole, OfferedRole, RoleHolder
from modpkg.server.accounts import find_account
from modpkg.server.callers import Caller, check_known
from modpkg.server.clock import now, shown
from modpkg.server.events import log_event
from modpkg.server.rights import acts_for, owned_by, still_owns
from modpkg.server.tables import Account, Module, Role, RoleInvitation

MOST_OFFERED = 100
"""Accounts to which roles for one module may be offered at a time."""


def offer_role(db: Session, caller: Caller, module: str, account: Account, role: str) -> None:
    """Offer an account a role for a module, in place of what it was offered before.

    Raises:
        AccessRefused: Nobody knows who asks.
        PublishError: Too many have not accepted.
    """
    others = select(func.count()).where(
        RoleInvitation.module == module, RoleInvitation.account_id != account.id
    )
    if (db.scalar(others) or 0) >= MOST_OFFERED:
        reason = f"{MOST_OFFERED} accounts have not accepted what they were offered of {module}"
        raise PublishError("M449", reason=reason)
    row = RoleInvitation(
        module=module,
        account_id=account.id,
        role=role,
        by_id=check_known(caller, "manage", module),
        offered=now(),
    )
    db.merge(row)


def own_role_offer(db: Session, caller: Caller, module: str, name: str) -> RoleInvitation | None:
    """Return what a caller, or an organisation that he owns, is offered of a module, if anything.

    An offer is void once who made it could not make it any more.
    """
    account = find_account(db, name)
    try:
        own = str(module_name(module))
    except InvalidValue:
        return None
    if account is None or caller.account_id is None or not caller.reaches("manage", own):
        return None
    row = db.get(RoleInvitation, (own, account.id), with_for_update=True)
    if row is None or not acts_for(db, caller.account_id, account.id):
        return None
    return row if still_owns(db, db.get_one(Account, row.by_id), own) else None


def accept_role(db: Session, caller: Caller, module: str, name: str) -> None:
    """Give an account the role that it is offered for a module.

    Raises:
        AccessRefused: Nobody knows who asks.
        NotFound: It is offered none, or it is not the caller's, nor of an organisation of his.
    """
    check_known(caller, "take", module)
    row = own_role_offer(db, caller, module, name)
    if row is None:
        raise NotFound("M439", what=f"role for {name} that is offered of", name=module)
    db.get_one(Module, row.module, with_for_update=True)
    if db.get(Role, (row.module, row.account_id)) is None:
        db.add(Role(module=row.module, account_id=row.account_id, role=row.role))
    db.delete(row)
    db.flush()
    account = db.get_one(Account, row.account_id).name
    log_event(db, caller.name, "owner.accept", row.module, account=account, role=row.role)


def role_offers_to(db: Session, caller: Caller) -> list[OfferedRole]:
    """Return the roles that a caller and organisations that he owns are offered.

    Raises:
        AccessRefused: Nobody knows who asks.
    """
    account_id = check_known(caller, "see", "offers")
    own = (RoleInvitation.account_id == account_id) | RoleInvitation.account_id.in_(
        owned_by(account_id)
    )
    found = []
    for row in db.scalars(select(RoleInvitation).where(own).order_by(RoleInvitation.module)):
        by = db.get_one(Account, row.by_id)
        if caller.reaches("manage", row.module) and still_owns(db, by, row.module):
            to, role = db.get_one(Account, row.account_id).name, cast(ModuleRole, row.role)
            found.append(OfferedRole(row.module, role, to, by.name, shown(row.offered)))
    return found


def role_offers_of(db: Session, caller: Caller, module: str, *, every: bool) -> list[RoleHolder]:
    """Return to whom roles for a module are offered, by name: ``every`` one, or what is his."""
    rows = db.execute(
        select(Account, RoleInvitation.role)
        .join(RoleInvitation, RoleInvitation.account_id == Account.id)
        .where(RoleInvitation.module == module)
        .order_by(Account.name)
    )
    return [
        RoleHolder(account.name, cast(ModuleRole, role), account.is_organisation)
        for account, role in rows
        if every or (caller.account_id is not None and acts_for(db, caller.account_id, account.id))
    ]


def end_role_offers(db: Session, module: str) -> None:
    """Withdraw all roles that are offered of a module."""
    db.execute(delete_rows(RoleInvitation).where(RoleInvitation.module == module))


def forget_role_offers(db: Session, account: Account) -> None:
    """Decline all roles that a person is offered, and withdraw those that he offers."""
    own = (RoleInvitation.account_id == account.id) | (RoleInvitation.by_id == account.id)
    db.execute(delete_rows(RoleInvitation).where(own))
