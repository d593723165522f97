"""What an account has uploaded, against its limits; what is removed for good counts no more."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modpkg.core.errors import PublishError
from modpkg.core.files import human_bytes
from modpkg.registry.removing import RemovedReleases
from modpkg.server.callers import Caller
from modpkg.server.settings import ServerLimits
from modpkg.server.tables import PublishingSession


def check_account(db: Session, caller: Caller, limits: ServerLimits, size: int) -> None:
    """Check that an account may begin one more session, of so many bytes.

    Raises:
        PublishError: It may not.
    """
    own = PublishingSession.account_id == caller.account_id
    is_open = PublishingSession.state == "open"
    count = db.scalar(select(func.count()).select_from(PublishingSession).where(own, is_open)) or 0
    if count >= limits.open_sessions:
        what = f"{caller.name}'s sessions that are not committed"
        most = limits.open_sessions
        raise PublishError("M451", what=what, count=count + 1, unit="sessions", most=most)
    used = db.scalar(select(func.sum(PublishingSession.size)).where(own)) or 0
    check_limit(f"uploads of {caller.name}", "bytes", used + size, limits.account_bytes)


def count_removed(db: Session, done: RemovedReleases) -> None:
    """Take what a removal has freed off what was uploaded for the releases, the latest first.

    What other releases need of it stays where it is, and counts for whoever has uploaded it.
    """
    left, digests = done.freed, {line.release for line in done.lines}
    is_all = done.files > 0 and done.shared == 0
    query = select(PublishingSession).where(
        PublishingSession.module.in_({line.name for line in done.lines}),
        PublishingSession.state == "committed",
        PublishingSession.size > 0,
    )
    for row in db.scalars(query.order_by(PublishingSession.created.desc())):
        if row.release in digests:
            less = row.size if is_all else min(row.size, left)
            row.size -= less
            left -= less


def check_limit(what: str, unit: str, count: int, most: int) -> None:
    """Check that something is within a limit.

    Raises:
        PublishError: It is not.
    """
    if count > most:
        shown = (human_bytes(count), human_bytes(most)) if unit == "bytes" else (count, most)
        raise PublishError("M451", what=what, count=shown[0], unit=unit, most=shown[1])
