"""netboot's tables and rules; no HTTP. One transaction a call.

Writers come one after the other: in this process by a lock, between processes by the feed's counter. A boot is decided
inside the transaction that writes its record, so whoever moves a pointer moves it before a boot or after it, never in
the middle. What decides (versions, holdings, channels, pins) is held in memory and read again when its number changed.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from netboot import decide, scripts
from netboot.decide import Decision, Pointers
from netboot.machines import Known, Machines
from netboot.models import (
    BootRow,
    ChannelChangeRow,
    ChannelRow,
    HoldingRow,
    PinRow,
    StateRow,
    VersionRow,
    outbox,
)
from netboot.schema import (
    Action,
    Boot,
    Channel,
    ChannelChange,
    Holding,
    Move,
    NewPin,
    NewPointer,
    NewVersion,
    Outcome,
    Pin,
    PinKind,
    Stage,
    Version,
)
from services.common.addresses import Range
from services.common.codec import to_builtins
from services.common.database import Database
from services.common.errors import BusyError, InputError, MissingError
from services.common.feed.wire import Item, Kind, Record
from services.common.names import label_problem

MIGRATIONS = Path(__file__).parent / "migrations"
BOOTS = "boots"
TOPICS = frozenset({BOOTS})
LEASE_SECONDS = 24 * 3600.0
BOOTS_KEPT = 100
"""Boots of one machine that are kept; older ones go."""

_STATE = "netboot"
_CLOCK: Callable[[], float] = time.time


@dataclass(frozen=True)
class Actor:
    """Who is acting."""

    name: str


ITSELF = Actor("netboot")


@dataclass(frozen=True)
class Asked:
    """A machine's question: who it is, and the address it asked from."""

    machine: Known
    asked_from: str


