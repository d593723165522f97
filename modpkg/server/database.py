"""The database of people, rights, sessions and events; releases are in the storage alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_SECONDS = 30


class DatabaseBehind(Exception):
    """The tables of a database are not those of this version of modpkg."""


class Database:
    """A database, by its URL; two servers may share one.

    Work on it is a transaction::

        with server.database.begin() as db:
            db.add(...)
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Session]:
        """Yield a session, which is committed at the end, and rolled back if anything is raised."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def check_upgraded(self) -> None:
        """Check that the tables are those that this version of modpkg has.

        Raises:
            DatabaseBehind: They are older or newer.
        """
        from alembic.runtime.migration import MigrationContext

        with self.engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        if found != self._newest:
            raise DatabaseBehind(f"the tables are of {found}, and have to be of {self._newest}")

    @cached_property
    def _newest(self) -> str | None:
        from alembic.script import ScriptDirectory

        return ScriptDirectory(str(MIGRATIONS)).get_current_head()

    def upgrade(self) -> None:
        """Bring the tables to those that this version of modpkg has; others may do so meanwhile."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.begin() as connection:
            config.attributes["connection"] = connection
            if self.engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(1836016743)")
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close its connections."""
        self.engine.dispose()


def sqlite_url(path: Path) -> str:
    """Return the URL of a database in a file."""
    return f"sqlite:///{path}"


def _engine(url: str) -> Engine:
    if url.startswith("postgresql://"):
        url = "postgresql+psycopg" + url.removeprefix("postgresql")
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver would begin a transaction only at the first change, after what it rests on was
    # read: two writers could each read what the other is about to change.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
