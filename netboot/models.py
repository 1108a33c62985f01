"""netboot's tables. What must always hold is a constraint here; what needs words for people is in `store`.

`state` has one row, whose number grows with every change of versions, holdings, channels and pins: who holds these in
memory sees at once whether they are still true.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.common import database
from services.common.feed.outbox import Outbox

_ID = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by INTEGER alone


class Base(DeclarativeBase):
    """netboot's tables."""

    metadata = database.metadata()


outbox = Outbox.of(Base.metadata)


class StateRow(Base):
    """The number of the last change to what decides a boot."""

    __tablename__ = "state"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    changes: Mapped[int] = mapped_column(BigInteger)


class VersionRow(Base):
    """A version of an image that machines can boot."""

    __tablename__ = "versions"
    __table_args__ = (CheckConstraint("length(root_hash) = 64", name="root_hash"),)

    version: Mapped[str] = mapped_column(String(80), primary_key=True)
    role: Mapped[str] = mapped_column(String(63))
    root_hash: Mapped[str] = mapped_column(String(64))
    options: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    added: Mapped[float] = mapped_column(Float(53))
    added_by: Mapped[str] = mapped_column(String(128))


class QuarantineRow(Base):
    """A version that has failed: it is not offered, until somebody says otherwise."""

    __tablename__ = "quarantine"

    version: Mapped[str] = mapped_column(String(80), ForeignKey("versions.version"), primary_key=True)
    at: Mapped[float] = mapped_column(Float(53))
    by: Mapped[str] = mapped_column(String(128))
    why: Mapped[str] = mapped_column(Text)


class HoldingRow(Base):
    """A root file server's word that it holds a version, whole and verified."""

    __tablename__ = "holdings"

    rfs: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(String(80), ForeignKey("versions.version"), primary_key=True)
    confirmed_at: Mapped[float] = mapped_column(Float(53))


class ChannelRow(Base):
    """The pointer of a channel: the only one in the hall.

    `trial`: ids of the machines that `current` is for while it is not committed, with spaces between; null for all.
    """

    __tablename__ = "channels"
    __table_args__ = (
        CheckConstraint("(commit_by IS NULL) = committed", name="commit_by"),
        CheckConstraint("current IS NOT NULL OR committed", name="current"),
    )

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    current: Mapped[str | None] = mapped_column(String(80), ForeignKey("versions.version"))
    previous: Mapped[str | None] = mapped_column(String(80), ForeignKey("versions.version"))
    commit_by: Mapped[float | None] = mapped_column(Float(53))
    committed: Mapped[bool]
    trial: Mapped[str | None] = mapped_column(Text)
    generation: Mapped[int] = mapped_column(BigInteger)
    changed: Mapped[float] = mapped_column(Float(53))
    changed_by: Mapped[str] = mapped_column(String(128))
    why: Mapped[str] = mapped_column(Text)


class ChannelChangeRow(Base):
    """One move of a pointer: who, when, why."""

    __tablename__ = "channel_changes"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    channel: Mapped[str] = mapped_column(String(63), index=True)
    action: Mapped[str] = mapped_column(String(16))
    current: Mapped[str | None] = mapped_column(String(80))
    previous: Mapped[str | None] = mapped_column(String(80))
    commit_by: Mapped[float | None] = mapped_column(Float(53))
    generation: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[float] = mapped_column(Float(53))
    by: Mapped[str] = mapped_column(String(128))
    why: Mapped[str] = mapped_column(Text)


class PinRow(Base):
    """What a room or a type boots whatever its channels say."""

    __tablename__ = "pins"
    __table_args__ = (CheckConstraint("kind IN ('room', 'type')", name="kind"),)

    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    value: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[str] = mapped_column(String(80), ForeignKey("versions.version"))
    why: Mapped[str] = mapped_column(Text)
    at: Mapped[float] = mapped_column(Float(53))
    by: Mapped[str] = mapped_column(String(128))


class BootRow(Base):
    """What a machine was answered once, and what became of it. `version` outlives the version itself."""

    __tablename__ = "boots"
    __table_args__ = (
        Index("ix_boots_machine_at", "machine", "at"),
        CheckConstraint("(version IS NOT NULL) = (outcome = 'boot')", name="version"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    machine: Mapped[int] = mapped_column(BigInteger)
    hostname: Mapped[str] = mapped_column(String(63))
    mac: Mapped[str] = mapped_column(String(17))
    address: Mapped[str] = mapped_column(String(45))
    asked_from: Mapped[str] = mapped_column(String(45))
    outcome: Mapped[str] = mapped_column(String(16))
    rule: Mapped[str] = mapped_column(String(80))
    detail: Mapped[str] = mapped_column(Text)
    version: Mapped[str | None] = mapped_column(String(80), index=True)
    role: Mapped[str | None] = mapped_column(String(63))
    rfs: Mapped[int | None]
    servers: Mapped[str] = mapped_column(Text)  # addresses, with spaces between
    at: Mapped[float] = mapped_column(Float(53), index=True)
    claimed_at: Mapped[float | None] = mapped_column(Float(53))
    claimed_from: Mapped[str | None] = mapped_column(String(45))
    refused_claims: Mapped[int] = mapped_column(default=0)
    stage: Mapped[str | None] = mapped_column(String(16))
    stage_at: Mapped[float | None] = mapped_column(Float(53))
    stage_detail: Mapped[str] = mapped_column(Text, default="")
    seen: Mapped[float | None] = mapped_column(Float(53))  # its last heartbeat, at most a minute old
    marked_off: Mapped[float | None] = mapped_column(Float(53))


class HostKeyRow(Base):
    """The public half of the ssh host key that a machine made at its last boot."""

    __tablename__ = "hostkeys"

    machine: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(1000))
    boot: Mapped[str] = mapped_column(String(32))
    at: Mapped[float] = mapped_column(Float(53))


class BootlogRow(Base):
    """What a failing initrd sent: a reason, and the end of its journal."""

    __tablename__ = "bootlogs"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    boot: Mapped[str] = mapped_column(String(32), index=True)
    machine: Mapped[int] = mapped_column(BigInteger, index=True)
    sent_from: Mapped[str] = mapped_column(String(45))
    at: Mapped[float] = mapped_column(Float(53))
    reason: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
