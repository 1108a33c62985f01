"""The hall as the overview shows it, from what was heard of everybody. Pure.

Promise: who is silent is unknown. What was told before is still shown, and never as if it were so now: a host that does
not answer is unknown, and while netboot does not answer every seat is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from msgspec.structs import replace

from netboot.schema import Channel, Liveness, Quarantine
from netboot.schema import Seat as NetbootSeat
from services.common.codec import encode_json
from services.common.errors import IntegrityError
from services.common.names import row_of
from services.common.statement import decode
from services.depot.schema import Publication
from services.depot.schema import State as ReceiverState
from services.hostd.schema import Host as HostdHost
from services.hostd.schema import Unit
from services.overview.schema import (
    Fault,
    Hall,
    Host,
    Level,
    Machine,
    Place,
    Pointer,
    Published,
    Receiver,
    Rollout,
    Room,
    Row,
    Running,
    Seat,
    Settings,
    Source,
)
from services.rollout.schema import OVER, Standing, tallies, word
from services.rollout.schema import Rollout as RolloutRecord

T = TypeVar("T")

RECENT_SECONDS = 3600.0
"""How long a rollout that is over stays on the page."""
NAMED = 6
"""Names that a fault gives before it counts."""
THERE = (Liveness.UP, Liveness.DEGRADED, Liveness.STARTING)
SERVER = "service"


@dataclass
class Heard(Generic[T]):
    """What somebody said last, when that was, and why he is silent since; `changed` is when his state was another."""

    value: T | None = None
    at: float | None = None
    why: str | None = None
    changed: float = 0.0


@dataclass(frozen=True)
class Told:
    """What a host's hostd says: itself, its failed units, and the machines on it."""

    host: HostdHost
    failed: list[str]
    machines: list[Unit]


@dataclass(frozen=True)
class Netboot:
    """What netboot says."""

    seats: list[NetbootSeat]
    channels: list[Channel]
    quarantines: list[Quarantine]


@dataclass
class Everything:
    """What was heard of everybody."""

    hosts: dict[str, Heard[Told]] = field(default_factory=dict)
    netboot: Heard[Netboot] = field(default_factory=Heard)
    rollout: Heard[list[RolloutRecord]] = field(default_factory=Heard)
    depot: Heard[list[Publication]] = field(default_factory=Heard)


def view(heard: Everything, settings: Settings, now: float) -> Hall:
    """The hall at `now`."""
    netboot = heard.netboot.value or Netboot([], [], [])
    published = publications(heard.depot.value or [])
    hosts = [_host(place, heard.hosts.get(place.name, Heard()), published, settings) for place in settings.hosts]
    seats = seats_of(netboot.seats, silent=heard.netboot.why is not None)
    rollouts = [_rollout(each) for each in _shown(heard.rollout.value or [], now)]
    sources = [
        Source(name=name, heard=each.at, why=each.why)
        for name, each in (("netboot", heard.netboot), ("rollout", heard.rollout), ("depot", heard.depot))
    ]
    hall = Hall(
        name=settings.hall,
        revision="",
        at=0.0,
        faults=[],
        sources=sources,
        hosts=hosts,
        seats=_counts(seat for _, seat in seats),
        rooms=_rooms(seats),
        channels=_pointers(netboot, {seat.machine: seat for _, seat in seats}),
        quarantines=netboot.quarantines,
        rollouts=rollouts,
        published=published,
    )
    hall = replace(hall, faults=faults(hall, netboot.seats, settings.low_percent))
    # When a source that answers was heard is no news.
    steady = [replace(each, heard=None) if each.why is None else each for each in sources]
    calm = [replace(each, heard=None) if each.why is None else each for each in hosts]
    content = encode_json(replace(hall, sources=steady, hosts=calm))
    return replace(hall, revision=hashlib.sha256(content).hexdigest()[:16], at=now)


# Hosts


