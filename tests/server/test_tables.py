"""The tables, and the migrations that make them."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from modpkg.server.state import Server
from modpkg.server.tables import ServerTable


def test_migrations_make_the_tables(server: Server) -> None:
    with server.database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, ServerTable.metadata) == []


def test_an_upgrade_is_done_once(server: Server) -> None:
    server.database.upgrade()
    server.database.upgrade()
