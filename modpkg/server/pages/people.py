"""What the database knows of people and modules, for pages: who has which role, and downloads."""

from __future__ import annotations

import datetime

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modpkg.server.callers import Caller
from modpkg.server.clock import now
from modpkg.server.events import visible_events
from modpkg.server.pages.catalogue import no_page
from modpkg.server.pages.search import SearchedModules
from modpkg.server.tables import Account, DownloadCount, Event, Membership, Module, Role

_MOST = 200
"""Modules, members or roles that are shown."""
_RECENT_DAYS = 30
EVENTS = 100
"""Events on one page."""


class ShownRole(Struct, frozen=True):
    """Who is what for a module or an organisation."""

    name: str
    role: str
    is_organisation: bool


class ModulePeople(Struct, frozen=True, kw_only=True):
    """What is known of a module beside its releases."""

    roles: tuple[ShownRole, ...]
    downloads: int
    recent: int
    """Downloads of the last 30 days."""
    archived: str | None
    is_private: bool


class OwnedModule(Struct, frozen=True):
    """A module that somebody has a role for."""

    name: str
    role: str
    version: str
    summary: str


class PersonPage(Struct, frozen=True, kw_only=True):
    """A person or an organisation."""

    name: str
    full_name: str
    is_organisation: bool
    since: str
    modules: tuple[OwnedModule, ...]
    modules_left: int
    groups: tuple[ShownRole, ...]
    """Organisations of a person, members of an organisation."""


class ShownEvent(Struct, frozen=True, kw_only=True):
    """An event of the log."""

    at: str
    actor: str
    action: str
    module: str
    version: str
    details: str


class EventsPage(Struct, frozen=True, kw_only=True):
    """Events, newest first."""

    events: tuple[ShownEvent, ...]
    module: str
    """The module that was asked for; empty for all."""
    older: int | None
    """What the next page begins below; None if this is the last one."""


def module_people(db: Session, name: str) -> ModulePeople:
    """Return what the database knows of a module; nothing if it does not know it."""
    module = db.get(Module, name)
    roles = db.execute(
        select(Account.name, Role.role, Account.is_organisation)
        .join(Account, Account.id == Role.account_id)
        .where(Role.module == name)
        .order_by(Role.role.desc(), Account.name)
        .limit(_MOST)
    )
    order = ("owner", "maintainer", "reviewer")
    shown = sorted((ShownRole(*row) for row in roles), key=lambda one: order.index(one.role))
    first = (now() - datetime.timedelta(days=_RECENT_DAYS)).date().isoformat()
    counted = select(func.coalesce(func.sum(DownloadCount.count), 0)).where(
        DownloadCount.module == name
    )
    return ModulePeople(
        roles=tuple(shown),
        downloads=int(db.scalar(counted) or 0),
        recent=int(db.scalar(counted.where(DownloadCount.day >= first)) or 0),
        archived=None if module is None else module.archived,
        is_private=module is not None and module.is_private,
    )


def most_downloaded(db: Session, most: int) -> list[str]:
    """Return the names of the modules that were fetched most in the last 30 days."""
    first = (now() - datetime.timedelta(days=_RECENT_DAYS)).date().isoformat()
    total = func.sum(DownloadCount.count)
    rows = select(DownloadCount.module).where(DownloadCount.day >= first)
    return [*db.scalars(rows.group_by(DownloadCount.module).order_by(total.desc()).limit(most))]


def person_page(
    db: Session, modules: SearchedModules, name: str, *, is_organisation: bool
) -> PersonPage:
    """Return the page of a person or an organisation: of its modules, the public ones.

    Raises:
        NotFound: There is no such one.
    """
    account = db.scalar(select(Account).where(Account.name == name))
    if account is None or account.is_organisation != is_organisation or account.disabled:
        raise no_page(name)
    rows = db.execute(
        select(Role.module, Role.role)
        .join(Module, Module.name == Role.module)
        .where(Role.account_id == account.id, Module.is_private.is_(False))
        .order_by(Role.module)
    ).all()
    owned = []
    for module, role in rows[:_MOST]:
        line = modules.lines.get(module)
        version, summary = ("", "") if line is None else (line.version, line.summary)
        owned.append(OwnedModule(module, role, version, summary))
    return PersonPage(
        name=account.name,
        full_name=account.full_name,
        is_organisation=is_organisation,
        since=account.created.isoformat(),
        modules=tuple(owned),
        modules_left=max(0, len(rows) - _MOST),
        groups=_groups(db, account),
    )


def _groups(db: Session, account: Account) -> tuple[ShownRole, ...]:
    mine, theirs = Membership.person_id, Membership.organisation_id
    if account.is_organisation:
        mine, theirs = theirs, mine
    rows = db.execute(
        select(Account.name, Membership.role, Account.is_organisation)
        .join(Account, Account.id == theirs)
        .where(mine == account.id)
        .order_by(Account.name)
        .limit(_MOST)
    )
    return tuple(ShownRole(*row) for row in rows)


def events_page(db: Session, caller: Caller, module: str, before: int | None) -> EventsPage:
    """Return the events that somebody may see, newest first."""
    found = visible_events(db, caller, module=module, before=before, most=EVENTS + 1)
    return EventsPage(
        events=tuple(map(_shown, found[:EVENTS])),
        module=module,
        older=found[EVENTS - 1].id if len(found) > EVENTS else None,
    )


def _shown(event: Event) -> ShownEvent:
    details = ", ".join(f"{key}: {value}" for key, value in event.details.items())
    return ShownEvent(
        at=event.at.isoformat(),
        actor=event.actor,
        action=event.action,
        module=event.module or "",
        version=event.version or "",
        details=details,
    )
