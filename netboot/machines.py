"""What netboot knows of mdb: machines by MAC and by name, and the switches that name themselves in LLDP.

Filled from mdb's feed. It holds only the fields that decide a boot, so that a newer or older mdb, or a remembered state
of another version, does no harm. One record that cannot be read is left out and named; the others stay.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from services.common.feed.client import Changed
from services.common.names import normal_mac

logger = logging.getLogger(__name__)

MACHINES, SWITCHES = "machines", "switches"
TOPICS = frozenset({MACHINES, SWITCHES})


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, as far as a boot is concerned."""

    id: int
    hostname: str
    ip: str
    mac: str | None = None
    aliases: tuple[str, ...] = ()
    rfs: int = 0
    hfs: int = 0
    type: str = "user"
    room: str = "other"
    faulty: bool = False
    faulty_reason: str = ""
    channel: str = "stable"
    pinned: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Host name and aliases."""
        return (self.hostname, *self.aliases)


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """A switch, and what is nearest to the machines that are plugged into it."""

    id: int
    name: str
    chassis: str
    room: str
    rfs: int
    hfs: int


class Machines:
    """Machines and switches of the hall. Written by one thread; reading from another sees whole records."""

    def __init__(self, known: Iterable[Known] = (), switches: Iterable[Switch] = ()) -> None:
        self.ready = False
        """Whether mdb has ever told us: until then no machine can be called unknown."""
        self.heard = False
        """Whether mdb has told us in this life; until then what is known is remembered."""
        self.changes = 0
        """Grows with every change: who has made something of what is known sees whether it is still true."""
        self.unreadable: set[tuple[str, str]] = set()
        self._by_id: dict[int, Known] = {}
        self._by_mac: dict[str, Known] = {}
        self._by_name: dict[str, Known] = {}
        self._switches: dict[str, Switch] = {}
        for machine in known:
            self._put(machine)
        self._switches.update((str(switch.id), switch) for switch in switches)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Known]:
        return iter(list(self._by_id.values()))

    def by_id(self, id: int) -> Known | None:
        return self._by_id.get(id)

    def by_mac(self, mac: str) -> Known | None:
        """By MAC address in its normal form."""
        return self._by_mac.get(mac)

    def by_name(self, name: str) -> Known | None:
        """By exact host name or alias: rfs1 is not rfs10."""
        return self._by_name.get(name)

    def find(self, text: str) -> Known | None:
        """By id, name, MAC or address."""
        if text.isdecimal():
            return self._by_id.get(int(text)) if len(text) < 19 else None
        if found := self._by_name.get(text.lower()):
            return found
        try:
            return self._by_mac.get(normal_mac(text))
        except ValueError:
            return next((each for each in self if each.ip == text), None)

    @property
    def switches(self) -> list[Switch]:
        """In the order of their names."""
        return sorted(self._switches.values(), key=lambda switch: switch.name)

    @property
    def rooms(self) -> list[str]:
        """Every room that somebody is in."""
        return sorted({each.room for each in self} | {each.room for each in self._switches.values()})

    # Following mdb

    def take(self, state: Mapping[tuple[str, str], dict[str, Any]]) -> None:
        """Hold exactly `state`, the records of a feed."""
        self._by_id.clear()
        self._by_mac.clear()
        self._by_name.clear()
        self._switches.clear()
        self.unreadable.clear()
        for (topic, key), record in state.items():
            self._record(topic, key, record)
        self.ready = True
        self.changes += 1

    def follow(self, changes: Iterable[Changed]) -> None:
        """Apply what changed since."""
        for change in changes:
            self._record(change.topic, change.key, change.after)
        self.changes += 1

    def _record(self, topic: str, key: str, record: dict[str, Any] | None) -> None:
        if topic not in TOPICS:
            return
        self.unreadable.discard((topic, key))
        if topic == MACHINES:
            self._drop(int(key))
        else:
            self._switches.pop(key, None)
        if record is None:
            return
        try:
            if topic == MACHINES:
                self._put(msgspec.convert(record, Known))
            elif topic == SWITCHES:
                self._switches[key] = msgspec.convert(record, Switch)
        except msgspec.ValidationError as error:
            self.unreadable.add((topic, key))
            logger.warning("mdb's record %s of %s cannot be read: %s", key, topic, error)

    def _put(self, machine: Known) -> None:
        self._by_id[machine.id] = machine
        if machine.mac:
            self._by_mac[machine.mac] = machine
        for name in machine.names:
            self._by_name[name] = machine

    def _drop(self, id: int) -> None:
        """Forget a machine; what another one has taken over meanwhile (a swap) stays with that one."""
        gone = self._by_id.pop(id, None)
        if gone is None:
            return
        if gone.mac and self._by_mac.get(gone.mac) is gone:
            del self._by_mac[gone.mac]
        for name in gone.names:
            if self._by_name.get(name) is gone:
                del self._by_name[name]
