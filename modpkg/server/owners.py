"""Who owns, maintains and reviews a module; and how it passes to another account."""

from __future__ import annotations

from typing import cast

from litestar import delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from modpkg.core.errors import InvalidValue, NotFound, PublishError
from modpkg.core.names import module_name
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.api_records import (
    ModuleOwners,
    ModuleRole,
    OfferedModule,
    OfferList,
    RoleHolder,
    RoleRequest,
    TransferInfo,
    TransferRequest,
)
from modpkg.server.accounts import account_named
from modpkg.server.api_tokens import end_tokens
from modpkg.server.callers import Caller, check_known
from modpkg.server.clock import now, shown
from modpkg.server.events import log_event
from modpkg.server.rights import (
    ROLES,
    acts_for,
    check_right,
    may,
    owned_by,
    roles_of,
    still_owns,
    visible,
)
from modpkg.server.role_invitations import (
    accept_role,
    end_role_offers,
    offer_role,
    own_role_offer,
    role_offers_of,
    role_offers_to,
)
from modpkg.server.state import Server
from modpkg.server.tables import (
    Account,
    ApiToken,
    Module,
    Role,
    RoleInvitation,
    Transfer,
    TrustedPublisher,
)
from modpkg.trust.log.entries import transfer_entry


def found_module(
    db: Session, caller: Caller, text: str, action: str = "read", said: str | None = None
) -> Module:
    """Return a module, whose row nobody else changes meanwhile, if a caller may take an action.

    Messages call the action ``said``, if that is given.

    Raises:
        NotFound: There is none of that name, or none that he may know of.
        AccessRefused: He may not.
    """
    try:
        name = str(module_name(text))
    except InvalidValue:
        raise NotFound("M439", what="module", name=text) from None
    if not visible(db, caller, name, action):
        raise NotFound("M439", what="module", name=name)
    module = db.get(Module, name, with_for_update=action != "read")
    if module is None:
        raise NotFound("M439", what="module", name=name)
    check_right(db, caller, action, name, said)
    return module


def add_module(db: Session, caller: Caller, name: str, *, private: bool = False) -> Module:
    """Add a module that is published for the first time; who publishes it owns it.

    Raises:
        PublishError: Somebody else was first.
        AccessRefused: Nobody knows who asks.
    """
    account_id = check_known(caller, "publish", name)
    module = Module(name=name, is_private=private, created=now())
    try:
        with db.begin_nested():
            db.add(module)
    except IntegrityError:
        raise PublishError("M449", reason=f"{name} was just published by another account") from None
    db.add(Role(module=name, account_id=account_id, role="owner"))
    db.flush()
    log_event(db, caller.name, "module.create", name)
    return module


def holders_of(db: Session, module: str) -> list[RoleHolder]:
    """Return who has a role for a module, owners first, by name."""
    query = (
        select(Account.name, Role.role, Account.is_organisation)
        .join(Role, Role.account_id == Account.id)
        .where(Role.module == module)
    )
    found = [
        RoleHolder(name, cast(ModuleRole, role), group) for name, role, group in db.execute(query)
    ]
    return sorted(found, key=lambda one: (ROLES.index(one.role), one.name))


def owner_names(db: Session, module: str) -> list[str]:
    """Return the accounts that own a module, by name."""
    return [holder.name for holder in holders_of(db, module) if holder.role == "owner"]


def check_owner(db: Session, module: str, wanted: str) -> None:
    """Check that an account owns a module, as which it is to be published.

    Raises:
        PublishError: It does not.
    """
    owners = owner_names(db, module)
    if wanted not in owners:
        whose = " and ".join(owners) or "nobody"
        reason = f"{module} is {whose}'s: 'modpkg owner transfer' gives a module to another account"
        raise PublishError("M449", reason=reason)


def owners_of(db: Session, caller: Caller, module: str) -> ModuleOwners:
    """Return who has a role for a module; and to whom it concerns, what is offered of it."""
    transfer, row = None, db.get(Transfer, module)
    if row is not None and caller.account_id is not None:
        to = acts_for(db, caller.account_id, row.to_id)
        if to or roles_of(db, caller, module):
            names = [db.get_one(Account, number).name for number in (row.to_id, row.by_id)]
            transfer = TransferInfo(names[0], names[1], shown(row.offered))
    invited = role_offers_of(db, caller, module, every=may(db, caller, "manage", module))
    return ModuleOwners(module, holders_of(db, module), transfer, invited)


