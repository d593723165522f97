"""Sweeping away sessions that were not committed in time, and what was uploaded for them."""

from __future__ import annotations

import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from modpkg.server.clock import now
from modpkg.server.committing import disclaim
from modpkg.server.spool import spool_of, spooled_sessions
from modpkg.server.state import Server
from modpkg.server.tables import Module, PublishingSession, SessionBlob

UNKNOWN = datetime.timedelta(days=2)
"""After which blobs go whose session the database does not know: it may be a newer one's."""


def sweep(server: Server) -> int:
    """Remove expired sessions, and blobs of no session; return how many.

    Any of several servers may do so, at the same time too.
    """
    moment = now()
    with server.database.begin() as db:
        expired = set(
            db.scalars(
                select(PublishingSession.id).where(
                    PublishingSession.state == "open", PublishingSession.expires <= moment
                )
            )
        )
        known = dict(db.execute(select(PublishingSession.id, PublishingSession.state)).all())
    left = {
        session
        for session, changed in spooled_sessions(server.place).items()
        if known.get(session, "") == "committed"
        or (session not in known and moment - changed > UNKNOWN)
    }
    for session in expired | left:
        remove_session(server, session)
    server.metrics.swept.inc(len(expired | left))
    return len(expired | left)


def remove_session(server: Server, session: str) -> None:
    """Remove a session that is not committed, and all that was uploaded for one.

    Its row goes first: nobody uploads or commits from then on.
    """
    given = None
    with server.database.begin() as db:
        row = db.get(PublishingSession, session)
        if row is not None and row.state == "open":
            db.execute(delete(SessionBlob).where(SessionBlob.session_id == session))
            db.delete(row)
            db.flush()
            if _was_given(db, row):
                given = row.module
    if given is not None:
        disclaim(server, given)
    spool_of(server.place, session).remove()


def _was_given(db: Session, row: PublishingSession) -> bool:
    """Return whether a name may have been given for a session that was then not committed."""
    module = db.get(Module, row.module)
    others = select(PublishingSession.id).where(
        PublishingSession.module == row.module, PublishingSession.state == "open"
    )
    is_later = module is not None and module.created >= row.created
    return is_later and db.scalar(others.limit(1)) is None
