"""netboot's tables and rules; no HTTP. One transaction a call.

Writers come one after the other, on both databases. What decides boots (versions, holdings, channels, pins) is held in
memory, and read again when the number of its last change is another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from netboot import leases, rows, scripts
from netboot.decide import Pointers
from netboot.machines import Machines
from netboot.models import (
    BootRow,
    ChannelChangeRow,
    ChannelRow,
    HoldingRow,
    PinRow,
    QuarantineRow,
    StateRow,
    VersionRow,
    outbox,
)
from netboot.schema import (
    Action,
    Channel,
    ChannelChange,
    Extension,
    Holding,
    Move,
    NewPin,
    NewPointer,
    NewVersion,
    Pin,
    PinKind,
    Quarantine,
    Rollback,
    Version,
    VersionUsers,
)
from services.common.addresses import Range
from services.common.database import Database
from services.common.errors import BusyError, HostError, InputError, MissingError
from services.common.names import label_problem

MIGRATIONS = Path(__file__).parent / "migrations"
_STATE = "netboot"
_CLOCK: Callable[[], float] = time.time


@dataclass(frozen=True)
class Actor:
    """Who is acting."""

    name: str


ITSELF = Actor("netboot")


class Store:
    """netboot's database. `machines` is what mdb says; `aliens` are the addresses of machines that it does not know."""

    def __init__(
        self,
        database: Database,
        machines: Machines,
        *,
        aliens: Range | None = None,
        clock: Callable[[], float] = _CLOCK,
    ) -> None:
        self.database = database
        self.machines = machines
        self.aliens = aliens
        self.clock = clock
        self.signs: dict[str, float] = {}
        """When boots were last heard, by id, where the tables do not say it yet (`netboot.heartbeats`)."""
        self._writing = threading.Lock()
        self._held = (-1, Pointers())

    def prepare(self) -> None:
        """Make or move on the schema, and take back what nobody has committed: this is a restart."""
        self.database.migrate(MIGRATIONS)
        with self.database.write() as session:
            outbox.begin(session)
            outbox.lock(session)
            if session.get(StateRow, _STATE) is None:
                session.add(StateRow(name=_STATE, changes=0))
                session.flush()
            why = "netboot was restarted before it was committed"
            self._revert_due(session, Action.RESTARTED, lambda _: why)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes, alone.

        SQLite has one writer, but its queue looks only every 100 ms whether it is its turn: in this process, a lock is
        the queue. On PostgreSQL the feed's counter keeps the others out.
        """
        with self._writing, self.database.write() as session:
            if not self.database.is_sqlite:
                outbox.lock(session)
            yield session

    # Versions and who holds them

    def versions(self) -> list[Version]:
        """The newest first."""
        with self.database.read() as session:
            return rows.versions(session)

    def add_version(self, actor: Actor, new: NewVersion) -> Version:
        """Make a version known; the same one again changes nothing.

        Raises InputError("version.options"), BusyError("conflict.version") when it is known as something else.
        """
        if problem := scripts.options_problem(new.options):
            raise InputError("version.options", problem)
        with self.write() as session:
            row = session.get(VersionRow, new.version)
            if row is not None:
                same = (row.role, row.root_hash, row.options) == (new.role, new.root_hash, new.options)
                if not same:
                    raise BusyError(
                        "conflict.version",
                        f"{new.version} is known already, with another role, root hash or options",
                        hint="a version never changes: publish a new one",
                    )
                return rows.version(row)
            row = VersionRow(**rows.columns(new), added=self.clock(), added_by=actor.name)
            session.add(row)
            self._changed(session)
            return rows.version(row)

    def remove_version(self, version: str) -> None:
        """Forget a version that nobody uses.

        Raises MissingError("version.unknown"), BusyError("conflict.in-use") with who uses it.
        """
        with self.write() as session:
            self._need_version(session, version)
            if users := self._users(session, version):
                raise BusyError("conflict.in-use", f"{version} is in use: {', '.join(users)}")
            session.execute(delete(QuarantineRow).where(QuarantineRow.version == version))
            session.execute(delete(VersionRow).where(VersionRow.version == version))
            self._changed(session)

    def users(self, version: str) -> VersionUsers:
        """Who uses a version, other than the servers that hold it.

        Raises MissingError("version.unknown"), HostError("ready.mdb") while it is not known which machines have a pin.
        """
        if not self.machines.ready:
            raise HostError("ready.mdb", "mdb was never heard: who has a pin is not known")
        with self.database.read() as session:
            self._need_version(session, version)
            return VersionUsers(version=version, users=self._users(session, version, holders=False))

    def _users(self, session: Session, version: str, *, holders: bool = True) -> list[str]:
        channels = select(ChannelRow.name).where((ChannelRow.current == version) | (ChannelRow.previous == version))
        users = [f"channel {name}" for name in session.scalars(channels)]
        pins = session.scalars(select(PinRow).where(PinRow.version == version))
        users += [f"pin of {row.kind} {row.value}" for row in pins]
        users += [f"pin of machine {each.hostname}" for each in self.machines if each.pinned == version]
        if holders:
            held = session.scalars(select(HoldingRow.rfs).where(HoldingRow.version == version).order_by(HoldingRow.rfs))
            users += [f"held by rfs{rfs}" for rfs in held]
        leased = leases.active(session, self.clock(), self.signs)
        hosts = [each.hostname for each in leased if each.version == version]
        if hosts:
            users.append(
                f"booted by {', '.join(hosts[:5])}" + (f" and {len(hosts) - 5} more" if len(hosts) > 5 else "")
            )
        return users

    def mark_off(self, machine: int) -> list[str]:
        """End the leases of a machine that is off; one that is not keeps them by its next heartbeat.

        Returns their versions. Raises MissingError("lease.unknown").
        """
        now = self.clock()
        with self.write() as session:
            ended = [each for each in leases.active(session, now, self.signs) if each.machine == machine]
            if not ended:
                raise MissingError("lease.unknown", f"machine {machine} has no lease")
            rows_of = BootRow.id.in_([each.boot for each in ended])
            session.execute(update(BootRow).where(rows_of).values(marked_off=now))
            return [each.version for each in ended]

    def holdings(self) -> list[Holding]:
        """By root file server, then version."""
        with self.database.read() as session:
            found = session.scalars(select(HoldingRow).order_by(HoldingRow.rfs, HoldingRow.version))
            return [Holding(rfs=row.rfs, version=row.version, confirmed_at=row.confirmed_at) for row in found]

    def hold(self, rfs: int, version: str) -> Holding:
        """Note that a root file server holds a version. Raises MissingError("version.unknown")."""
        with self.write() as session:
            self._need_version(session, version)
            row = session.get(HoldingRow, (rfs, version))
            if row is None:
                row = HoldingRow(rfs=rfs, version=version, confirmed_at=self.clock())
                session.add(row)
                self._changed(session)
            row.confirmed_at = self.clock()
            return Holding(rfs=rfs, version=version, confirmed_at=row.confirmed_at)

    def release(self, rfs: int, version: str) -> None:
        """Note that it does not, any more. Raises MissingError("holding.unknown")."""
        with self.write() as session:
            done = delete(HoldingRow).where(HoldingRow.rfs == rfs, HoldingRow.version == version)
            if not session.execute(done.returning(HoldingRow.rfs)).all():
                raise MissingError("holding.unknown", f"rfs{rfs} does not hold {version}, as far as netboot knows")
            self._changed(session)

    # Channels

    def channels(self) -> list[Channel]:
        """By name."""
        now = self.clock()
        with self.database.read() as session:
            return [rows.channel(row, now) for row in session.scalars(select(ChannelRow).order_by(ChannelRow.name))]

    def channel_history(self, name: str, *, limit: int = 100) -> list[ChannelChange]:
        """The newest first. Raises MissingError("channel.unknown")."""
        query = select(ChannelChangeRow).where(ChannelChangeRow.channel == name).order_by(ChannelChangeRow.id.desc())
        with self.database.read() as session:
            found = [rows.change(row) for row in session.scalars(query.limit(limit))]
        if not found:
            raise MissingError("channel.unknown", f"there is no channel {name}")
        return found

    def switch_channel(self, actor: Actor, name: str, new: NewPointer) -> Channel:
        """Move a channel's pointer; it is made when there is none.

        What counts as `previous` is what was committed last; what is committed already is not to be committed again.
        Raises MissingError("version.unknown"), InputError("channel.name", "channel.only"), BusyError:
        "conflict.generation", "conflict.quarantine".
        """
        if problem := label_problem(name):
            raise InputError("channel.name", problem)
        if new.only is not None and new.commit_within is None:
            raise InputError("channel.only", "what is for some machines only is to be committed: say within what time")
        now = self.clock()
        with self.write() as session:
            self._need_version(session, new.version)
            self._need_no_quarantine(session, new)
            row = session.get(ChannelRow, name)
            if row is None:
                row = ChannelRow(name=name, current=None, previous=None, committed=True, generation=0)
                session.add(row)
            _need_generation(row, new.generation)
            if not row.committed and row.commit_by is not None and row.commit_by <= now:
                row.current, row.committed = row.previous, True
            tried = new.commit_within if new.version != row.current or not row.committed else None
            if row.committed and row.current != new.version:
                row.previous = row.current
            row.current = new.version
            row.committed, row.commit_by = tried is None, None if tried is None else now + tried
            row.trial = None if tried is None else _trial(new.only)
            return self._moved(session, row, Action.SET, actor, new.why, now)

    def extend_channel(self, actor: Actor, name: str, more: Extension) -> Channel:
        """Give what is on trial more time, and other machines. Raises as `commit_channel`."""
        now = self.clock()
        with self.write() as session:
            row = self._need_trial(session, name, more.generation, now)
            row.commit_by, row.trial = now + more.commit_within, _trial(more.only)
            return self._moved(session, row, Action.EXTENDED, actor, more.why, now)

    def commit_channel(self, actor: Actor, name: str, move: Move) -> Channel:
        """Keep what a channel points to. Raises MissingError, BusyError("conflict.channel") when it is too late."""
        now = self.clock()
        with self.write() as session:
            row = self._need_trial(session, name, move.generation, now)
            row.committed, row.commit_by, row.trial = True, None, None
            return self._moved(session, row, Action.COMMITTED, actor, move.why, now)

    def _need_trial(self, session: Session, name: str, generation: int | None, now: float) -> ChannelRow:
        row = self._need_channel(session, name)
        _need_generation(row, generation)
        if row.committed:
            raise BusyError("conflict.channel", f"{name} has nothing to commit")
        if row.commit_by is not None and row.commit_by <= now:
            raise BusyError(
                "conflict.channel",
                f"{row.current} had to be committed {now - row.commit_by:.0f} s ago: switch to it again",
            )
        return row

    def rollback_channel(self, actor: Actor, name: str, back: Rollback) -> Channel:
        """Point to `previous` again. Raises MissingError, BusyError("conflict.channel") when there is none."""
        with self.write() as session:
            row = self._need_channel(session, name)
            _need_generation(row, back.generation)
            if row.previous is None and row.committed:
                hint = f"`backline netboot channel history {name}` has what it pointed to"
                raise BusyError("conflict.channel", f"{name} has nothing to go back to", hint=hint)
            if back.quarantine and row.current is not None:
                self._quarantine(session, actor, row.current, back.why)
            return self._revert(session, row, Action.REVERTED, actor, back.why)

    def revert_due(self) -> list[str]:
        """Write down what has been taken back already by not being committed in time. Returns the channels."""
        now = self.clock()
        with self.database.read() as session:
            due = select(ChannelRow.name).where(ChannelRow.committed.is_(False), ChannelRow.commit_by <= now)
            if session.scalar(due.limit(1)) is None:
                return []
        with self.write() as session:
            why = "it was not committed in time"
            return self._revert_due(session, Action.EXPIRED, lambda row: why if (row.commit_by or now) <= now else None)

    def _revert_due(self, session: Session, action: Action, due: Callable[[ChannelRow], str | None]) -> list[str]:
        reverted = []
        for row in session.scalars(select(ChannelRow).where(ChannelRow.committed.is_(False))):
            if why := due(row):
                self._revert(session, row, action, ITSELF, why)
                reverted.append(row.name)
        return reverted

    def _revert(self, session: Session, row: ChannelRow, action: Action, actor: Actor, why: str) -> Channel:
        row.current, row.previous, row.committed, row.commit_by = row.previous, None, True, None
        row.trial = None
        return self._moved(session, row, action, actor, why, self.clock())

    def _moved(self, session: Session, row: ChannelRow, action: Action, actor: Actor, why: str, now: float) -> Channel:
        row.generation += 1
        row.changed, row.changed_by, row.why = now, actor.name, why
        session.flush()
        line = {
            "channel": row.name,
            "action": action.value,
            "current": row.current,
            "previous": row.previous,
            "commit_by": row.commit_by,
            "generation": row.generation,
            "at": now,
            "by": actor.name,
            "why": why,
        }
        session.execute(insert(ChannelChangeRow), [line])
        self._changed(session)
        return rows.channel(row, now)

    def _need_channel(self, session: Session, name: str) -> ChannelRow:
        row = session.get(ChannelRow, name)
        if row is None:
            raise MissingError("channel.unknown", f"there is no channel {name}")
        return row

    def _need_version(self, session: Session, version: str) -> None:
        if session.get(VersionRow, version) is None:
            raise MissingError(
                "version.unknown", f"netboot knows no version {version}", hint="backline netboot version add"
            )

    # Quarantine

    def quarantines(self) -> list[Quarantine]:
        """The newest first."""
        query = select(QuarantineRow).order_by(QuarantineRow.at.desc(), QuarantineRow.version)
        with self.database.read() as session:
            return [rows.quarantine(row) for row in session.scalars(query)]

    def quarantine(self, actor: Actor, version: str, why: str) -> Quarantine:
        """Offer a version no longer. Raises MissingError("version.unknown")."""
        with self.write() as session:
            self._need_version(session, version)
            made = self._quarantine(session, actor, version, why)
            self._changed(session)
            return rows.quarantine(made)

    def lift_quarantine(self, version: str) -> None:
        """Raises MissingError("quarantine.unknown")."""
        with self.write() as session:
            row = session.get(QuarantineRow, version)
            if row is None:
                raise MissingError("quarantine.unknown", f"{version} is not in quarantine")
            session.delete(row)
            self._changed(session)

    def _quarantine(self, session: Session, actor: Actor, version: str, why: str) -> QuarantineRow:
        row = session.get(QuarantineRow, version)
        if row is None:
            row = QuarantineRow(version=version)
            session.add(row)
        row.at, row.by, row.why = self.clock(), actor.name, why
        return row

    def _need_no_quarantine(self, session: Session, new: NewPointer) -> None:
        row = session.get(QuarantineRow, new.version)
        if row is None:
            return
        if not new.lift_quarantine:
            raise BusyError(
                "conflict.quarantine",
                f"{new.version} is in quarantine: {row.why or 'no reason was given'}",
                hint="fix it and publish a new version, or say --lift-quarantine",
            )
        session.delete(row)

    # Pins

    def pins(self) -> list[Pin]:
        """Pins of rooms and types."""
        with self.database.read() as session:
            return [rows.pin(row) for row in session.scalars(select(PinRow).order_by(PinRow.kind, PinRow.value))]

    def pin(self, actor: Actor, kind: PinKind, value: str, new: NewPin) -> Pin:
        """Pin a room or type. Raises MissingError("version.unknown"), InputError("pin.value")."""
        if problem := label_problem(value):
            raise InputError("pin.value", problem)
        with self.write() as session:
            self._need_version(session, new.version)
            row = session.get(PinRow, (kind.value, value))
            if row is None:
                row = PinRow(kind=kind.value, value=value)
                session.add(row)
            row.version, row.why, row.at, row.by = new.version, new.why, self.clock(), actor.name
            self._changed(session)
            return rows.pin(row)

    def unpin(self, kind: PinKind, value: str) -> None:
        """Raises MissingError("pin.unknown")."""
        with self.write() as session:
            row = session.get(PinRow, (kind.value, value))
            if row is None:
                raise MissingError("pin.unknown", f"{kind.value} {value} is not pinned")
            session.delete(row)
            self._changed(session)

    # What decides

    def pointers(self) -> Pointers:
        """What the tables say now."""
        with self.database.read() as session:
            return self.current(session)

    def current(self, session: Session) -> Pointers:
        """What the tables say in this transaction."""
        # Once a group of boots: by the driver, which takes a fifth of the time.
        (changes,) = session.connection().exec_driver_sql(f"SELECT changes FROM state WHERE name = '{_STATE}'").one()
        held, pointers = self._held
        if changes != held:
            pointers = rows.pointers(session)
            self._held = (changes, pointers)  # one assignment: other threads read it
        return pointers

    def _changed(self, session: Session) -> None:
        session.flush()
        session.execute(update(StateRow).values(changes=StateRow.changes + 1))


def _trial(only: list[int] | None) -> str | None:
    return None if only is None else " ".join(str(id) for id in sorted(set(only)))


def _need_generation(row: ChannelRow, wanted: int | None) -> None:
    if wanted is not None and wanted != row.generation:
        raise BusyError(
            "conflict.generation",
            f"channel {row.name} is at generation {row.generation}, not {wanted}: somebody else moved it",
        )
