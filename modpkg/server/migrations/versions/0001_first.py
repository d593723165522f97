"""The first tables: they are those of `modpkg.server.tables` until a version is released."""

from __future__ import annotations

from alembic import op

from modpkg.server.tables import ServerTable

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    ServerTable.metadata.create_all(op.get_bind())


def downgrade() -> None:
    """Drop all tables."""
    ServerTable.metadata.drop_all(op.get_bind())
