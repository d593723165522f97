"""What a caller may do with a module."""

from __future__ import annotations

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, NotFound
from modpkg.server.callers import Caller, check_known
from modpkg.server.tables import Account, Membership, Module, Role

ROLES = ("owner", "maintainer", "reviewer")
"""From the most to the least."""
NEEDED = {
    "read": ROLES,
    "publish": ("owner", "maintainer"),
    "review": ROLES,
    "yank": ("owner", "maintainer"),
    "manage": ("owner",),
}
"""Action to the roles that may take it; to read is asked of private modules only, and anybody who
can read a module may submit a candidate of it."""


def roles_of(db: Session, caller: Caller, module: str) -> frozenset[str]:
    """Return the roles that a caller has for a module, by himself or by an organisation.

    Of an organisation that owns a module, its owners own it, and its other members maintain it. A
    trusted publisher maintains its module.
    """
    if caller.account_id is None:
        return frozenset()
    if caller.publisher_module is not None:
        return frozenset(["maintainer"] if caller.publisher_module == module else [])
    own = select(Role.role).where(Role.module == module, Role.account_id == caller.account_id)
    found = {*db.scalars(own)}
    by_group = (
        select(Role.role, Membership.role)
        .join(Membership, Membership.organisation_id == Role.account_id)
        .where(Role.module == module, Membership.person_id == caller.account_id)
    )
    for role, within in db.execute(by_group):
        found.add("maintainer" if role == "owner" and within != "owner" else role)
    return frozenset(found)


def visible(db: Session, caller: Caller, module: str, action: str = "read") -> bool:
    """Return whether a caller may know that there is a module: it is public, or he has a role.

    A token has to be for reading it, or for the action that is asked for: one that only publishes
    a private module knows its name, and reads nothing of it.
    """
    known = db.get(Module, module)
    if known is None or not known.is_private:
        return True
    if not (caller.reaches("read", module) or caller.reaches(action, module)):
        return False
    return bool(roles_of(db, caller, module)) or (caller.is_administrator and _unowned(db, module))


def _unowned(db: Session, module: str) -> bool:
    """Return whether nobody owns a module, as after its database was lost."""
    owners = select(Role.account_id).where(Role.module == module, Role.role == "owner")
    return db.scalar(owners.limit(1)) is None


def visible_private(db: Session, caller: Caller) -> list[str]:
    """Return the private modules that a caller may know of, sorted."""
    if caller.account_id is None or "read" not in caller.actions:
        return []
    if caller.publisher_module is not None:
        mine = select(Module.name).where(Module.name == caller.publisher_module)
    else:
        groups = select(Membership.organisation_id).where(Membership.person_id == caller.account_id)
        holders = (Role.account_id == caller.account_id) | Role.account_id.in_(groups)
        mine = select(Module.name).join(Role, Role.module == Module.name).where(holders)
    names = {*db.scalars(mine.where(Module.is_private.is_(True)))}
    return sorted(name for name in names if caller.reaches("read", name))


def may(db: Session, caller: Caller, action: str, module: str) -> bool:
    """Return whether a caller may take an action on a module.

    An administrator may manage and yank what others own; he sees private modules only with a
    role, or where nobody owns them.
    """
    if not visible(db, caller, module, action):
        return False
    if action == "read":
        return True
    if not caller.reaches(action, module):
        return False
    if action == "submit" or (caller.is_administrator and action in ("manage", "yank")):
        return True
    return bool(roles_of(db, caller, module) & set(NEEDED[action]))


def check_right(
    db: Session, caller: Caller, action: str, module: str, said: str | None = None
) -> None:
    """Check that a caller may take an action on a module, which messages call ``said``.

    Raises:
        NotFound: It is private, and he may not know of it.
        AccessRefused: He may not, or nobody knows who he is.
    """
    if may(db, caller, action, module):
        return
    if not visible(db, caller, module, action):
        raise NotFound("M439", what="module", name=module)
    check_known(caller, said or action, module)
    raise AccessRefused("M432", name=caller.name, action=said or action, module=module)


def acts_for(db: Session, person_id: int, account_id: int) -> bool:
    """Return whether a person is an account, or owns the organisation that it is."""
    membership = db.get(Membership, (account_id, person_id))
    return person_id == account_id or (membership is not None and membership.role == "owner")


def owned_by(person_id: int) -> Select[int]:
    """Return the query for the organisations that a person owns."""
    return select(Membership.organisation_id).where(
        Membership.person_id == person_id, Membership.role == "owner"
    )


def still_owns(db: Session, account: Account, module: str) -> bool:
    """Return whether who offered something of a module still owns it, or is an administrator."""
    if account.disabled is not None:
        return False
    owners = select(Role.account_id).where(Role.module == module, Role.role == "owner")
    return account.is_administrator or any(
        acts_for(db, account.id, owner) for owner in db.scalars(owners)
    )