def _host(place: Place, heard: Heard[Told], published: Sequence[Published], settings: Settings) -> Host:
    told = heard.value
    state = Liveness.UNKNOWN if told is None or heard.why is not None else host_state(told)
    wanted = [each for each in published if each.channel == settings.channel and each.role == place.role]
    return Host(
        name=place.name,
        role=place.role,
        address=place.address,
        state=state,
        since=heard.changed if state is not Liveness.UNKNOWN or heard.at is None else heard.at,
        heard=heard.at,
        why=(heard.why or "it has not answered yet") if state is Liveness.UNKNOWN else None,
        version=told.host.version if told else None,
        published=wanted[0].version if wanted else None,
        boot_id=told.host.boot_id if told else None,
        failed=told.failed if told else [],
        # To a percent: a page that moves with every byte tells nothing more.
        disks=[replace(disk, free=_rounded(disk.free, disk.total)) for disk in told.host.disks] if told else [],
        machines=[Machine(name=machine_name(unit.name), active=unit.active) for unit in told.machines] if told else [],
    )


def host_state(told: Told) -> Liveness:
    """Of a host that answers."""
    return Liveness.DEGRADED if told.failed else Liveness.UP


def machine_name(unit: str) -> str:
    """`web` of `systemd-nspawn@web.service`."""
    return unit.partition("@")[2].removesuffix(".service") or unit


