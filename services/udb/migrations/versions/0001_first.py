"""udb's first tables: users, numbers that were given, audit, feed."""

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
        sa.Column("sight", sa.String(length=8), nullable=False),
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
        "counters",
        sa.Column("name", sa.String(length=8), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("login", sa.String(length=31), nullable=False),
        sa.Column("firstname", sa.String(length=64), nullable=False),
        sa.Column("lastname", sa.String(length=64), nullable=False),
        sa.Column("uid", sa.Integer(), nullable=False),
        sa.Column("group", sa.String(length=8), nullable=False),
        sa.Column("shell", sa.String(length=64), nullable=False),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.Column("site_id", sa.BigInteger(), nullable=True),
        sa.Column("hash", sa.String(length=256), nullable=True),
        sa.Column("sealed", sa.Text(), nullable=True),
        sa.Column("password_set", sa.Float(precision=53), nullable=True),
        sa.Column("created", sa.Float(precision=53), nullable=False),
        sa.Column("updated", sa.Float(precision=53), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("\"group\" IN ('user', 'orga', 'root')", name=op.f("ck_users_group")),
        sa.CheckConstraint("login = lower(login) AND length(login) BETWEEN 1 AND 31", name=op.f("ck_users_login")),
        sa.CheckConstraint(
            "(\"group\" = 'user' AND uid BETWEEN 10000 AND 10999)"
            " OR (\"group\" = 'orga' AND uid BETWEEN 11000 AND 11999)"
            " OR (\"group\" = 'root' AND uid BETWEEN 12000 AND 12999)",
            name=op.f("ck_users_uid"),
        ),
        sa.CheckConstraint("(hash IS NULL) = (sealed IS NULL)", name=op.f("ck_users_password")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("login", name=op.f("uq_users_login")),
        sa.UniqueConstraint("site_id", name=op.f("uq_users_site_id")),
        sa.UniqueConstraint("uid", name=op.f("uq_users_uid")),
    )
    op.create_index(op.f("ix_users_group"), "users", ["group"], unique=False)
