"""How often somebody may fail to prove who he is, by name and by address.

Failures are counted in the database, so that several servers count together, and each is counted
before it is known to be one: whoever asks many times at once is not let through.
"""

from __future__ import annotations

import datetime
import hashlib

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, InvalidValue
from modpkg.core.names import module_name
from modpkg.server.addresses import is_loopback
from modpkg.server.clock import now
from modpkg.server.database import Database
from modpkg.server.tables import FailedAttempts

WINDOW = datetime.timedelta(minutes=15)
BY_NAME_AND_ADDRESS = 10
BY_NAME = 100
"""From everywhere: what a person's own attempts never reach, and what guessing gains nothing by."""
BY_ADDRESS = 50


def count_attempt(database: Database, what: str, name: str | None, address: str) -> None:
    """Count an attempt to prove to be somebody, or to be somebody new, before it is known to fail.

    Raises:
        AccessRefused: There were too many.
    """
    refused: list[int] = []
    with database.begin() as db:
        _sweep(db)
        for key, most in _keys(what, name, address):
            count, left = _count(db, key)
            if count > most:
                refused.append(left)
    if refused:
        raise AccessRefused("M434", seconds=max(refused))


def forget_attempts(database: Database, what: str, name: str, address: str) -> None:
    """Forget an attempt that did not fail, and those of the same name and address before it."""
    (own, _), *others = _keys(what, name, address)
    with database.begin() as db:
        db.execute(delete(FailedAttempts).where(FailedAttempts.what == own))
        for key, _ in others:
            row = db.get(FailedAttempts, key, with_for_update=True)
            if row is not None and row.count > 0:
                row.count -= 1


def digest_text(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _keys(what: str, name: str | None, address: str) -> list[tuple[str, int]]:
    # A proxy on this machine may speak for everybody, whom nobody should lock out.
    from_there = [] if is_loopback(address) else [(f"{what} {address}", BY_ADDRESS)]
    if name is None:
        return from_there
    who = digest_text(_account(name))[:32]  # what was sent as a name may be of any length
    return [
        (f"{what} {who} {address}", BY_NAME_AND_ADDRESS),
        (f"{what} {who}", BY_NAME),
        *from_there,
    ]


def _account(name: str) -> str:
    """Return the name of the account that is meant, however it is spelled."""
    try:
        return module_name(name)
    except InvalidValue:
        return name


def _count(db: Session, key: str) -> tuple[int, int]:
    """Count one, and return how many there are and in how many seconds they are forgotten."""
    insert = postgresql.insert if db.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(FailedAttempts).values(what=key, since=now(), count=1)
    counted = statement.on_conflict_do_update(
        index_elements=[FailedAttempts.what], set_={"count": FailedAttempts.count + 1}
    ).returning(FailedAttempts.count, FailedAttempts.since)
    count, since = db.execute(counted).one()
    return count, max(1, int((since + WINDOW - now()).total_seconds()))


def _sweep(db: Session) -> None:
    db.execute(delete(FailedAttempts).where(FailedAttempts.since <= now() - WINDOW))