def give_role(db: Session, caller: Caller, module: str, name: str, role: str) -> None:
    """Give an account another role for a module than it has, or offer one to who has none.

    Who names himself, or an organisation that he owns, has agreed.

    Raises:
        NotFound: There is no such module or account.
        AccessRefused: The caller does not own the module.
        PublishError: The account is its last owner, and would be no owner any more; or too many
            have not accepted what they are offered.
    """
    found = found_module(db, caller, module, "manage")
    by_id, account = check_known(caller, "manage", found.name), account_named(db, name)
    row = db.get(Role, (found.name, account.id))
    action = "owner.add"
    if row is not None:
        if row.role == role:
            return
        if row.role == "owner":
            check_other_owner(db, found.name, account)
        row.role = role
    elif acts_for(db, by_id, account.id):
        db.add(Role(module=found.name, account_id=account.id, role=role))
    else:
        offer_role(db, caller, found.name, account, role)
        action = "owner.invite"
    db.flush()
    log_event(db, caller.name, action, found.name, account=account.name, role=role)


def take_role(db: Session, caller: Caller, module: str, name: str) -> None:
    """Take an account's role for a module from it, or the offer of one back.

    Anybody may give up or decline his own, and what an organisation has or is offered that he owns.

    Raises:
        NotFound: There is no such module, or the account has no role for it, and is offered none.
        AccessRefused: The caller does not own the module.
        PublishError: The account is its last owner.
    """
    if (offered := own_role_offer(db, caller, module, name)) is not None:
        _end_offer(db, caller, offered)  # of a private module, he may know no more
        return
    found = found_module(db, caller, module)
    account = account_named(db, name)
    mine = caller.account_id is not None and acts_for(db, caller.account_id, account.id)
    if not (mine and caller.reaches("manage", found.name)):
        check_right(db, caller, "manage", found.name)
    db.refresh(found, with_for_update=True)
    row = db.get(Role, (found.name, account.id))
    offered = db.get(RoleInvitation, (found.name, account.id))
    if row is None and offered is not None:
        _end_offer(db, caller, offered)
        return
    if row is None:
        raise NotFound("M439", what=f"owner of {found.name} named", name=name)
    if row.role == "owner":
        check_other_owner(db, found.name, account)
    db.delete(row)
    db.flush()
    log_event(db, caller.name, "owner.remove", found.name, account=account.name, role=row.role)


def _end_offer(db: Session, caller: Caller, offered: RoleInvitation) -> None:
    account = db.get_one(Account, offered.account_id).name
    db.delete(offered)
    db.flush()
    details = {"account": account, "role": offered.role}
    log_event(db, caller.name, "owner.decline", offered.module, **details)


def check_other_owner(db: Session, module: str, account: Account) -> None:
    """Check that a module has another owner, who can still log in."""
    query = (
        select(Role.account_id)
        .join(Account, Account.id == Role.account_id)
        .where(
            Role.module == module,
            Role.role == "owner",
            Role.account_id != account.id,
            Account.disabled.is_(None),
        )
    )
    if db.scalar(query.limit(1)) is None:
        raise PublishError("M440", name=account.name, what=module)


def offer_module(db: Session, caller: Caller, module: str, to: str) -> None:
    """Offer a module to an account, in place of an offer that there is.

    Raises:
        NotFound: There is no such module or account.
        AccessRefused: The caller does not own the module.
        PublishError: The account owns it already.
    """
    by_id = check_known(caller, "manage", module)
    found = found_module(db, caller, module, "manage")
    account = account_named(db, to)
    if account.name in owner_names(db, found.name):
        raise PublishError("M449", reason=f"{found.name} is {account.name}'s already")
    db.merge(Transfer(module=found.name, to_id=account.id, by_id=by_id, offered=now()))
    log_event(db, caller.name, "transfer.offer", found.name, to=account.name)


def accept_module(db: Session, caller: Caller, module: str) -> str:
    """Take a module that is offered to the caller, or to an organisation; return who owns it now.

    The account becomes its only owner; maintainers and reviewers stay, and trusted publishers, who
    were the owner's before, do not. An offer is void once who made it could not make it any more.

    Raises:
        NotFound: It is not offered to him.
        AccessRefused: He asks with a token that cannot manage it.
    """
    row = _offer(db, caller, module)
    offerer = db.get_one(Account, row.by_id)
    if not still_owns(db, offerer, row.module):
        raise NotFound("M441", module=row.module, name=caller.name)
    db.get_one(Module, row.module, with_for_update=True)
    for role in db.scalars(select(Role).where(Role.module == row.module)):
        if role.role == "owner" or role.account_id == row.to_id:
            db.delete(role)
    db.flush()
    db.add(Role(module=row.module, account_id=row.to_id, role="owner"))
    publishers = select(TrustedPublisher).where(TrustedPublisher.module == row.module)
    for publisher in db.scalars(publishers):
        publisher.removed = publisher.removed or now()
        theirs = select(ApiToken.id).where(ApiToken.publisher_id == publisher.id)
        end_tokens(db, [*db.scalars(theirs)])
    end_role_offers(db, row.module)
    db.delete(row)
    db.flush()
    to = db.get_one(Account, row.to_id).name
    details = {"from": offerer.name, "to": to}
    log_event(db, caller.name, "transfer.accept", row.module, **details)
    return to


