"""The event log: who did what, when. Events are only added; anybody may read the public ones."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from modpkg.registry.api_records import EventList, LoggedEvent
from modpkg.server.callers import Caller
from modpkg.server.clock import now, shown
from modpkg.server.rights import visible_private
from modpkg.server.state import Server
from modpkg.server.tables import Event, Module

PAGE = 100
"""Events of one answer."""


def log_event(
    db: Session,
    actor: str,
    action: str,
    module: str | None = None,
    version: str | None = None,
    **details: Any,
) -> None:
    """Add an event, in the transaction of what it tells; it is public if the module is."""
    known = None if module is None else db.get(Module, module)
    event = Event(
        at=now(),
        actor=actor,
        action=action,
        module=module,
        version=version,
        is_public=known is not None and not known.is_private,
        details=details,
    )
    db.add(event)


def visible_events(
    db: Session,
    caller: Caller,
    *,
    module: str = "",
    person: str = "",
    before: int | None = None,
    most: int = 100,
) -> list[Event]:
    """Return events that a caller may see, the latest first.

    Those are of public modules, of private ones that he may know of, and his own; of accounts and
    organisations an administrator sees all.

    Args:
        db: The database.
        caller: Who asks.
        module: Of this module alone.
        person: Of what this person did alone.
        before: Of those before the one of this number alone.
        most: How many.
    """
    seen: list[ColumnElement[bool]] = [Event.is_public.is_(True)]
    if private := visible_private(db, caller):
        seen.append(Event.module.in_(private))
    if caller.is_known and caller.reaches("manage", "*"):
        own = Event.module.is_(None)
        seen.append(own if caller.is_administrator else and_(own, Event.actor == caller.name))
    query = select(Event).where(or_(*seen)).order_by(Event.id.desc()).limit(most)
    if module:
        query = query.where(Event.module == module)
    if person:
        query = query.where(Event.actor == person)
    if before is not None:
        query = query.where(Event.id < before)
    return [*db.scalars(query)]


@get("/api/1/events", sync_to_thread=True)
def list_events(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    module: Annotated[str, QueryParameter(max_length=100)] = "",
    person: Annotated[str, QueryParameter(max_length=100)] = "",
    before: Annotated[int | None, QueryParameter(ge=0, le=2**62)] = None,
) -> EventList:
    """Return who did what, the latest first."""
    with server.database.begin() as db:
        found = visible_events(
            db, caller, module=module, person=person, before=before, most=PAGE + 1
        )
    events = [
        LoggedEvent(
            id=event.id,
            at=shown(event.at),
            actor=event.actor,
            action=event.action,
            module=event.module or "",
            version=event.version or "",
            details=event.details,
        )
        for event in found[:PAGE]
    ]
    return EventList(events, events[-1].id if len(found) > PAGE else None)


ROUTES = [list_events]
