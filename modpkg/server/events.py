"""The event log: who did what, when. Events are only added; anybody may read the public ones."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from modpkg.server.clock import now
from modpkg.server.tables import Event, Module


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