@dataclass(frozen=True)
class Answered:
    """The decision on a question, under the id of the boot record that was written."""

    boot: str
    machine: Known
    decision: Decision


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
        self._writing = threading.Lock()
        self._pointers = Pointers()
        self._changes = -1

    def prepare(self) -> None:
        """Make or move on the schema, and take back what nobody has committed: this is a restart."""
        self.database.migrate(MIGRATIONS)
        with self._write() as session:
            outbox.begin(session)
            if session.get(StateRow, _STATE) is None:
                session.add(StateRow(name=_STATE, changes=0))
                session.flush()
            self._revert_due(session, lambda _: "netboot was restarted before it was committed")

    @contextmanager
    def _write(self) -> Iterator[Session]:
        """A transaction that writes, alone in this process: SQLite's own queue waits in steps of up to 100 ms."""
        with self._writing, self.database.write() as session:
            yield session

    # Versions and who holds them

    def versions(self) -> list[Version]:
        """The newest first."""
        with self.database.read() as session:
            rows = session.scalars(select(VersionRow).order_by(VersionRow.added.desc(), VersionRow.version))
            return [_version(row) for row in rows]

    def add_version(self, actor: Actor, new: NewVersion) -> Version:
        """Make a version known; the same one again changes nothing.

        Raises InputError("version.options"), BusyError("conflict.version") when it is known as something else.
        """
        if problem := scripts.options_problem(new.options):
            raise InputError("version.options", problem)
        with self._write() as session:
            row = session.get(VersionRow, new.version)
            if row is not None:
                same = (row.role, row.root_hash, row.options) == (new.role, new.root_hash, new.options)
                if not same:
                    raise BusyError(
                        "conflict.version",
                        f"{new.version} is known already, with another role, root hash or options",
                        hint="a version never changes: publish a new one",
                    )
                return _version(row)
            row = VersionRow(**to_columns(new), added=self.clock(), added_by=actor.name)
            session.add(row)
            self._changed(session)
            return _version(row)

    def remove_version(self, version: str) -> None:
        """Forget a version that nobody uses.

        Raises MissingError("version.unknown"), BusyError("conflict.in-use") with who uses it.
        """
        with self._write() as session:
            self._need_version(session, version)
            if users := self._users(session, version):
                raise BusyError("conflict.in-use", f"{version} is in use: {', '.join(users)}")
            session.execute(delete(VersionRow).where(VersionRow.version == version))
            self._changed(session)

    def _users(self, session: Session, version: str) -> list[str]:
        channels = select(ChannelRow.name).where((ChannelRow.current == version) | (ChannelRow.previous == version))
        users = [f"channel {name}" for name in session.scalars(channels)]
        pins = session.scalars(select(PinRow).where(PinRow.version == version))
        users += [f"pin of {row.kind} {row.value}" for row in pins]
        users += [f"pin of machine {each.hostname}" for each in self.machines if each.pinned == version]
        held = session.scalars(select(HoldingRow.rfs).where(HoldingRow.version == version).order_by(HoldingRow.rfs))
        users += [f"held by rfs{rfs}" for rfs in held]
        newest = select(BootRow.machine, func.max(BootRow.at).label("at")).group_by(BootRow.machine).subquery()
        running = (
            select(BootRow.hostname)
            .join(newest, (BootRow.machine == newest.c.machine) & (BootRow.at == newest.c.at))
            .where(BootRow.version == version, BootRow.at > self.clock() - LEASE_SECONDS)
            .order_by(BootRow.hostname)
        )
        hosts = list(session.scalars(running))
        users += [f"booted by {', '.join(hosts[:5])}" + (f" and {len(hosts) - 5} more" if len(hosts) > 5 else "")][
            : bool(hosts)
        ]
        return users

    def holdings(self) -> list[Holding]:
        """By root file server, then version."""
        with self.database.read() as session:
            rows = session.scalars(select(HoldingRow).order_by(HoldingRow.rfs, HoldingRow.version))
            return [Holding(rfs=row.rfs, version=row.version, confirmed_at=row.confirmed_at) for row in rows]

    def hold(self, rfs: int, version: str) -> Holding:
        """Note that a root file server holds a version. Raises MissingError("version.unknown")."""
        with self._write() as session:
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
        with self._write() as session:
            done = delete(HoldingRow).where(HoldingRow.rfs == rfs, HoldingRow.version == version)
            if not session.execute(done.returning(HoldingRow.rfs)).all():
                raise MissingError("holding.unknown", f"rfs{rfs} does not hold {version}, as far as netboot knows")
            self._changed(session)

    # Channels

    def channels(self) -> list[Channel]:
        """By name."""
        now = self.clock()
        with self.database.read() as session:
            return [_channel(row, now) for row in session.scalars(select(ChannelRow).order_by(ChannelRow.name))]

    def channel_history(self, name: str, *, limit: int = 100) -> list[ChannelChange]:
        """The newest first. Raises MissingError("channel.unknown")."""
        query = select(ChannelChangeRow).where(ChannelChangeRow.channel == name).order_by(ChannelChangeRow.id.desc())
        with self.database.read() as session:
            found = [_change(row) for row in session.scalars(query.limit(limit))]
        if not found:
            raise MissingError("channel.unknown", f"there is no channel {name}")
        return found

    def set_channel(self, actor: Actor, name: str, new: NewPointer) -> Channel:
        """Move a channel's pointer; it is made when there is none.

        What counts as `previous` is what was committed last. Raises MissingError("version.unknown"),
        InputError("channel.name"), BusyError("conflict.generation").
        """
        if problem := label_problem(name):
            raise InputError("channel.name", problem)
        now = self.clock()
        with self._write() as session:
            self._need_version(session, new.version)
            row = session.get(ChannelRow, name, with_for_update=True)
            if row is None:
                row = ChannelRow(name=name, current=None, previous=None, committed=True, generation=0)
                session.add(row)
            _need_generation(row, new.generation)
            if not row.committed and row.commit_by is not None and row.commit_by <= now:
                row.current, row.committed = row.previous, True
            if row.committed and row.current != new.version:
                row.previous = row.current
            row.current = new.version
            row.committed = new.commit_seconds is None
            row.commit_by = None if new.commit_seconds is None else now + new.commit_seconds
            return self._moved(session, row, Action.SET, actor, new.why, now)

    def commit_channel(self, actor: Actor, name: str, move: Move) -> Channel:
        """Keep what a channel points to. Raises MissingError, BusyError("conflict.channel") when it is too late."""
        now = self.clock()
        with self._write() as session:
            row = self._need_channel(session, name)
            _need_generation(row, move.generation)
            if row.committed:
                raise BusyError("conflict.channel", f"{name} has nothing to commit")
            if row.commit_by is not None and row.commit_by <= now:
                raise BusyError(
                    "conflict.channel",
                    f"{row.current} had to be committed {now - row.commit_by:.0f} s ago: set it again",
                )
            row.committed, row.commit_by = True, None
            return self._moved(session, row, Action.COMMITTED, actor, move.why, now)

    def revert_channel(self, actor: Actor, name: str, move: Move) -> Channel:
        """Point to `previous` again. Raises MissingError, BusyError("conflict.channel") when there is none."""
        with self._write() as session:
            row = self._need_channel(session, name)
            _need_generation(row, move.generation)
            if row.previous is None and row.committed:
                raise BusyError("conflict.channel", f"{name} has nothing to go back to")
            return self._revert(session, row, actor, move.why)

    def revert_due(self) -> list[str]:
        """Write down what has been taken back already by not being committed in time. Returns the channels."""
        if not any(not channel.committed for channel in self._pointers.channels.values()) and self._changes >= 0:
            return []
        with self._write() as session:
            now = self.clock()
            why = "it was not committed in time"
            return self._revert_due(session, lambda row: why if (row.commit_by or now) <= now else None)

    def _revert_due(self, session: Session, due: Callable[[ChannelRow], str | None]) -> list[str]:
        reverted = []
        for row in session.scalars(select(ChannelRow).where(ChannelRow.committed.is_(False)).with_for_update()):
            if why := due(row):
                self._revert(session, row, ITSELF, why)
                reverted.append(row.name)
        return reverted

    def _revert(self, session: Session, row: ChannelRow, actor: Actor, why: str) -> Channel:
        row.current, row.previous, row.committed, row.commit_by = row.previous, None, True, None
        return self._moved(session, row, Action.REVERTED, actor, why, self.clock())

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
        return _channel(row, now)

    def _need_channel(self, session: Session, name: str) -> ChannelRow:
        row = session.get(ChannelRow, name, with_for_update=True)
        if row is None:
            raise MissingError("channel.unknown", f"there is no channel {name}")
        return row

    def _need_version(self, session: Session, version: str) -> None:
        if session.get(VersionRow, version) is None:
            raise MissingError(
                "version.unknown", f"netboot knows no version {version}", hint="backline netboot version add"
            )

    # Pins

    def pins(self) -> list[Pin]:
        """Pins of rooms and types."""
        with self.database.read() as session:
            return [_pin(row) for row in session.scalars(select(PinRow).order_by(PinRow.kind, PinRow.value))]

    def pin(self, actor: Actor, kind: PinKind, value: str, new: NewPin) -> Pin:
        """Pin a room or type. Raises MissingError("version.unknown"), InputError("pin.value")."""
        if problem := label_problem(value):
            raise InputError("pin.value", problem)
        with self._write() as session:
            self._need_version(session, new.version)
            row = session.get(PinRow, (kind.value, value))
            if row is None:
                row = PinRow(kind=kind.value, value=value)
                session.add(row)
            row.version, row.why, row.at, row.by = new.version, new.why, self.clock(), actor.name
            self._changed(session)
            return _pin(row)

    def unpin(self, kind: PinKind, value: str) -> None:
        """Raises MissingError("pin.unknown")."""
        with self._write() as session:
            row = session.get(PinRow, (kind.value, value))
            if row is None:
                raise MissingError("pin.unknown", f"{kind.value} {value} is not pinned")
            session.delete(row)
            self._changed(session)

    # Boots

    def boot(self, asked: Sequence[Asked]) -> list[Answered]:
        """Decide and write down, in one transaction, what each machine is answered."""
        with self._write() as session:
            outbox.lock(session)
            pointers, now = self._current(session), self.clock()
            answers = [
                Answered(
                    secrets.token_hex(16),
                    each.machine,
                    decide.decide(
                        each.machine,
                        self.machines,
                        pointers,
                        now=now,
                        asked_from=each.asked_from,
                        aliens=self.aliens,
                    ),
                )
                for each in asked
            ]
            rows = [_boot_columns(answer, each.asked_from, now) for answer, each in zip(answers, asked, strict=True)]
            session.execute(insert(BootRow), rows)
            told = [(BOOTS, str(row["machine"]), Kind.UPDATED, _public(Boot(**_boot_fields(row)))) for row in rows]
            outbox.append(session, told)
        return answers

    def why(self, machine: Known, *, asked_from: str = "") -> tuple[list[decide.Rule], Decision]:
        """What `boot` would decide now, and every rule; nothing is written."""
        with self.database.read() as session:
            pointers, now = self._current(session), self.clock()
        decision = decide.decide(machine, self.machines, pointers, now=now, asked_from=asked_from, aliens=self.aliens)
        return decide.rules(machine, pointers, now), decision

    def _current(self, session: Session) -> Pointers:
        changes = session.scalar(select(StateRow.changes).where(StateRow.name == _STATE))
        if changes != self._changes:
            self._pointers = _pointers(session)
            self._changes = int(changes or 0)
        return self._pointers

    def _changed(self, session: Session) -> None:
        session.flush()
        session.execute(update(StateRow).values(changes=StateRow.changes + 1))

    def boots(self, *, machine: int | None = None, limit: int = 50) -> list[Boot]:
        """The newest first."""
        query = select(BootRow).order_by(BootRow.at.desc(), BootRow.id).limit(limit)
        if machine is not None:
            query = query.where(BootRow.machine == machine)
        with self.database.read() as session:
            return [_boot(row) for row in session.scalars(query)]

    def one_boot(self, id: str) -> Boot:
        """Raises MissingError("boot.unknown")."""
        with self.database.read() as session:
            return _boot(_need_boot(session, id))

    def source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        """The last boot of each machine (`services.common.feed.server.Source`)."""
        if BOOTS in topics:
            newest = select(BootRow.machine, func.max(BootRow.at).label("at")).group_by(BootRow.machine).subquery()
            last = select(BootRow).join(newest, (BootRow.machine == newest.c.machine) & (BootRow.at == newest.c.at))
            for row in session.scalars(last):
                yield Item(BOOTS, str(row.machine), _public(_boot(row)))