def decline_module(db: Session, caller: Caller, module: str) -> None:
    """Decline a module that is offered to the caller, or withdraw what he or a co-owner offers.

    Raises:
        NotFound: There is no offer that is his to end.
    """
    try:
        row = _offer(db, caller, module)
    except NotFound:
        found = found_module(db, caller, module, "manage")
        offered = db.get(Transfer, found.name)
        if offered is None:
            raise
        row = offered
    db.delete(row)
    log_event(db, caller.name, "transfer.decline", row.module)


def _offer(db: Session, caller: Caller, module: str) -> Transfer:
    """Return the offer of a module to a caller, or to an organisation that he owns."""
    account_id = check_known(caller, "take", module)
    name = str(module_name(module))
    row = db.get(Transfer, name, with_for_update=True)
    if row is None or not (caller.reaches("manage", name) and acts_for(db, account_id, row.to_id)):
        raise NotFound("M441", module=name, name=caller.name)
    return row


def offers_to(db: Session, caller: Caller) -> list[OfferedModule]:
    """Return the offers to a caller and to organisations that he owns, and those that he made."""
    account_id = check_known(caller, "see", "offers")
    own = (Transfer.to_id == account_id) | Transfer.to_id.in_(owned_by(account_id))
    query = select(Transfer).where(own | (Transfer.by_id == account_id))
    return [
        OfferedModule(
            module=row.module,
            to=db.get_one(Account, row.to_id).name,
            by=db.get_one(Account, row.by_id).name,
            offered=shown(row.offered),
        )
        for row in db.scalars(query.order_by(Transfer.module))
        if caller.reaches("manage", row.module)
    ]


@get("/api/1/modules/{name:str}/owners", sync_to_thread=True)
def list_owners(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> ModuleOwners:
    """Return who owns, maintains and reviews a module; and to those, whom it is offered to."""
    with server.database.begin() as db:
        return owners_of(db, caller, found_module(db, caller, name).name)


@put("/api/1/modules/{name:str}/owners/{account:str}", sync_to_thread=True)
def put_owner(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    account: FromPath[str],
    data: JSONBody[RoleRequest],
) -> ModuleOwners:
    """Offer an account a role for a module, or give it another one."""
    with server.database.begin() as db:
        give_role(db, caller, name, account, data.role)
        return owners_of(db, caller, str(module_name(name)))


@delete("/api/1/modules/{name:str}/owners/{account:str}", sync_to_thread=True)
def drop_owner(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    account: FromPath[str],
) -> None:
    """Take an account's role for a module from it, or the offer of one back."""
    with server.database.begin() as db:
        take_role(db, caller, name, account)


@post("/api/1/modules/{name:str}/owners/{account:str}/accept", sync_to_thread=True, status_code=204)
def accept_owner(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    account: FromPath[str],
) -> None:
    """Take a role for a module that is offered."""
    with server.database.begin() as db:
        accept_role(db, caller, name, account)


@get("/api/1/transfers", sync_to_thread=True)
def list_transfers(server: NamedDependency[Server], caller: NamedDependency[Caller]) -> OfferList:
    """Return what is offered to who asks, and the modules that he offers."""
    with server.database.begin() as db:
        return OfferList(offers_to(db, caller), role_offers_to(db, caller))


@post("/api/1/modules/{name:str}/transfer", sync_to_thread=True, status_code=204)
def offer_transfer(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[TransferRequest],
) -> None:
    """Offer a module to an account."""
    with server.database.begin() as db:
        offer_module(db, caller, name, data.to)


@post("/api/1/modules/{name:str}/transfer/accept", sync_to_thread=True, status_code=204)
def accept_transfer(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> None:
    """Take a module that is offered."""
    with server.database.begin() as db:
        owner = accept_module(db, caller, name)
        module = db.get_one(Module, str(module_name(name)))
        if server.log is not None and not module.is_private:  # before anybody sees it
            server.log.append([transfer_entry(module.name, owner, moment_text())])


@delete("/api/1/modules/{name:str}/transfer", sync_to_thread=True)
def drop_transfer(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> None:
    """Decline a module that is offered, or withdraw the offer."""
    with server.database.begin() as db:
        decline_module(db, caller, name)


ROUTES = [
    list_owners,
    put_owner,
    drop_owner,
    accept_owner,
    list_transfers,
    offer_transfer,
    accept_transfer,
    drop_transfer,
]
