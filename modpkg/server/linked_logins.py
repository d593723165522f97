"""Logins of issuers that a person links to his account, and takes away again.

Nothing links them by itself: neither an e-mail address nor a name that an issuer gives is a proof.
Whoever links one is logged in, says his password again, and comes back from the issuer in the very
browser that was sent there.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from modpkg.core.errors import NotFound, PublishError
from modpkg.server.accounts import proved_account
from modpkg.server.callers import Caller, check_known
from modpkg.server.events import log_event
from modpkg.server.settings import LoginIssuer
from modpkg.server.state import Server
from modpkg.server.tables import Account, Identity


class LinkedLogin(Struct, frozen=True):
    """An issuer, and whether an account has a login of it."""

    issuer: str
    title: str
    """What the issuer is called; its address for one that the operator does not name any more."""
    is_linked: bool
    is_offered: bool
    """Whether the operator names it."""


def logins_of(server: Server, db: Session, caller: Caller) -> list[LinkedLogin]:
    """Return the issuers that there are for a caller, those of the operator's list first."""
    mine = select(Identity.issuer).where(Identity.account_id == caller.account_id)
    linked = {*db.scalars(mine)}
    offered = server.settings.login_issuers
    found = [LinkedLogin(one.url, one.title, one.url in linked, True) for one in offered]
    others = linked - {one.url for one in offered}
    return found + [LinkedLogin(url, url, True, False) for url in sorted(others)]


def prove_again(server: Server, caller: Caller, password: str, address: str) -> None:
    """Check that whoever changes how somebody logs in knows his password.

    Raises:
        AccessRefused: It is wrong, or there were too many attempts.
        PublishError: The account has none.
    """
    account_id = check_known(caller, "manage", "the account")
    with server.database.begin() as db:
        has_password = db.get_one(Account, account_id).password is not None
    if not has_password:
        reason = f"{caller.name} has no password to prove whose account it is"
        raise PublishError("M449", reason=f"{reason}; an administrator can give one")
    proved_account(server.database, caller.name, password, address)


def link_login(db: Session, caller: Caller, issuer: LoginIssuer, subject: str) -> None:
    """Let somebody log in at an issuer from now on, too.

    Raises:
        PublishError: It is the login of another account, or he has another one there.
    """
    account_id = check_known(caller, "manage", "the account")
    known = db.get(Identity, (issuer.url, subject))
    if known is not None and known.account_id == account_id:
        return
    of_issuer = select(Identity).where(
        Identity.issuer == issuer.url, Identity.account_id == account_id
    )
    reason = None
    if known is not None:
        reason = f"that login of {issuer.title} is another account's"
    elif db.scalar(of_issuer.limit(1)) is not None:
        reason = f"{caller.name} has another login of {issuer.title}; unlink it first"
    if reason is not None:
        raise PublishError("M449", reason=reason)
    try:
        with db.begin_nested():
            db.add(Identity(issuer=issuer.url, subject=subject, account_id=account_id))
    except IntegrityError:
        reason = f"that login of {issuer.title} is another account's"
        raise PublishError("M449", reason=reason) from None
    log_event(db, caller.name, "account.link", issuer=issuer.url)


def unlink_login(db: Session, caller: Caller, issuer: str) -> None:
    """Take away that somebody can log in at an issuer.

    Raises:
        NotFound: He cannot.
    """
    account_id = check_known(caller, "manage", "the account")
    gone = delete(Identity).where(Identity.issuer == issuer, Identity.account_id == account_id)
    if not db.execute(gone).rowcount:  # type: ignore[attr-defined]
        raise NotFound("M439", what="login of", name=issuer)
    log_event(db, caller.name, "account.unlink", issuer=issuer)
