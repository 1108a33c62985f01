"""udb's tables. What must always hold is a constraint here; what needs words for people is in `store`."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Float, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.common import database
from services.common.feed.outbox import Outbox
from services.common.history import AuditColumns


class Base(DeclarativeBase):
    """udb's tables."""

    metadata = database.metadata()


outbox = Outbox.of(Base.metadata)


class UserRow(Base):
    """A user. `id` is never used again, also not after a deletion (`CounterRow`)."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("\"group\" IN ('user', 'orga', 'root')", name="group"),
        CheckConstraint("login = lower(login) AND length(login) BETWEEN 1 AND 31", name="login"),
        CheckConstraint(
            "(\"group\" = 'user' AND uid BETWEEN 10000 AND 10999)"
            " OR (\"group\" = 'orga' AND uid BETWEEN 11000 AND 11999)"
            " OR (\"group\" = 'root' AND uid BETWEEN 12000 AND 12999)",
            name="uid",
        ),
        CheckConstraint("(hash IS NULL) = (sealed IS NULL)", name="password"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    login: Mapped[str] = mapped_column(String(31), unique=True)
    firstname: Mapped[str] = mapped_column(String(64))
    lastname: Mapped[str] = mapped_column(String(64))
    uid: Mapped[int] = mapped_column(unique=True)
    group: Mapped[str] = mapped_column(String(8), index=True)
    shell: Mapped[str] = mapped_column(String(64))
    keys: Mapped[str] = mapped_column(Text)  # JSON: a list of lines
    site_id: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    hash: Mapped[str | None] = mapped_column(String(256))  # yescrypt
    sealed: Mapped[str | None] = mapped_column(Text)  # `services.udb.sealing`
    password_set: Mapped[float | None] = mapped_column(Float(53))
    created: Mapped[float] = mapped_column(Float(53))
    updated: Mapped[float] = mapped_column(Float(53))
    revision: Mapped[int] = mapped_column(BigInteger)


class CounterRow(Base):
    """The last number that was given: of ids, and of uids by group."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(8), primary_key=True)
    last: Mapped[int] = mapped_column(BigInteger)


class AuditRow(AuditColumns, Base):
    """One change or showing, by `services.common.history`; who does not see group `sight` does not see it."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    sight: Mapped[str] = mapped_column(String(8))
