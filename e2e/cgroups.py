"""Where a lab's processes are counted, frozen and killed: one cgroup a lab, one below it a node (cgroups(7), version
2).

With systemd as the host's manager the cgroup is a scope's, delegated to us ("Control Group APIs and Delegation" of
systemd); without one it is made at the root of the hierarchy, wherever that is mounted.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from services.common import process
from services.common.errors import HostError

PREFIX = "backline-lab-"


def hierarchy() -> Path:
    """The mount point of the cgroup2 hierarchy. Raises HostError("lan.cgroup2")."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise HostError("lan.cgroup2", "no cgroup2 hierarchy is mounted", hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def has_manager() -> bool:
    """Whether systemd manages the host's cgroups (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def place(name: str) -> Path:
    """The folder of lab `name`'s cgroup, which need not exist yet."""
    root = hierarchy()
    if not has_manager():
        return root / f"{PREFIX}{name}"
    return root / "system.slice" / f"{PREFIX}{name}.scope" / "lab"


def scope_argv(name: str) -> list[str]:
    """What to put before a program so that it runs in a delegated scope of lab `name`; nothing without systemd."""
    if not has_manager():
        return []
    unit = f"{PREFIX}{name}.scope"
    return ["systemd-run", "--quiet", "--scope", f"--unit={unit}", "--property=Delegate=yes", "--slice=system.slice"]


def left_behind() -> dict[str, Path]:
    """The cgroups of labs on this host by lab name, alive or not."""
    root = hierarchy()
    found = {path.name.removeprefix(PREFIX): path for path in root.glob(f"{PREFIX}*") if path.is_dir()}
    for path in root.glob(f"system.slice/{PREFIX}*.scope"):
        found[path.name.removeprefix(PREFIX).removesuffix(".scope")] = path
    return found


def freeze(cgroup: Path, *, frozen: bool, deadline: float) -> None:
    """Freeze or thaw every process of a cgroup, and wait until the kernel says so. Raises HostError("lan.freeze")."""
    (cgroup / "cgroup.freeze").write_text("1" if frozen else "0")
    wanted = f"frozen {int(frozen)}"
    while wanted not in (cgroup / "cgroup.events").read_text().splitlines():
        if time.monotonic() > deadline:
            raise HostError("lan.freeze", f"{cgroup.name} did not become {wanted}")
        time.sleep(0.001)


def kill(cgroup: Path) -> None:
    """End every process of a cgroup and below at once; one that is gone is no error."""
    with contextlib.suppress(FileNotFoundError):
        (cgroup / "cgroup.kill").write_text("1")


def populated(cgroup: Path) -> bool:
    """Whether a process is left in it or below."""
    try:
        return "populated 1" in (cgroup / "cgroup.events").read_text()
    except FileNotFoundError:
        return False


def wait_empty(cgroup: Path, deadline: float) -> None:
    """Wait until no process is left. Raises HostError("lan.stuck")."""
    while populated(cgroup):
        if time.monotonic() > deadline:
            raise HostError("lan.stuck", f"processes of {cgroup.name} do not end, even killed")
        time.sleep(0.002)


def enable(cgroup: Path, controllers: tuple[str, ...] = ("memory", "pids", "cpu", "io")) -> list[str]:
    """Hand down the controllers that there are, so that limits and accounts work below; returns which."""
    try:
        there = (cgroup / "cgroup.controllers").read_text().split()
    except OSError:
        return []
    enabled = []
    for controller in controllers:
        if controller in there:
            with contextlib.suppress(OSError):
                (cgroup / "cgroup.subtree_control").write_text(f"+{controller}")
                enabled.append(controller)
    return enabled


def memory(cgroup: Path) -> int:
    """Bytes that the processes below use: the controller's figure, or the sum of proportional set sizes."""
    with contextlib.suppress(OSError, ValueError):
        return int((cgroup / "memory.current").read_text())
    total = 0
    for folder in [cgroup, *(path for path in cgroup.rglob("*") if path.is_dir())]:
        with contextlib.suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                total += _pss(pid)
    return total


def _pss(pid: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def stop_scope(name: str) -> None:
    """End the scope of lab `name`, where systemd made one."""
    if has_manager():
        process.run(["systemctl", "stop", f"{PREFIX}{name}.scope"], check=False)
