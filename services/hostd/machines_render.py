"""The files that make systemd run a machine, from what is known of it. Pure.

    /run/systemd/system/run-backline-machines-...mount              root.erofs of its version, read-only
    /run/systemd/nspawn/NAME.nspawn                                 systemd.nspawn(5)
    /run/systemd/system/systemd-nspawn@NAME.service.d/50-backline.conf, 60-backline-limits.conf

All of it lies in /run: it is made again from the record whenever the iron starts, so there is never a file that says
something else than the record. The machine writes to an overlay in memory (`Volatile=overlay`), which goes with it, and
to /var and its persistent folders, which stay. The stock unit's `-U` shifts user ids, for which it would copy the whole
tree into that overlay: `PrivateUsers=no`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import msgspec

from services.hostd.machines_schema import Card, Machine, Resources, Running

ROOTS = PurePosixPath("/run/backline/machines")
UNITS = PurePosixPath("/run/systemd/system")
NSPAWN = PurePosixPath("/run/systemd/nspawn")
_HEAD = "# Made by backline from the machine's record; changes are lost. `backline machine show {name}`\n"


@dataclass(frozen=True)
class Places:
    """Where on the iron a machine's parts are."""

    images: PurePosixPath
    """Versions: ROLE/VERSION/root.erofs."""
    home: PurePosixPath
    """The machine's own folder, with its var-N."""
    credentials: Mapping[str, PurePosixPath] = field(default_factory=dict)
    """Files that it gets as systemd credentials, by name."""


def unit(name: str) -> str:
    """The unit that a machine runs in."""
    return f"systemd-nspawn@{name}.service"


def root(role: str, version: str) -> PurePosixPath:
    """Where the tree of a version is mounted."""
    return ROOTS / role / version


def escape(path: PurePosixPath) -> str:
    """A path as the name of a unit (systemd.unit(5), "String Escaping for Inclusion in Unit Names")."""
    text = str(path).strip("/")
    kept = "".join(
        "-" if char == "/" else char if char.isascii() and (char.isalnum() or char in ":_.") else _hex(char)
        for char in text
    )
    return _hex(kept[0]) + kept[1:] if kept.startswith(".") else kept


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


def mount_unit(role: str, version: str) -> str:
    """The unit that mounts the tree of a version."""
    return f"{escape(root(role, version))}.mount"


def mount(role: str, version: str, images: PurePosixPath) -> dict[str, str]:
    """The mount unit of a version, by path."""
    text = f"""# Made by backline.
[Unit]
Description=Tree of {role} {version}

[Mount]
What={images / role / version / "root.erofs"}
Where={root(role, version)}
Type=erofs
Options=ro,nodev
"""
    return {str(UNITS / mount_unit(role, version)): text}


def files(machine: Machine, running: Running, places: Places) -> dict[str, str]:
    """Every file of a machine that runs `running`, by path."""
    nspawn, drop_in, bounds = own(machine.name)
    return {
        **mount(machine.role, running.version, places.images),
        nspawn: _nspawn(machine, running, places),
        drop_in: _drop_in(machine, running, places),
        bounds: _limits(machine),
    }


def own(name: str) -> list[str]:
    """The paths of the files that are one machine's alone."""
    return [str(NSPAWN / f"{name}.nspawn"), str(UNITS / f"{unit(name)}.d" / "50-backline.conf"), limits(name)]


def limits(name: str) -> str:
    """The path of the file with a machine's limits, which systemd takes while it runs."""
    return str(UNITS / f"{unit(name)}.d" / "60-backline-limits.conf")


