"""Presence's tables: who was admitted where. What must always hold is a constraint here."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Float, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.common import database
from services.common.feed.outbox import Outbox


class Base(DeclarativeBase):
    """Presence's tables."""

    metadata = database.metadata()


outbox = Outbox.of(Base.metadata)


class SessionRow(Base):
    """`services.presence.rules.Row`: one of each user, and one of each machine."""

    __tablename__ = "sessions"

    login: Mapped[str] = mapped_column(String(31), primary_key=True)
    machine: Mapped[int] = mapped_column(BigInteger, unique=True)
    hostname: Mapped[str] = mapped_column(String(63))
    boot: Mapped[str] = mapped_column(String(64))
    since: Mapped[float] = mapped_column(Float(53))
    seen: Mapped[bool] = mapped_column(Boolean)
    live: Mapped[bool] = mapped_column(Boolean)
