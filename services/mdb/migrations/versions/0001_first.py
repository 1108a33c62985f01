"""mdb's first tables: machines and their names, switches, settings, codes, resting addresses, audit, feed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("origin", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=8), nullable=False),
        sa.Column("topic", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_index(op.f("ix_audit_key"), "audit", ["key"], unique=False)
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
        "machines",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("mac", sa.String(length=17), nullable=True),
        sa.Column("ip", sa.BigInteger(), nullable=False),
        sa.Column("rfs", sa.Integer(), nullable=False),
        sa.Column("hfs", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=8), nullable=False),
        sa.Column("room", sa.String(length=63), nullable=False),
        sa.Column("faulty", sa.Boolean(), nullable=False),
        sa.Column("faulty_reason", sa.Text(), nullable=False),
        sa.Column("channel", sa.String(length=63), nullable=False),
        sa.Column("pinned", sa.String(length=80), nullable=True),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("declared", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Float(precision=53), nullable=False),
        sa.Column("updated", sa.Float(precision=53), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("type IN ('user', 'orga', 'cluster', 'service')", name=op.f("ck_machines_type")),
        sa.CheckConstraint("length(mac) = 17 AND mac = lower(mac)", name=op.f("ck_machines_mac")),
        sa.CheckConstraint("rfs >= 0 AND hfs >= 0", name=op.f("ck_machines_servers")),
        sa.CheckConstraint("declared OR mac IS NOT NULL", name=op.f("ck_machines_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_machines")),
        sa.UniqueConstraint("ip", name=op.f("uq_machines_ip")),
        sa.UniqueConstraint("mac", name=op.f("uq_machines_mac")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_machines_room"), "machines", ["room"], unique=False)
    op.create_index(op.f("ix_machines_type"), "machines", ["type"], unique=False)
    op.create_table(
        "resting",
        sa.Column("ip", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("since", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("ip", name=op.f("pk_resting")),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("updated", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_settings")),
    )
    op.create_table(
        "switches",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("chassis", sa.String(length=17), nullable=False),
        sa.Column("room", sa.String(length=63), nullable=False),
        sa.Column("rfs", sa.Integer(), nullable=False),
        sa.Column("hfs", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(chassis) = 17 AND chassis = lower(chassis)", name=op.f("ck_switches_chassis")),
        sa.CheckConstraint("rfs >= 0 AND hfs >= 0", name=op.f("ck_switches_servers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_switches")),
        sa.UniqueConstraint("chassis", name=op.f("uq_switches_chassis")),
        sa.UniqueConstraint("name", name=op.f("uq_switches_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "codes",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("machine_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("expires", sa.Float(precision=53), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["machine_id"], ["machines.id"], name=op.f("fk_codes_machine_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_codes")),
    )
    op.create_index(op.f("ix_codes_machine_id"), "codes", ["machine_id"], unique=False)
    op.create_table(
        "names",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("machine_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.CheckConstraint("name = lower(name) AND length(name) BETWEEN 1 AND 63", name=op.f("ck_names_label")),
        sa.ForeignKeyConstraint(["machine_id"], ["machines.id"], name=op.f("fk_names_machine_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_names")),
    )
    op.create_index(op.f("ix_names_machine_id"), "names", ["machine_id"], unique=False)
