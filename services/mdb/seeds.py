"""From what hall.toml declares and what mdb knows to the edits between them. Pure.

hall.toml wins. A machine that people made and that has a declared host name or MAC address is that host, and keeps its
id, room, notes and versions; one that has a declared alias or address gives it up: it loses the alias, is renamed
NAME-ID, or moves to another address of its pool. A machine that hall.toml no longer declares is gone. What agrees
already is not edited, so that a restart changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from services.mdb.edits import Declare, Delete, Edit, Update
from services.mdb.schema import Machine, MachinePatch, Seed


def plan(seeds: Sequence[Seed], machines: Iterable[Machine]) -> list[Edit]:
    """The edits after which every seed is there, and nobody else has what is theirs; empty when that is so already."""
    machines = sorted(machines, key=lambda machine: machine.id)
    homes = _homes(seeds, machines)
    macs = {seed.mac for seed in seeds if seed.mac is not None}
    used = {machine.id for machine in homes.values()}
    edits: list[Edit] = [
        Declare(seed, home.id if home else None)
        for seed in seeds
        if (home := homes.get(seed.hostname)) is None or not _agrees(seed, home, macs)
    ]
    names = {name for seed in seeds for name in (seed.hostname, *seed.aliases)}
    taken = {name for machine in machines for name in (machine.hostname, *machine.aliases)} | names
    for machine in machines:
        if machine.id in used:
            continue
        if machine.declared or machine.mac in macs:
            edits.append(Delete(machine.id))
        elif patch := _out_of_the_way(machine, seeds, names, taken):
            edits.append(Update(machine.id, patch))
    return edits


def _homes(seeds: Sequence[Seed], machines: Sequence[Machine]) -> dict[str, Machine]:
    """The machine that each seed is already, by the seed's host name: by name, else by MAC, else by address."""
    left = {machine.id: machine for machine in machines}
    homes: dict[str, Machine] = {}

    def take(seed: Seed, found: Machine | None) -> None:
        if found is not None and seed.hostname not in homes:
            homes[seed.hostname] = left.pop(found.id)

    for seed in seeds:
        take(seed, next((each for each in left.values() if each.hostname == seed.hostname), None))
    for seed in seeds:
        take(seed, next((each for each in left.values() if seed.mac is not None and each.mac == seed.mac), None))
    for seed in seeds:
        take(seed, next((each for each in left.values() if each.declared and each.ip == seed.ip), None))
    return homes


def _agrees(seed: Seed, machine: Machine, macs: Collection[str]) -> bool:
    said = (seed.hostname, seed.aliases, seed.ip, True)
    if said != (machine.hostname, machine.aliases, machine.ip, machine.declared):
        return False
    return machine.mac == seed.mac or (seed.mac is None and machine.mac not in macs)


def _out_of_the_way(machine: Machine, seeds: Sequence[Seed], names: set[str], taken: set[str]) -> MachinePatch | None:
    patch: dict[str, object] = {}
    if machine.hostname in names:
        patch["hostname"] = _another_name(machine, taken)
        taken.add(str(patch["hostname"]))
    if not names.isdisjoint(machine.aliases):
        patch["aliases"] = [alias for alias in machine.aliases if alias not in names]
    if machine.ip in {seed.ip for seed in seeds}:
        patch["ip"] = None
    return MachinePatch(**patch) if patch else None  # type: ignore[arg-type]


def _another_name(machine: Machine, taken: set[str]) -> str:
    number = str(machine.id)
    while True:
        name = f"{machine.hostname[: 62 - len(number)].rstrip('-')}-{number}"
        if name not in taken:
            return name
        number += "x"
