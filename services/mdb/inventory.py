"""The hall for other programs: Ansible's inventory and Prometheus' targets. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.common.codec import to_builtins
from services.mdb.schema import Machine, Target


def ansible(machines: Sequence[Machine]) -> dict[str, object]:
    """An inventory as a dynamic inventory script prints it: a group for each type and room, and `_meta.hostvars`.

    Variables are those of the first system, and `ansible_host`, so that nothing waits for DNS. A hyphen is no part of a
    group's name (Ansible's user guide, "Inventory basics"): room `salle-1` is group `salle_1`.
    """
    groups: dict[str, set[str]] = {}
    for machine in machines:
        for name in (machine.type.value, re.sub(r"\W", "_", machine.room)):
            groups.setdefault(name, set()).add(machine.hostname)
    inventory: dict[str, object] = {name: {"hosts": sorted(hosts)} for name, hosts in sorted(groups.items())}
    return {"_meta": {"hostvars": {machine.hostname: _variables(machine) for machine in machines}}, **inventory}


def _variables(machine: Machine) -> dict[str, object]:
    plain = to_builtins(machine)
    assert isinstance(plain, dict)
    return {
        "ansible_host": plain["ip"],
        **{name: plain[name] for name in ("aliases", "hfs", "mac", "rfs", "room")},
        "is_faulty": machine.faulty,
        "is_faulty_details": machine.faulty_reason,
    }


def prometheus(machines: Sequence[Machine], port: int) -> list[Target]:
    """Targets as Prometheus' HTTP service discovery reads them; `instance` is the name, not the address."""
    return [
        Target(
            targets=[f"{machine.ip}:{port}"],
            labels={
                "instance": machine.hostname,
                "type": machine.type.value,
                "room": machine.room,
                "rfs": str(machine.rfs),
                "hfs": str(machine.hfs),
            },
        )
        for machine in machines
    ]
