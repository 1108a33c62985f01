"""Who gets out of the hall: from machines, users and sessions to sets of addresses. Pure: no clock, no kernel.

Machines of some types always do (those of organizers, servers). Every other one does while somebody has a session there
and the groups of all who have one may: an organizer who helps by ssh opens nothing to the contestant who sits there.

A record that cannot be read, a session of somebody whom nobody knows, a machine without an address of the hall: each is
left out by itself, is named, and changes nothing for anybody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

import msgspec

from services.common.addresses import Range
from services.common.feed.mirror import Mirror
from services.common.users import UserGroup
from services.firewall.schema import LeftOut, Person, Reason, Settings, Standing


class Machine(msgspec.Struct, frozen=True):
    """What counts of a machine of mdb."""

    id: int
    hostname: str
    ip: IPv4Address
    type: str
    aliases: list[str] = []


class User(msgspec.Struct, frozen=True):
    """What counts of a user of udb."""

    login: str
    group: UserGroup


class Session(msgspec.Struct, frozen=True):
    """What counts of a session of presence."""

    login: str
    machine: int


@dataclass(frozen=True)
class Sets:
    """The addresses that get out: seats for who sits there, and those that always do."""

    seats: frozenset[IPv4Address] = frozenset()
    always: frozenset[IPv4Address] = frozenset()

    def __contains__(self, address: object) -> bool:
        return address in self.seats or address in self.always


@dataclass(frozen=True)
class Bounds:
    """The settings, parsed."""

    networks: tuple[IPv4Network, ...]
    aliens: tuple[IPv4Network, ...]
    servers: tuple[Range, ...]
    groups: frozenset[UserGroup]
    types: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """Raises ValueError for what is no network, address or range."""
        return cls(
            networks=tuple(IPv4Network(each) for each in settings.networks),
            aliens=tuple(IPv4Network(each) for each in settings.aliens),
            servers=tuple(Range.parse(each if "-" in each else f"{each}-{each}") for each in settings.services),
            groups=frozenset(settings.allowed_groups),
            types=frozenset(settings.always_types),
        )

    def problem(self, address: IPv4Address) -> str | None:
        """Why no machine of the hall has this address, or None."""
        if any(address in network for network in self.aliens):
            return f"{address} is in the network of machines that mdb does not know"
        if not any(address in network for network in self.networks):
            return f"{address} is in no network of the hall"
        return None


@dataclass(frozen=True)
class Plan:
    """What is to be in force, what it was made of, and what was left out."""

    sets: Sets = Sets()
    standings: Mapping[int, Standing] = field(default_factory=dict)
    by_address: Mapping[IPv4Address, Standing] = field(default_factory=dict)
    names: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()

    def find(self, name: str) -> Standing | None:
        """The machine of a host name, an alias or an address."""
        try:
            return self.by_address.get(IPv4Address(name))
        except ValueError:
            id = self.names.get(name)
            return None if id is None else self.standings[id]


def plan(bounds: Bounds, machines: Mirror[Machine], users: Mirror[User], sessions: Mirror[Session]) -> Plan:
    """From what the three feeds say."""
    left_out = [
        LeftOut(record=f"{what} {key}", reason=f"it cannot be read: {why}")
        for what, mirror in (("machine", machines), ("user", users), ("session", sessions))
        for key, why in mirror.unreadable.items()
    ]
    known = {each.id: each for each in machines}
    groups = {each.login: each.group for each in users}
    people: dict[int, list[Person]] = {}
    for session in sessions:
        if session.machine not in known:
            why = f"mdb knows no machine {session.machine}"
            left_out.append(LeftOut(record=f"session of {session.login}", reason=why))
            continue
        group = groups.get(session.login)
        if group is None:
            left_out.append(LeftOut(record=f"session of {session.login}", reason="udb does not know this user"))
        person = Person(login=session.login, group=group, allowed=group in bounds.groups)
        people.setdefault(session.machine, []).append(person)
    standings: dict[int, Standing] = {}
    by_address: dict[IPv4Address, Standing] = {}
    for id, machine in sorted(known.items()):
        there = sorted(people.get(id, []), key=lambda person: person.login)
        problem = bounds.problem(machine.ip)
        if problem is None and (other := by_address.get(machine.ip)) is not None:
            problem = f"{machine.ip} is also the address of {other.hostname}"
        if problem is not None:
            left_out.append(LeftOut(record=f"machine {machine.hostname}", reason=problem))
            allowed, reason, text = False, Reason.ADDRESS, problem
        else:
            allowed, reason, text = decide(bounds, machine, there)
        standing = Standing(
            machine=id,
            hostname=machine.hostname,
            address=str(machine.ip),
            type=machine.type,
            allowed=allowed,
            reason=reason,
            text=text,
            people=there,
            in_force=False,
        )
        standings[id] = standing
        if problem is None:
            by_address[machine.ip] = standing
    always = {Reason.TYPE, Reason.SERVER}
    return Plan(
        sets=Sets(
            seats=frozenset(ip for ip, each in by_address.items() if each.reason is Reason.GROUP),
            always=frozenset(ip for ip, each in by_address.items() if each.reason in always),
        ),
        standings=standings,
        by_address=by_address,
        names={name: id for id, machine in known.items() for name in (*machine.aliases, machine.hostname)},
        left_out=tuple(left_out),
    )


def decide(bounds: Bounds, machine: Machine, people: list[Person]) -> tuple[bool, Reason, str]:
    """Whether a machine with an address of the hall gets out, and why, for people."""
    if machine.type in bounds.types:
        return True, Reason.TYPE, f"machines of type {machine.type} always get out"
    if any(machine.ip in span for span in bounds.servers):
        return True, Reason.SERVER, f"hall.toml has {machine.ip} for servers"
    if not people:
        return False, Reason.NOBODY, "nobody has a session there"
    for person in people:
        if person.group is None:
            return False, Reason.UNKNOWN, f"udb does not know {person.login}, who has a session there"
        if not person.allowed:
            why = f"{person.login} is in group {person.group.value}, which may not"
            return False, Reason.REFUSED, why
    told = ", ".join(f"{person.login} ({person.group.value})" for person in people if person.group is not None)
    return True, Reason.GROUP, f"the groups of all who have a session there may: {told}"
