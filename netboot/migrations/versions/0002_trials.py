"""Trials of some machines only, quarantine, and signs of life of boots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what older code passes over."""
    op.add_column("boots", sa.Column("seen", sa.Float(precision=53), nullable=True))
    op.add_column("boots", sa.Column("marked_off", sa.Float(precision=53), nullable=True))
    op.add_column("channels", sa.Column("trial", sa.Text(), nullable=True))
    op.create_table(
        "quarantine",
        sa.Column("version", sa.String(length=80), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("by", sa.String(length=128), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["versions.version"], name=op.f("fk_quarantine_version")),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_quarantine")),
    )