def _rounded(free: int, total: int) -> int:
    step = max(1, total // 100)
    return free // step * step


# Seats


def seats_of(said: Iterable[NetbootSeat], *, silent: bool) -> list[tuple[NetbootSeat, Seat]]:
    """Machines that boot from netboot: servers are hosts, unless they run from it as well."""
    return [(each, _seat(each, silent=silent)) for each in said if each.type != SERVER or each.booted is not None]


def _seat(said: NetbootSeat, *, silent: bool) -> Seat:
    state = Liveness.UNKNOWN if silent and said.state is not Liveness.OFF else said.state
    runs = said.version or said.booted if said.state is not Liveness.OFF else None
    return Seat(
        machine=said.machine,
        hostname=said.hostname,
        state=state,
        version=runs,
        boots=said.boots,
        outdated=runs is not None and said.boots is not None and runs != said.boots,
    )


def _counts(seats: Iterable[Seat]) -> dict[str, int]:
    found = Counter(seat.state for seat in seats)
    return {state.value: found[state] for state in Liveness}


def _rooms(seats: Iterable[tuple[NetbootSeat, Seat]]) -> list[Room]:
    rooms: dict[str, dict[str, list[Seat]]] = {}
    for said, seat in seats:
        rooms.setdefault(said.room, {}).setdefault(row_of(seat.hostname), []).append(seat)
    made = []
    for name, rows in sorted(rooms.items()):
        every = [seat for row in rows.values() for seat in row]
        running = Counter(seat.version for seat in every if seat.version is not None and seat.state in THERE)
        made.append(
            Room(
                name=name,
                counts=_counts(every),
                versions=[Running(version=version, seats=count) for version, count in running.most_common()],
                rows=[Row(name=row, seats=rows[row]) for row in sorted(rows)],
            )
        )
    return made


def _pointers(netboot: Netboot, seats: dict[int, Seat]) -> list[Pointer]:
    made = []
    for channel in netboot.channels:
        own = [
            seat
            for said in netboot.seats
            if said.channel == channel.name and (seat := seats.get(said.machine)) is not None and seat.state in THERE
        ]
        running = sum(seat.version == channel.effective for seat in own)
        made.append(Pointer(channel=channel, running=running, seats=len(own)))
    return made


# Rollouts and publications


def _shown(rollouts: Sequence[RolloutRecord], now: float) -> list[RolloutRecord]:
    return [each for each in rollouts if each.phase not in OVER or now - (each.ended or 0.0) < RECENT_SECONDS]


def _rollout(record: RolloutRecord) -> Rollout:
    return Rollout(
        id=record.id,
        version=record.plan.version,
        channel=record.plan.channel,
        state=word(record),
        why=record.paused or record.why,
        started=record.started,
        ended=record.ended,
        rings=tallies(record),
        bad=[
            f"{seat.hostname}: {seat.detail}" if seat.detail else seat.hostname
            for each in record.rings
            for seat in each.seats
            if seat.standing is Standing.BAD
        ],
    )


def publications(said: Iterable[Publication]) -> list[Published]:
    """The last publication of each role on each channel, the newest first; `said` begins with the newest."""
    made: dict[tuple[str, str], Published] = {}
    for each in said:
        try:
            statement = decode(each.statement)
        except IntegrityError:
            continue
        progress = {one.host: one for one in each.progress}
        receivers = [
            Receiver(
                host=host,
                state=progress[host].state.value if host in progress else "waiting",
                bytes=progress[host].bytes if host in progress else 0,
                total=progress[host].total if host in progress else 0,
                full=progress[host].full if host in progress else 0,
                detail=progress[host].detail if host in progress else "",
                at=progress[host].at if host in progress else None,
            )
            for host in sorted({*each.receivers, *progress})
        ]
        made.setdefault(
            (statement.channel, statement.role),
            Published(
                id=each.id,
                channel=statement.channel,
                role=statement.role,
                version=statement.version,
                at=each.at,
                by=", ".join(each.signed_by) or each.published_by,
                why=statement.why,
                receivers=receivers,
            ),
        )
    return list(made.values())


# What wants attention


def faults(hall: Hall, said: Iterable[NetbootSeat], low_percent: float) -> list[Fault]:
    """Everything that somebody should look at, the worst first."""
    found = [
        Fault(level=Level.BAD, text=f"{each.name} is silent: {each.why}")
        for each in hall.sources
        if each.why is not None
    ]
    for host in hall.hosts:
        found += _of_host(host, low_percent)
    for rollout in hall.rollouts:
        if rollout.state in ("paused", "reverting", "reverted"):
            level = Level.WARN if rollout.state == "paused" else Level.BAD
            text = f"Rollout {rollout.id} of {rollout.version} is {rollout.state}: {rollout.why}"
            found.append(Fault(level=level, text=text, link=f"rollout:/rollouts/{rollout.id}"))
    for each in hall.published:
        for receiver in each.receivers:
            if receiver.state == ReceiverState.FAILED.value:
                text = f"{receiver.host} could not take {each.role} {each.version}: {receiver.detail}"
                found.append(Fault(level=Level.BAD, text=text, link=f"/hosts/{receiver.host}"))
    found += _of_seats(hall, said)
    return sorted(found, key=lambda each: each.level is not Level.BAD)


def _of_host(host: Host, low_percent: float) -> Iterable[Fault]:
    link = f"/hosts/{host.name}"
    if host.state is Liveness.UNKNOWN:
        yield Fault(level=Level.BAD, text=f"{host.name} is silent: {host.why}", link=link)
        return
    if host.failed:
        yield Fault(level=Level.BAD, text=f"{host.name}: {_some(host.failed)} failed", link=link)
    for disk in host.disks:
        percent = 100 * disk.free / disk.total if disk.total else 100.0
        if percent < low_percent:
            yield Fault(level=Level.WARN, text=f"{host.name}: {percent:.0f} % of {disk.path} is free", link=link)


def _of_seats(hall: Hall, said: Iterable[NetbootSeat]) -> Iterable[Fault]:
    sick = [each for each in said if each.state is Liveness.DEGRADED]
    if sick and not any(each.name == "netboot" and each.why for each in hall.sources):
        units = Counter(unit for each in sick if each.health for unit in each.health.failed_units)
        names = _some([each.hostname for each in sick])
        what = f" ({_some([unit for unit, _ in units.most_common()])})" if units else ""
        yield Fault(level=Level.WARN, text=f"Degraded: {names}{what}", link="/seats?state=degraded")
    silent = [
        seat.hostname for room in hall.rooms for row in room.rows for seat in row.seats if seat.state.value == "unknown"
    ]
    if silent:
        yield Fault(level=Level.WARN, text=f"Silent: {_some(silent)}", link="/seats?state=unknown")


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
