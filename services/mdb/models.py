"""mdb's tables. What must always hold is a constraint here; what needs words for people is in `store`.

Every name of a machine, host name or alias, is a row of `names`: so no name can be given twice, whichever kind it is.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Float, ForeignKey, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.common import database
from services.common.feed.outbox import Outbox
from services.common.history import BIG_ID, AuditColumns


class Base(DeclarativeBase):
    """mdb's tables."""

    metadata = database.metadata()


outbox = Outbox.of(Base.metadata)


class MachineRow(Base):
    """A machine; its names are rows of their own. `id` is never used again, also not after a deletion."""

    __tablename__ = "machines"
    __table_args__ = (
        CheckConstraint("type IN ('user', 'orga', 'cluster', 'service')", name="type"),
        CheckConstraint("length(mac) = 17 AND mac = lower(mac)", name="mac"),
        CheckConstraint("rfs >= 0 AND hfs >= 0", name="servers"),
        CheckConstraint("declared OR mac IS NOT NULL", name="known"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    mac: Mapped[str | None] = mapped_column(String(17), unique=True)  # hall.toml may leave it out
    ip: Mapped[int] = mapped_column(BigInteger, unique=True)  # as a number: ranges compare and sort
    rfs: Mapped[int]
    hfs: Mapped[int]
    type: Mapped[str] = mapped_column(String(8), index=True)
    room: Mapped[str] = mapped_column(String(63), index=True)
    faulty: Mapped[bool]
    faulty_reason: Mapped[str] = mapped_column(Text)
    channel: Mapped[str] = mapped_column(String(63))
    pinned: Mapped[str | None] = mapped_column(String(80))
    notes: Mapped[str] = mapped_column(Text)
    declared: Mapped[bool]  # by hall.toml, which owns its names and addresses
    created: Mapped[float] = mapped_column(Float(53))
    updated: Mapped[float] = mapped_column(Float(53))
    revision: Mapped[int] = mapped_column(BigInteger)


class NameRow(Base):
    """A name of a machine: its host name at position 0, then its aliases."""

    __tablename__ = "names"
    __table_args__ = (CheckConstraint("name = lower(name) AND length(name) BETWEEN 1 AND 63", name="label"),)

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    machine_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("machines.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]


class SwitchRow(Base):
    """A switch that names itself in LLDP, and the servers that are nearest to what is plugged into it."""

    __tablename__ = "switches"
    __table_args__ = (
        CheckConstraint("length(chassis) = 17 AND chassis = lower(chassis)", name="chassis"),
        CheckConstraint("rfs >= 0 AND hfs >= 0", name="servers"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    chassis: Mapped[str] = mapped_column(String(17), unique=True)
    room: Mapped[str] = mapped_column(String(63))
    rfs: Mapped[int]
    hfs: Mapped[int]
    revision: Mapped[int] = mapped_column(BigInteger)


class SettingRow(Base):
    """A setting that is changed while the hall runs; its history is the audit log's."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(Text)  # JSON
    updated: Mapped[float] = mapped_column(Float(53))


class CodeRow(Base):
    """A one-time code of an administrator, with which a machine registers again. The code itself is nowhere."""

    __tablename__ = "codes"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    machine_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("machines.id", ondelete="CASCADE"), index=True)
    expires: Mapped[float] = mapped_column(Float(53))
    actor: Mapped[str] = mapped_column(String(128))


class RestRow(Base):
    """An address whose machine is gone, since when: it rests before it is given again."""

    __tablename__ = "resting"

    ip: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    since: Mapped[float] = mapped_column(Float(53))


class AuditRow(AuditColumns, Base):
    """One change, by `services.common.history`."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)
