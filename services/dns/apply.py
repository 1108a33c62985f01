"""Bring zones into force: write those that changed, let BIND check them, and tell named of these alone.

Promises: a zone that BIND refuses never gets to named. The records for which it is refused are found, left out and
named; when that cannot be done in time, the last good zone stays. What is in force stays so wherever this dies.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from services.common.errors import BacklineError, InputError, MissingError
from services.dns.bind import Bind
from services.dns.folder import Folder, serial_of
from services.dns.named import named_conf
from services.dns.schema import LeftOut, Settings, ZoneStatus
from services.dns.serials import following
from services.dns.zones import Layout, Machine, Record, Rendered, Zone, render

logger = logging.getLogger(__name__)

CHECKS = 200
"""How many times a refused zone is checked in the search for its bad records."""
LOAD_SECONDS = 10.0
AT_ONCE = 4  # zones that named is told of at a time: telling takes longer than loading
_LOOKS = (0.002, 0.05)  # seconds between looks whether named has loaded a zone: at first, at most

Key = tuple[str, str]


@dataclass(frozen=True)
class _Change:
    """A zone that is not what its file says: `before`, with serial `last`."""

    zone: Zone
    serial: int
    before: str | None
    last: int | None


@dataclass
class Outcome:
    """What one turn did."""

    seconds: float = 0.0
    written: list[Key] = field(default_factory=list)
    reloaded: list[Key] = field(default_factory=list)
    problem: BacklineError | None = None


class Applier:
    """Keeps the files of one folder, and one named, as they should be. One thread at a time."""

    def __init__(
        self,
        settings: Settings,
        folder: Folder,
        bind: Bind,
        *,
        clock: Callable[[], float] = time.time,
        stop: threading.Event | None = None,
    ) -> None:
        self.layout = Layout.of(settings)
        self.recursion = settings.recursion
        self.folder = folder
        self.bind = bind
        self.clock = clock
        self.stop = stop or threading.Event()
        self.zones: dict[Key, Zone] = {}
        self.left_out: tuple[LeftOut, ...] = ()
        self.guilty: dict[Key, dict[Record, str]] = {}
        self.refused: dict[Key, tuple[Zone, str]] = {}
        self.conf_refused: str | None = None
        self.on_disk: dict[Key, int] = {}
        self._silent = False
        self.served: dict[Key, int] = {}
        self._reconfigure = True

    # Files

    def put(
        self, machines: Iterable[Machine], forwarders: Sequence[IPv4Address] = (), *, only_missing: bool = False
    ) -> list[Key]:
        """Write what changed; returns the zones that did. Raises HostError("dns.folder"), MissingError.

        With `only_missing`, `machines` are not all there are: a zone that is there and whole stays as it is.
        """
        rendered = render(self.layout, machines)
        with self.folder.lock():
            written = self._put_zones(rendered, only_missing=only_missing)
            self._put_conf(rendered, forwarders)
        return written

    def _put_zones(self, rendered: Rendered, *, only_missing: bool) -> list[Key]:
        self.zones, self._silent = {}, False
        known = {zone.key for zone in rendered.zones}
        self.guilty = {key: records for key, records in self.guilty.items() if key in known}
        changed: list[_Change] = []
        for zone in rendered.zones:
            there = set(zone.records)
            guilty = {record: why for record, why in self.guilty.get(zone.key, {}).items() if record in there}
            self.guilty[zone.key] = guilty
            self.zones[zone.key] = zone.without(guilty) if guilty else zone
            if not (only_missing and self._is_whole(zone)):
                changed += self._changed(self.zones[zone.key])
        written = self._put(changed)
        left_out = list(rendered.left_out)
        for (_, zone_name), records in sorted(self.guilty.items()):
            for record, why in records.items():
                name = f"{record.owner} {record.type} in {zone_name}"
                left_out.append(LeftOut(machine=record.machine, name=name, reason=why))
        for each in set(left_out) - set(self.left_out):
            logger.warning("left out of DNS: %s of machine %s: %s", ascii(each.name), each.machine, each.reason)
        self.left_out = tuple(left_out)
        return written

    def _is_whole(self, zone: Zone) -> bool:
        """Is there a file of this zone that BIND accepts?"""
        path = self.folder.zone(zone.view, zone.name)
        serial = serial_of(self.folder.read(path))
        if serial is None:
            return False
        try:
            self.bind.check_zone(zone.name, path)
        except InputError:
            return False
        self.on_disk[zone.key] = serial
        return True

    def _changed(self, zone: Zone) -> Iterator[_Change]:
        """The change of a zone whose file is not what it should be."""
        before = self.folder.read(self.folder.zone(zone.view, zone.name))
        last = serial_of(before)
        if last is not None:
            self.on_disk[zone.key] = last
            if zone.text(last) == before:
                self.refused.pop(zone.key, None)
                return
        if zone.key in self.refused and self.refused[zone.key][0] == zone:
            return  # it is what was refused already
        known = [last] if last is not None else self._from_named(zone)
        yield _Change(zone, following(known, self.clock()), before, last)

    def _put(self, changed: Sequence[_Change]) -> list[Key]:
        """Write the zones that BIND accepts; all of them are checked at once, and each alone when one is bad."""
        staged = {change.zone.key: self._stage(change.zone, change.serial) for change in changed}
        good = len(staged) > 1 and self.bind.check_zones(staged)
        written = []
        for change in changed:
            key = change.zone.key
            aside = staged[key] if good else self._accepted(change)
            if aside is not None:
                self.folder.commit(aside)
                self.on_disk[key] = change.serial
                self.refused.pop(key, None)
                written.append(key)
        return written

    def _accepted(self, change: _Change) -> Path | None:
        """The file of a zone, without the records for which BIND refuses it; None when nothing of it is new then."""
        zone = change.zone
        try:
            return self._checked(zone, change.serial)
        except InputError as refusal:
            try:
                sound, aside = self._without_guilty(zone, change.serial, refusal)
            except InputError as error:
                logger.error("zone %s of view %s stays as it was: %s", zone.name, zone.view, error.message)
                self.refused[zone.key] = zone, error.message
                return None
        self.zones[zone.key] = sound
        if change.last is not None and sound.text(change.last) == change.before:
            self.refused.pop(zone.key, None)
            return None
        return aside

    def _stage(self, zone: Zone, serial: int) -> Path:
        return self.folder.stage(self.folder.zone(zone.view, zone.name), zone.text(serial))

    def _checked(self, zone: Zone, serial: int) -> Path:
        aside = self._stage(zone, serial)
        self.bind.check_zone(zone.name, aside)
        return aside

    def _without_guilty(self, zone: Zone, serial: int, refusal: InputError) -> tuple[Zone, Path]:
        """The most of a zone that BIND accepts, and its file; what it refuses becomes guilty.

        Halves are tried together with all that was accepted before, so records that do not get along are found as well.
        Raises InputError when even what hall.toml alone says is refused, or after `CHECKS` checks.
        """
        good = [record for record in zone.records if not record.machine.isdigit()]
        bad: dict[Record, str] = {}
        checks = 0

        def attempt(records: Sequence[Record]) -> InputError | None:
            nonlocal checks
            checks += 1
            if checks > CHECKS:
                raise refusal
            try:
                self._checked(Zone(zone.name, zone.view, zone.server, (*good, *records)), serial)
            except InputError as error:
                return error
            return None

        def sort(records: Sequence[Record]) -> None:
            if not records:
                return
            error = attempt(records)
            if error is None:
                good.extend(records)
            elif len(records) == 1:
                bad[records[0]] = error.message
            else:
                middle = len(records) // 2
                sort(records[:middle])
                sort(records[middle:])

        if attempt(()) is not None:
            raise refusal
        sort([record for record in zone.records if record.machine.isdigit()])
        self.guilty[zone.key] = {**self.guilty.get(zone.key, {}), **bad}
        sound = zone.without(bad)
        return sound, self._checked(sound, serial)

    def _from_named(self, zone: Zone) -> list[int]:
        """The serial that named serves, where our own file is lost. One that does not answer is asked once a `put`."""
        if self._silent:
            return []
        try:
            serial = self.bind.serial(zone.name, zone.view)
        except MissingError:
            self._silent = True
            return []
        return [] if serial is None else [serial]

    def _put_conf(self, rendered: Rendered, forwarders: Sequence[IPv4Address]) -> None:
        text = named_conf(
            self.layout, rendered.zones, self.folder.path, recursion=self.recursion, forwarders=forwarders
        )
        if self.folder.read(self.folder.conf) == text:
            self.conf_refused = None
            return
        aside = self.folder.stage(self.folder.conf, text)
        try:
            self.bind.check_conf(aside)
        except InputError as error:
            if self.conf_refused != error.message:
                logger.error("named.conf stays as it was: %s", error.message)
            self.conf_refused = error.message
            return
        self.folder.commit(aside)
        self.conf_refused = None
        self._reconfigure = True

    # named

    def tell(self) -> list[Key]:
        """Have named serve what is on disk; returns the zones that it loaded. Raises MissingError("dns.named")."""
        if self._reconfigure:
            self.bind.reconfigure()
            self._reconfigure = False
            if self.conf_refused is None:
                self.folder.tidy({self.folder.zone(*key) for key in self.zones})
            self.served = {}
        asked = []
        for key in self.zones:
            view, name = key
            wanted = self.on_disk.get(key)
            if wanted is None or self.served.get(key) == wanted:
                continue
            if key not in self.served:
                found = self.bind.serial(name, view)
                if found == wanted:
                    self.served[key] = found
                    continue
                if found is None and self.conf_refused is not None:
                    continue  # a zone of the named.conf that was refused
            asked.append(key)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for loading in [pool.submit(self.bind.reload, name, view) for view, name in asked]:
                loading.result()
        deadline = time.monotonic() + LOAD_SECONDS
        for key in asked:
            self._wait(key, deadline)
        return asked

    def _wait(self, key: Key, deadline: float) -> None:
        """Until named serves the zone that is on disk: only then may the next one be written (see `Folder.commit`)."""
        view, name = key
        pause, longest = _LOOKS
        while True:
            found = self.bind.serial(name, view)
            if found == self.on_disk[key]:
                self.served[key] = found
                return
            if time.monotonic() > deadline or self.stop.wait(pause):
                self.served.pop(key, None)
                raise MissingError("dns.named", f"named does not load zone {name} of view {view}: it has {found}")
            pause = min(pause * 2, longest)

    def turn(self, machines: Iterable[Machine], forwarders: Sequence[IPv4Address] = ()) -> Outcome:
        """Write and tell; what went wrong is in the outcome, and everything is tried again in the next turn."""
        began = time.monotonic()
        outcome = Outcome()
        try:
            outcome.written = self.put(machines, forwarders)
            outcome.reloaded = self.tell()
            outcome.problem = self.refusal()
        except BacklineError as error:
            outcome.problem = error
        outcome.seconds = time.monotonic() - began
        return outcome

    def forget_served(self) -> None:
        """Ask named again what it serves: somebody has started it anew, or something else told it something."""
        self.served = {}

    def refusal(self) -> InputError | None:
        """What BIND refuses, if it does."""
        refused = [f"zone {name} of view {view}: {self.refused[view, name][1]}" for view, name in sorted(self.refused)]
        if self.conf_refused is not None:
            refused.insert(0, f"named.conf: {self.conf_refused}")
        return InputError("dns.refused", "; ".join(refused)) if refused else None

    def status(self) -> list[ZoneStatus]:
        """Every zone."""
        return [
            ZoneStatus(
                zone=name,
                view=view,
                serial=self.on_disk.get((view, name)),
                served=self.served.get((view, name)),
                records=len(zone.records),
                refused=self.refused[view, name][1] if (view, name) in self.refused else None,
            )
            for (view, name), zone in self.zones.items()
        ]