def _need_boot(session: Session, id: str) -> BootRow:
    row = session.get(BootRow, id, with_for_update=True) if id else None
    if row is None:
        raise MissingError("boot.unknown", "netboot knows no boot of this id")
    return row


def _need_generation(row: ChannelRow, wanted: int | None) -> None:
    if wanted is not None and wanted != row.generation:
        raise BusyError(
            "conflict.generation",
            f"channel {row.name} is at generation {row.generation}, not {wanted}: somebody else moved it",
        )


# Rows and structs


def to_columns(struct: msgspec.Struct) -> dict[str, Any]:
    """A struct's fields as columns."""
    plain = to_builtins(struct)
    assert isinstance(plain, dict)
    return plain


def _pointers(session: Session) -> Pointers:
    holders: dict[str, set[int]] = {}
    for row in session.execute(select(HoldingRow.version, HoldingRow.rfs)):
        holders.setdefault(row.version, set()).add(row.rfs)
    return Pointers(
        {row.version: _version(row) for row in session.scalars(select(VersionRow))},
        {version: frozenset(numbers) for version, numbers in holders.items()},
        {row.name: _channel(row, 0.0) for row in session.scalars(select(ChannelRow))},
        {(PinKind(row.kind), row.value): row.version for row in session.scalars(select(PinRow))},
    )