def _nspawn(machine: Machine, running: Running, places: Places) -> str:
    binds = {"/var": places.home / running.var, **{path: PurePosixPath(o) for path, o in machine.folders.items()}}
    cards = [f"Interface={ports(machine.name, index)[1]}:host{index}" for index, _ in enumerate(machine.network)]
    lines = [
        _HEAD.format(name=machine.name) + "[Exec]",
        "Boot=yes",
        # It would copy the whole tree into the overlay.
        "PrivateUsers=no",
        # systemd's own word that the default target is reached: what the gate of an upgrade waits for.
        "NotifyReady=yes",
        f"Hostname={machine.name}",
        f"MachineID={machine.id}",
        "LinkJournal=no",
        "ResolvConf=off",
        "Timezone=off",
        # What nfs-ganesha opens its exports with.
        "SystemCallFilter=open_by_handle_at",
        "",
        "[Files]",
        "Volatile=overlay",
        *(f"Bind={source}:{target}" for target, source in binds.items()),
        "",
        "[Network]",
        "Private=yes",
        "VirtualEthernet=no",
        *cards,
    ]
    return "\n".join(lines) + "\n"


def stamp(machine: Machine, running: Running, places: Places) -> str:
    """A line that says what a machine's files were made for, without its limits, which change while it runs.

    Where the files differ and it does not, another hostd has made them.
    """
    about = [msgspec.structs.replace(machine, resources=Resources()), running, str(places.home), str(places.images)]
    digest = hashlib.sha256(msgspec.json.encode([*about, sorted(places.credentials)], order="sorted"))
    return f"# For {digest.hexdigest()[:32]}\n"


def _drop_in(machine: Machine, running: Running, places: Places) -> str:
    tree = root(machine.role, running.version)
    words = [
        "systemd-nspawn --quiet --keep-unit --settings=trusted --machine=%i",
        f"--directory={tree}",
        f"--set-credential=backline.role:{machine.role}",
        f"--set-credential=backline.version:{running.version}",
        f"--set-credential=system.hostname:{machine.name}",
        *(f"--load-credential={name}:{path}" for name, path in sorted(places.credentials.items())),
    ]
    before, after = [], []
    for index, card in enumerate(machine.network):
        made, removed = _cable(machine.name, index, card)
        before += [removed, *made]
        after.append(removed)
    lines = [
        _HEAD.format(name=machine.name) + stamp(machine, running, places) + "[Unit]",
        f"Description={machine.name}: {machine.role} {running.version}",
        f"RequiresMountsFor={tree} {places.home}",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        *(f"ExecStartPre={line}" for line in before),
        "ExecStart=",
        "ExecStart=" + " \\\n    ".join(words),
        *(f"ExecStopPost={line}" for line in after),
        # Started and awaited by backline, which knows until when; a machine that ends by itself comes back.
        "TimeoutStartSec=infinity",
        "Restart=on-failure",
        "RestartSec=2",
    ]
    return "\n".join(lines) + "\n"


def _limits(machine: Machine) -> str:
    resources = machine.resources
    lines = [
        _HEAD.format(name=machine.name) + "[Service]",
        *([f"MemoryMax={resources.memory}"] if resources.memory else []),
        *([f"CPUQuota={resources.cpus * 100:g}%"] if resources.cpus else []),
        *([f"TasksMax={resources.tasks}"] if resources.tasks else []),
    ]
    return "\n".join(lines) + "\n"


def _cable(name: str, index: int, card: Card) -> tuple[list[str], str]:
    """The command lines that make a card, and the one that removes it: nspawn gives it back when the machine ends.

    Not nspawn's own `Bridge=` and `MACVLAN=`: one machine has only one of the former, and the latter takes no address.
    """
    ours, theirs = ports(name, index)
    mac = card.mac or mac_of(name, index)
    if card.kind == "bridge":
        made = [
            f"ip link add {ours} type veth peer name {theirs} address {mac}",
            f"ip link set {ours} master {card.on} up",
        ]
    else:
        made = [f"ip link add link {card.on} name {theirs} address {mac} type macvlan mode bridge"]
    return made, f"-ip link delete {theirs}"


def ports(name: str, index: int) -> tuple[str, str]:
    """The two ends of a machine's cable, ours and its own: names of interfaces have 15 characters at most."""
    short = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"blo{short}{index}", f"bli{short}{index}"


def mac_of(name: str, index: int) -> str:
    """A locally administered MAC address (IEEE 802, bit 1 of the first octet) that depends on nothing but the name."""
    digest = hashlib.sha256(f"{name}/{index}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x52, 0x54, *digest[:4]))
