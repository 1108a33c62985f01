"""What a machine boots, and why. Pure: machines, pointers and a time go in, one decision comes out.

Which version: the machine's own pin (mdb), else its room's pin, else its type's pin, else its channel's pointer. The
first that exists wins, also when it cannot be followed: then the machine boots nothing and says what is missing.
A pointer that nobody committed in time is as good as taken back: `previous` counts, whether or not anybody noticed yet.
While it is on trial it may be for some machines only; `previous` is for the others. A version in quarantine is not
offered by any channel, room or type: a channel's previous one counts. Only a machine's own pin, which names it, still
boots it, for those who look what is wrong with it.

From where: the root file server of the machine's number (the machine with the alias rfsN, exactly), once that has
confirmed that it holds the version; then others that hold it. One that is marked faulty is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from netboot.machines import Known, Machines
from netboot.schema import Channel, Outcome, PinKind, Version
from services.common.addresses import Range
from services.common.names import label_problem

SERVERS = 3
"""Root file servers in one answer: its own, and two to fall back to."""


@dataclass(frozen=True)
class Pointers:
    """What netboot's tables say: versions, who holds them, and who shall boot them. `holders` is rfs by version."""

    versions: Mapping[str, Version] = field(default_factory=dict)
    holders: Mapping[str, frozenset[int]] = field(default_factory=dict)
    channels: Mapping[str, Channel] = field(default_factory=dict)
    pins: Mapping[tuple[PinKind, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """A root file server that holds the version."""

    rfs: int
    hostname: str
    address: str


@dataclass(frozen=True)
class Rule:
    """One rule that might have chosen: what it wanted, whether it won, and why or why not."""

    name: str
    version: str | None
    won: bool
    because: str


@dataclass(frozen=True)
class Decision:
    """What a machine is answered. `rule` chose, `detail` says why in words; with BOOT there are version and servers."""

    outcome: Outcome
    rule: str
    detail: str
    version: Version | None = None
    servers: Sequence[Server] = ()
    passed: Sequence[str] = ()
    """Root file servers that were not taken, and why."""

    @property
    def boots(self) -> bool:
        return self.outcome is Outcome.BOOT


def effective(channel: Channel, now: float, machine: int | None = None) -> str | None:
    """The version that a channel's machines get at `now`; or one of them, which may not be one that tries it."""
    if channel.committed:
        return channel.current
    tries = channel.only is None or machine is None or machine in channel.only
    return channel.current if tries and channel.commit_by is not None and now < channel.commit_by else channel.previous


def rules(machine: Known, pointers: Pointers, now: float) -> list[Rule]:
    """Every rule in the order of its weight; the first that says anything wins."""
    room = pointers.pins.get((PinKind.ROOM, machine.room))
    type = pointers.pins.get((PinKind.TYPE, machine.type))
    asked = [
        ("pin of the machine", machine.pinned, "mdb pins it", "mdb does not pin it"),
        (f"pin of room {machine.room}", room, f"room {machine.room} is pinned", "the room is not pinned"),
        (f"pin of type {machine.type}", type, f"type {machine.type} is pinned", "the type is not pinned"),
        (f"channel {machine.channel}", *_channel(machine, pointers, now)),
    ]
    found: list[Rule] = []
    winner = ""
    for name, version, yes, no in asked:
        won = version is not None and not winner
        lost = f"{yes}, but {winner} comes first" if version is not None else no
        found.append(Rule(name, version, won, yes if won else lost))
        winner = winner or (name if won else "")
    return found


def _channel(machine: Known, pointers: Pointers, now: float) -> tuple[str | None, str, str]:
    """What a machine's channel says, why it says that, and why it says nothing."""
    channel = pointers.channels.get(machine.channel)
    if channel is None:
        return None, "", f"there is no channel {machine.channel}"
    pointed = effective(channel, now, machine.id)
    if channel.committed:
        yes, no = f"it points there, committed, at generation {channel.generation}", "it points nowhere"
    elif pointed == channel.current:
        yes, no = f"it points there, to be committed, at generation {channel.generation}", "it points nowhere"
    elif channel.commit_by is not None and now < channel.commit_by:
        lost = f"other machines try {channel.current}"
        yes, no = f"{lost}, so the previous one counts", f"{lost}, and there was none before"
    else:
        lost = f"{channel.current} was not committed in time"
        yes, no = f"{lost}, so the previous one counts", f"{lost}, and there was none before"
    if pointed is None or not _quarantined(pointers, pointed):
        return pointed, yes, no
    lost = f"{pointed} is in quarantine"
    if channel.previous in (None, pointed) or _quarantined(pointers, channel.previous):
        return None, "", f"{lost}, and there is none before it"
    return channel.previous, f"{lost}, so the previous one counts", ""


def _quarantined(pointers: Pointers, version: str | None) -> bool:
    found = pointers.versions.get(version or "")
    return found is not None and found.quarantined is not None


def decide(
    machine: Known,
    machines: Machines,
    pointers: Pointers,
    *,
    now: float,
    asked_from: str = "",
    aliens: Range | None = None,
) -> Decision:
    """What a known machine is answered when it asks from address `asked_from`."""
    if problem := label_problem(machine.hostname) or _address_problem(machine.ip):
        return Decision(Outcome.BAD_RECORD, "record", f"mdb's record cannot be used: {problem}")
    if machine.faulty:
        return Decision(Outcome.FAULTY, "faulty", machine.faulty_reason or "no reason was given")
    if aliens is not None and _inside(asked_from, aliens):
        told = f"it has the address {asked_from} of unknown machines, and {machine.ip} is its own"
        return Decision(Outcome.WAIT, "address", told)
    tried = rules(machine, pointers, now)
    winner = next((rule for rule in tried if rule.won), None)
    if winner is None or winner.version is None:
        return Decision(Outcome.NO_VERSION, tried[-1].name, tried[-1].because)
    version = pointers.versions.get(winner.version)
    if version is None:
        told = f"{winner.because}, but netboot knows no version {winner.version}"
        return Decision(Outcome.NO_VERSION, winner.name, told)
    if version.quarantined is not None and winner.version != machine.pinned:
        why = version.quarantined or "no reason was given"
        told = f"{winner.because}, but {winner.version} is in quarantine: {why}"
        return Decision(Outcome.NO_VERSION, winner.name, told)
    return _serve(machine, machines, version, winner, pointers.holders.get(version.version, frozenset()))


def _serve(machine: Known, machines: Machines, version: Version, winner: Rule, holders: frozenset[int]) -> Decision:
    own = machines.by_name(f"rfs{machine.rfs}")
    if own is None:
        told = f"mdb knows no machine with the alias rfs{machine.rfs}"
        return Decision(Outcome.NO_SERVER, winner.name, told, version)
    others = [number for number in _in_turn(machine, machines, holders) if number != machine.rfs]
    if not own.faulty and machine.rfs not in holders:
        told = f"{version.version} is not yet on rfs{machine.rfs} ({own.hostname})"
        where = ", ".join(f"rfs{number}" for number in others)
        return Decision(
            Outcome.NOT_HELD, winner.name, told, version, passed=[f"it is on {where}" if where else "it is on none"]
        )
    servers: list[Server] = []
    passed: list[str] = []
    for number in ([machine.rfs] if machine.rfs in holders else []) + others:
        found = machines.by_name(f"rfs{number}")
        if found is None:
            passed.append(f"rfs{number}: mdb knows no such machine")
        elif found.faulty:
            passed.append(f"rfs{number} ({found.hostname}) is marked faulty: {found.faulty_reason or 'no reason'}")
        elif problem := _address_problem(found.ip):
            passed.append(f"rfs{number} ({found.hostname}): {problem}")
        elif found.ip not in [server.address for server in servers] and len(servers) < SERVERS:
            servers.append(Server(number, found.hostname, found.ip))
    if not servers:
        return Decision(
            Outcome.NO_SERVER, winner.name, f"no root server of {version.version} is available", version, (), passed
        )
    return Decision(Outcome.BOOT, winner.name, winner.because, version, servers, passed)


def _in_turn(machine: Known, machines: Machines, holders: frozenset[int]) -> Iterator[int]:
    """Root file servers that hold a version: of the machine's room first, then upwards from its own number.

    So the seats of a server that is lost spread over the others.
    """

    def key(number: int) -> tuple[bool, bool, int]:
        found = machines.by_name(f"rfs{number}")
        return (found is None or found.room != machine.room, number < machine.rfs, number)

    yield from sorted(holders, key=key)


def _inside(address: str, span: Range) -> bool:
    try:
        return IPv4Address(address) in span
    except ValueError:
        return False


def _address_problem(address: str) -> str | None:
    try:
        IPv4Address(address)
    except ValueError:
        return f"{address!r} is no IPv4 address"
    return None
