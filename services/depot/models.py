"""The depot's tables: what was published, and how far receivers are. Versions are files (`services.depot.files`)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.common import database
from services.common.feed.outbox import Outbox

_ID = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone


class Base(DeclarativeBase):
    """The depot's tables."""

    metadata = database.metadata()


outbox = Outbox.of(Base.metadata)


class PublicationRow(Base):
    """A statement that was accepted. Never changed, never deleted: it is the history of its channel."""

    __tablename__ = "publications"
    __table_args__ = (
        UniqueConstraint("channel", "sequence"),
        Index("ix_publications_role_version", "role", "version"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    channel: Mapped[str] = mapped_column(String(63))
    sequence: Mapped[int] = mapped_column(BigInteger)
    role: Mapped[str] = mapped_column(String(63))
    version: Mapped[str] = mapped_column(String(80))
    statement: Mapped[str] = mapped_column(Text)
    signatures: Mapped[str] = mapped_column(Text)  # a JSON list, as `to` and `signed_by`
    to: Mapped[str] = mapped_column(Text)
    signed_by: Mapped[str] = mapped_column(Text)
    published_by: Mapped[str] = mapped_column(String(128))
    at: Mapped[float] = mapped_column(Float(53))


class ProgressRow(Base):
    """The last word of a receiver whose state was another one than before."""

    __tablename__ = "progress"

    publication: Mapped[int] = mapped_column(_ID, ForeignKey("publications.id"), primary_key=True, autoincrement=False)
    host: Mapped[str] = mapped_column(String(63), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int] = mapped_column(BigInteger)
    full: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(Text)
    at: Mapped[float] = mapped_column(Float(53))