def _version(row: VersionRow) -> Version:
    return Version(
        version=row.version,
        role=row.role,
        root_hash=row.root_hash,
        options=row.options,
        size=row.size,
        added=row.added,
        added_by=row.added_by,
    )


def _channel(row: ChannelRow, now: float) -> Channel:
    channel = Channel(
        name=row.name,
        current=row.current,
        previous=row.previous,
        commit_by=row.commit_by,
        committed=row.committed,
        generation=row.generation,
        effective=None,
        changed=row.changed,
        changed_by=row.changed_by,
        why=row.why,
    )
    return msgspec.structs.replace(channel, effective=decide.effective(channel, now))


def _change(row: ChannelChangeRow) -> ChannelChange:
    return ChannelChange(
        id=row.id,
        channel=row.channel,
        action=Action(row.action),
        current=row.current,
        previous=row.previous,
        commit_by=row.commit_by,
        generation=row.generation,
        at=row.at,
        by=row.by,
        why=row.why,
    )


def _pin(row: PinRow) -> Pin:
    return Pin(kind=PinKind(row.kind), value=row.value, version=row.version, why=row.why, at=row.at, by=row.by)


def _boot_columns(answer: Answered, asked_from: str, now: float) -> dict[str, Any]:
    machine, decision = answer.machine, answer.decision
    version = decision.version if decision.boots else None
    return {
        "id": answer.boot,
        "machine": machine.id,
        "hostname": machine.hostname[:63],
        "mac": machine.mac or "",
        "address": machine.ip,
        "asked_from": asked_from,
        "outcome": decision.outcome.value,
        "rule": decision.rule,
        "detail": decision.detail,
        "version": version.version if version else None,
        "role": version.role if version else None,
        "rfs": decision.servers[0].rfs if decision.servers else None,
        "servers": " ".join(server.address for server in decision.servers),
        "at": now,
        "claimed_at": None,
        "claimed_from": None,
        "refused_claims": 0,
        "stage": None,
        "stage_at": None,
        "stage_detail": "",
    }


def _boot_fields(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "outcome": Outcome(row["outcome"]),
        "servers": row["servers"].split(),
        "stage": Stage(row["stage"]) if row["stage"] else None,
    }


def _boot(row: BootRow) -> Boot:
    return Boot(**_boot_fields({name: getattr(row, name) for name in Boot.__struct_fields__}))


def _public(boot: Boot) -> Record:
    """A boot as the feed carries it: without its id, which opens its credentials for two minutes."""
    plain = to_builtins(boot)
    assert isinstance(plain, dict)
    del plain["id"]
    return plain
