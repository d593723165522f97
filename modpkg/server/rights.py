"""What a caller may do with a module."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused
from modpkg.server.callers import Caller
from modpkg.server.tables import Membership, Module, Role

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
    """Return the roles that a caller has for a module, by himself or by an organisation."""
    if caller.account_id is None:
        return frozenset()
    groups = select(Membership.organisation_id).where(Membership.person_id == caller.account_id)
    rows = select(Role.role).where(
        Role.module == module,
        (Role.account_id == caller.account_id) | Role.account_id.in_(groups),
    )
    return frozenset(db.scalars(rows))


def may(db: Session, caller: Caller, action: str, module: str) -> bool:
    """Return whether a caller may take an action on a module."""
    known = db.get(Module, module)
    private = known is not None and known.is_private
    if action == "read" and not private:
        return True
    if not caller.reaches(action, module):
        return False
    if action == "submit":
        return not private or bool(roles_of(db, caller, module))
    return bool(roles_of(db, caller, module) & set(NEEDED[action]))


def check_right(db: Session, caller: Caller, action: str, module: str) -> None:
    """Check that a caller may take an action on a module.

    Raises:
        AccessRefused: He may not, or nobody knows who he is.
    """
    if may(db, caller, action, module):
        return
    if not caller.is_known:
        raise AccessRefused("M431", action=action, module=module)
    raise AccessRefused("M432", name=caller.name, action=action, module=module)
