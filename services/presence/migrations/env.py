"""Alembic's entry: it runs the scripts on the connection that `services.common.database` opened."""

from __future__ import annotations

from alembic import context

from services.presence.models import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, transactional_ddl=True
)
context.run_migrations()
