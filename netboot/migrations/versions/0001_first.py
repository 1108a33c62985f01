"""netboot's first tables: versions, holdings, channels and their history, pins, boots, host keys, boot logs, feed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "bootlogs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("machine", sa.BigInteger(), nullable=False),
        sa.Column("sent_from", sa.String(length=45), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bootlogs")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_bootlogs_boot"), "bootlogs", ["boot"], unique=False)
    op.create_index(op.f("ix_bootlogs_machine"), "bootlogs", ["machine"], unique=False)
    op.create_table(
        "boots",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("machine", sa.BigInteger(), nullable=False),
        sa.Column("hostname", sa.String(length=63), nullable=False),
        sa.Column("mac", sa.String(length=17), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("asked_from", sa.String(length=45), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=80), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("version", sa.String(length=80), nullable=True),
        sa.Column("role", sa.String(length=63), nullable=True),
        sa.Column("rfs", sa.Integer(), nullable=True),
        sa.Column("servers", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("claimed_at", sa.Float(precision=53), nullable=True),
        sa.Column("claimed_from", sa.String(length=45), nullable=True),
        sa.Column("refused_claims", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=True),
        sa.Column("stage_at", sa.Float(precision=53), nullable=True),
        sa.Column("stage_detail", sa.Text(), nullable=False),
        sa.CheckConstraint("(version IS NOT NULL) = (outcome = 'boot')", name=op.f("ck_boots_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boots")),
    )
    op.create_index(op.f("ix_boots_at"), "boots", ["at"], unique=False)
    op.create_index("ix_boots_machine_at", "boots", ["machine", "at"], unique=False)
    op.create_index(op.f("ix_boots_version"), "boots", ["version"], unique=False)
    op.create_table(
        "channel_changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("channel", sa.String(length=63), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("current", sa.String(length=80), nullable=True),
        sa.Column("previous", sa.String(length=80), nullable=True),
        sa.Column("commit_by", sa.Float(precision=53), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("by", sa.String(length=128), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channel_changes")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_channel_changes_channel"), "channel_changes", ["channel"], unique=False)
    op.create_table(
        "feed_changes",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("record", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_feed_changes")),
    )
    op.create_table(
        "feed_counter",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("log", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_feed_counter")),
    )
    op.create_table(
        "hostkeys",
        sa.Column("machine", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=1000), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("machine", name=op.f("pk_hostkeys")),
    )
    op.create_table(
        "state",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_state")),
    )
    op.create_table(
        "versions",
        sa.Column("version", sa.String(length=80), nullable=False),
        sa.Column("role", sa.String(length=63), nullable=False),
        sa.Column("root_hash", sa.String(length=64), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("added", sa.Float(precision=53), nullable=False),
        sa.Column("added_by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("length(root_hash) = 64", name=op.f("ck_versions_root_hash")),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_versions")),
    )
    op.create_table(
        "channels",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("current", sa.String(length=80), nullable=True),
        sa.Column("previous", sa.String(length=80), nullable=True),
        sa.Column("commit_by", sa.Float(precision=53), nullable=True),
        sa.Column("committed", sa.Boolean(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.Float(precision=53), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.CheckConstraint("(commit_by IS NULL) = committed", name=op.f("ck_channels_commit_by")),
        sa.CheckConstraint("current IS NOT NULL OR committed", name=op.f("ck_channels_current")),
        sa.ForeignKeyConstraint(["current"], ["versions.version"], name=op.f("fk_channels_current")),
        sa.ForeignKeyConstraint(["previous"], ["versions.version"], name=op.f("fk_channels_previous")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_channels")),
    )
    op.create_table(
        "holdings",
        sa.Column("rfs", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.String(length=80), nullable=False),
        sa.Column("confirmed_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["versions.version"], name=op.f("fk_holdings_version")),
        sa.PrimaryKeyConstraint("rfs", "version", name=op.f("pk_holdings")),
    )
    op.create_table(
        "pins",
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("value", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=80), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("by", sa.String(length=128), nullable=False),
        sa.CheckConstraint("kind IN ('room', 'type')", name=op.f("ck_pins_kind")),
        sa.ForeignKeyConstraint(["version"], ["versions.version"], name=op.f("fk_pins_version")),
        sa.PrimaryKeyConstraint("kind", "value", name=op.f("pk_pins")),
    )
