"""Alembic's environment: runs on the connection that `migrate.upgrade` hands over.

Each revision is a transaction of its own, so that a crash leaves whole revisions.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from osslo.db.base import Base


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transaction_per_migration=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
