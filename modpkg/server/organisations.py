"""Organisations: founded by a person, and run by their owners."""

from __future__ import annotations

from typing import Literal, cast

from litestar import delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, NotFound, PublishError
from modpkg.registry.api_records import (
    MemberRequest,
    OrganisationInfo,
    OrganisationMember,
    OrganisationRequest,
)
from modpkg.server.accounts import account_named, add_account
from modpkg.server.callers import Caller, check_known
from modpkg.server.events import log_event
from modpkg.server.state import Server
from modpkg.server.tables import Account, Membership

MOST = 20
"""Organisations that one person may own."""


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


def organisation_info(db: Session, name: str) -> OrganisationInfo:
    """Return an organisation with its members, owners first.

    Raises:
        NotFound: There is none of that name.
    """
    group = account_named(db, name, organisation=True)
    query = (
        select(Account.name, Membership.role)
        .join(Membership, Membership.person_id == Account.id)
        .where(Membership.organisation_id == group.id)
    )
    found = sorted(db.execute(query), key=lambda one: (one[1] != "owner", one[0]))
    members = [
        OrganisationMember(person, cast(Literal["owner", "member"], role)) for person, role in found
    ]
    return OrganisationInfo(name=group.name, full_name=group.full_name, members=members)


def give_membership(db: Session, caller: Caller, name: str, person: str, role: str) -> None:
    """Make a person a member or an owner of an organisation.

    Raises:
        AccessRefused: The caller does not own it.
        NotFound: There is no such organisation or person.
        PublishError: He is its last owner, and would be none any more.
    """
    group = _owned(db, caller, name)
    account = account_named(db, person, organisation=False)
    row = db.get(Membership, (group.id, account.id))
    if row is None:
        db.add(Membership(organisation_id=group.id, person_id=account.id, role=role))
    elif row.role == role:
        return
    else:
        check_other_member(db, group, row, account)
        row.role = role
    db.flush()
    details = {"organisation": group.name, "account": account.name, "role": role}
    log_event(db, caller.name, "member.add", **details)


def take_membership(db: Session, caller: Caller, name: str, person: str) -> None:
    """Take a person out of an organisation; anybody may leave.

    Raises:
        AccessRefused: The caller does not own it.
        NotFound: There is no such organisation or member.
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
    if row is None:
        raise NotFound("M439", what=f"member of {group.name} named", name=person)
    check_other_member(db, group, row, account)
    db.delete(row)
    db.flush()
    log_event(db, caller.name, "member.remove", organisation=group.name, account=account.name)


def _owned(db: Session, caller: Caller, name: str) -> Account:
    """Return an organisation that a caller owns, whose row nobody else changes meanwhile."""
    person = check_known(caller, "manage", name)
    group = account_named(db, name, organisation=True)
    db.refresh(group, with_for_update=True)
    row = db.get(Membership, (group.id, person))
    owns = (row is not None and row.role == "owner") or caller.is_administrator
    if not owns or not caller.reaches("manage", "*"):
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
        return organisation_info(db, found_organisation(db, caller, data).name)


@get("/api/1/organisations/{name:str}", sync_to_thread=True)
def show_organisation(server: NamedDependency[Server], name: FromPath[str]) -> OrganisationInfo:
    """Return an organisation."""
    with server.database.begin() as db:
        return organisation_info(db, name)


@put("/api/1/organisations/{name:str}/members/{person:str}", sync_to_thread=True)
def put_member(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    person: FromPath[str],
    data: JSONBody[MemberRequest],
) -> OrganisationInfo:
    """Make a person a member or an owner of an organisation."""
    with server.database.begin() as db:
        give_membership(db, caller, name, person, data.role)
        return organisation_info(db, name)


@delete("/api/1/organisations/{name:str}/members/{person:str}", sync_to_thread=True)
def drop_member(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    person: FromPath[str],
) -> None:
    """Take a person out of an organisation."""
    with server.database.begin() as db:
        take_membership(db, caller, name, person)


ROUTES = [make_organisation, show_organisation, put_member, drop_member]
