"""Organisations: founded by a person, and run by their owners; who is invited accepts, or not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

from litestar import delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy import Row, func, select
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, NotFound, PublishError
from modpkg.registry.api_records import (
    MemberRequest,
    OrganisationInfo,
    OrganisationInvitation,
    OrganisationInvitations,
    OrganisationMember,
    OrganisationRequest,
)
from modpkg.server.accounts import account_named, add_account
from modpkg.server.callers import Caller, check_known
from modpkg.server.clock import now, shown
from modpkg.server.events import log_event
from modpkg.server.state import Server
from modpkg.server.tables import Account, MemberInvitation, Membership

OrganisationRole = Literal["owner", "member"]
MOST = 20
"""Organisations that one person may own."""
MOST_INVITED = 100
"""People whom one organisation may have invited at a time."""


def found_organisation(db: Session, caller: Caller, wanted: OrganisationRequest) -> Account:
    """Found an organisation, which the caller owns.

    Raises:
        AccessRefused: The caller is not known, or asks with a token that is not for managing all.
        InvalidValue: It cannot have the name.
        PublishError: He owns too many.
    """
    person = check_known(caller, "found", "an organisation")
    _check_whole(caller, "found an organisation")
    own = select(func.count()).where(Membership.person_id == person, Membership.role == "owner")
    if (db.scalar(own) or 0) >= MOST:
        raise PublishError("M449", reason=f"{caller.name} owns {MOST} organisations already")
    group = add_account(db, wanted.name, None, is_organisation=True, full_name=wanted.full_name)
    db.add(Membership(organisation_id=group.id, person_id=person, role="owner"))
    db.flush()
    log_event(db, caller.name, "organisation.create", organisation=group.name)
    return group


def _check_whole(caller: Caller, what: str) -> None:
    if not caller.reaches("manage", "*"):
        raise AccessRefused("M432", name=caller.name, action="manage", module=what)


def organisation_info(db: Session, caller: Caller, name: str) -> OrganisationInfo:
    """Return an organisation with its members, owners first.

    Who is invited is seen by its owners, and by himself.

    Raises:
        NotFound: There is none of that name.
    """
    group = account_named(db, name, organisation=True)
    members = (
        select(Account.name, Membership.role)
        .join(Membership, Membership.person_id == Account.id)
        .where(Membership.organisation_id == group.id)
    )
    invited = (
        select(Account.name, MemberInvitation.role)
        .join(MemberInvitation, MemberInvitation.person_id == Account.id)
        .where(MemberInvitation.organisation_id == group.id)
    )
    if not _may_manage(db, caller, group):
        invited = invited.where(MemberInvitation.person_id == caller.account_id)
    return OrganisationInfo(
        name=group.name,
        full_name=group.full_name,
        members=_in_order(db.execute(members)),
        invited=_in_order(db.execute(invited)),
    )


def _in_order(rows: Iterable[Row[str, str]]) -> list[OrganisationMember]:
    found = sorted(rows, key=lambda one: (one[1] != "owner", one[0]))
    return [OrganisationMember(person, cast(OrganisationRole, role)) for person, role in found]


def give_membership(db: Session, caller: Caller, name: str, person: str, role: str) -> None:
    """Give a member of an organisation another role there, or invite a person to it.

    An invitation takes the place of an earlier one. An administrator who names himself has agreed.

    Raises:
        AccessRefused: The caller does not own it.
        NotFound: There is no such organisation or person.
        PublishError: He is its last owner, and would be none any more; or too many are invited.
    """
    group = _owned(db, caller, name)
    account = account_named(db, person, organisation=False)
    row = db.get(Membership, (group.id, account.id))
    action = "member.add"
    if row is not None:
        if row.role == role:
            return
        check_other_member(db, group, row, account)
        row.role = role
    elif account.id == caller.account_id:
        db.add(Membership(organisation_id=group.id, person_id=account.id, role=role))
    else:
        _invite(db, caller, group, account, role)
        action = "member.invite"
    db.flush()
    details = {"organisation": group.name, "account": account.name, "role": role}
    log_event(db, caller.name, action, **details)


def _invite(db: Session, caller: Caller, group: Account, account: Account, role: str) -> None:
    others = select(func.count()).where(
        MemberInvitation.organisation_id == group.id, MemberInvitation.person_id != account.id
    )
    if (db.scalar(others) or 0) >= MOST_INVITED:
        reason = f"{MOST_INVITED} people are invited to {group.name} and have not accepted"
        raise PublishError("M449", reason=reason)
    row = MemberInvitation(
        organisation_id=group.id,
        person_id=account.id,
        role=role,
        by_id=check_known(caller, "manage", group.name),
        invited=now(),
    )
    db.merge(row)


def accept_invitation(db: Session, caller: Caller, name: str) -> None:
    """Make a caller a member of an organisation that has invited him.

    An invitation is void once who made it could not make it any more.

    Raises:
        NotFound: It has not.
        AccessRefused: He asks with a token that is not for managing all.
    """
    person = check_known(caller, "join", name)
    _check_whole(caller, name)
    group = account_named(db, name, organisation=True)
    db.refresh(group, with_for_update=True)
    row = db.get(MemberInvitation, (group.id, person))
    if row is None or not _still_manages(db, row.by_id, group):
        raise NotFound("M439", what="invitation for you to", name=name)
    if db.get(Membership, (group.id, person)) is None:
        db.add(Membership(organisation_id=group.id, person_id=person, role=row.role))
    db.delete(row)
    db.flush()
    log_event(db, caller.name, "member.accept", organisation=group.name, role=row.role)


def invitations_of(db: Session, caller: Caller) -> list[OrganisationInvitation]:
    """Return the organisations that a caller is invited to.

    Raises:
        AccessRefused: Nobody knows who asks.
    """
    person = check_known(caller, "see", "invitations")
    _check_whole(caller, "invitations")
    rows = select(MemberInvitation).where(MemberInvitation.person_id == person)
    found = []
    for row in db.scalars(rows.order_by(MemberInvitation.invited)):
        group = db.get_one(Account, row.organisation_id)
        if _still_manages(db, row.by_id, group):
            role = cast(OrganisationRole, row.role)
            by = db.get_one(Account, row.by_id).name
            found.append(OrganisationInvitation(group.name, role, by, shown(row.invited)))
    return found


def forget_invitations(db: Session, account: Account) -> None:
    """Decline all that a person is invited to, and withdraw those who he invited."""
    mine = (MemberInvitation.person_id == account.id) | (MemberInvitation.by_id == account.id)
    db.execute(delete_rows(MemberInvitation).where(mine))


def take_membership(db: Session, caller: Caller, name: str, person: str) -> None:
    """Take a person out of an organisation, or an invitation back; anybody may leave or decline.

    Raises:
        AccessRefused: The caller does not own it.
        NotFound: There is no such organisation or member, and nobody invited of that name.
        PublishError: He is its last owner.
    """
    account = account_named(db, person, organisation=False)
    if account.id == caller.account_id:
        _check_whole(caller, name)
        group = account_named(db, name, organisation=True)
        db.refresh(group, with_for_update=True)
    else:
        group = _owned(db, caller, name)
    row = db.get(Membership, (group.id, account.id))
    invitation = db.get(MemberInvitation, (group.id, account.id))
    if invitation is not None:
        db.delete(invitation)
    elif row is None:
        raise NotFound("M439", what=f"member of {group.name} named", name=person)
    if row is not None:
        check_other_member(db, group, row, account)
        db.delete(row)
    db.flush()
    action = "member.decline" if row is None else "member.remove"
    log_event(db, caller.name, action, organisation=group.name, account=account.name)


def _may_manage(db: Session, caller: Caller, group: Account) -> bool:
    """Return whether a caller may change who is in an organisation."""
    if caller.account_id is None or not caller.reaches("manage", "*"):
        return False
    return caller.is_administrator or _owns(db, caller.account_id, group)


def _owns(db: Session, person: int, group: Account) -> bool:
    row = db.get(Membership, (group.id, person))
    return row is not None and row.role == "owner"


def _still_manages(db: Session, person: int, group: Account) -> bool:
    """Return whether who has invited somebody could do so now."""
    account = db.get_one(Account, person)
    may = account.is_administrator or _owns(db, person, group)
    return account.disabled is None and may


def _owned(db: Session, caller: Caller, name: str) -> Account:
    """Return an organisation that a caller owns, whose row nobody else changes meanwhile."""
    check_known(caller, "manage", name)
    group = account_named(db, name, organisation=True)
    db.refresh(group, with_for_update=True)
    if not _may_manage(db, caller, group):
        raise AccessRefused("M432", name=caller.name, action="manage", module=group.name)
    return group


def check_other_member(db: Session, group: Account, row: Membership, account: Account) -> None:
    """Check that an organisation has another owner, who can still log in, if a member is one."""
    if row.role != "owner":
        return
    others = (
        select(Membership.person_id)
        .join(Account, Account.id == Membership.person_id)
        .where(
            Membership.organisation_id == group.id,
            Membership.role == "owner",
            Membership.person_id != account.id,
            Account.disabled.is_(None),
        )
    )
    if db.scalar(others.limit(1)) is None:
        raise PublishError("M440", name=account.name, what=group.name)


@post("/api/1/organisations", sync_to_thread=True)
def make_organisation(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    data: JSONBody[OrganisationRequest],
) -> OrganisationInfo:
    """Found an organisation."""
    with server.database.begin() as db:
        return organisation_info(db, caller, found_organisation(db, caller, data).name)


@get("/api/1/organisations/{name:str}", sync_to_thread=True)
def show_organisation(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> OrganisationInfo:
    """Return an organisation."""
    with server.database.begin() as db:
        return organisation_info(db, caller, name)


@put("/api/1/organisations/{name:str}/members/{person:str}", sync_to_thread=True)
def put_member(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    person: FromPath[str],
    data: JSONBody[MemberRequest],
) -> OrganisationInfo:
    """Invite a person to an organisation, or give a member another role."""
    with server.database.begin() as db:
        give_membership(db, caller, name, person, data.role)
        return organisation_info(db, caller, name)


@delete("/api/1/organisations/{name:str}/members/{person:str}", sync_to_thread=True)
def drop_member(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    person: FromPath[str],
) -> None:
    """Take a person out of an organisation, or an invitation back."""
    with server.database.begin() as db:
        take_membership(db, caller, name, person)


@post("/api/1/organisations/{name:str}/accept", sync_to_thread=True, status_code=204)
def accept_membership(
    server: NamedDependency[Server], caller: NamedDependency[Caller], name: FromPath[str]
) -> None:
    """Become a member of an organisation that has invited who asks."""
    with server.database.begin() as db:
        accept_invitation(db, caller, name)


@get("/api/1/me/invitations", sync_to_thread=True)
def list_invitations(
    server: NamedDependency[Server], caller: NamedDependency[Caller]
) -> OrganisationInvitations:
    """Return the organisations that who asks is invited to."""
    with server.database.begin() as db:
        return OrganisationInvitations(invitations_of(db, caller))


ROUTES = [
    make_organisation,
    show_organisation,
    put_member,
    drop_member,
    accept_membership,
    list_invitations,
]
