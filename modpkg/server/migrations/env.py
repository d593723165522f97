"""Alembic's script: it runs the migrations on the connection that `Database.upgrade` has."""

from __future__ import annotations

from alembic import context

from modpkg.server.tables import ServerTable

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=ServerTable.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
