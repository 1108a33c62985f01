"""What this machine can do for a lab, tried out and named: never guessed from its name or version.

`probe` tries everything once, in a sandbox of its own. A test that needs what is missing is skipped with that name.
"""

from __future__ import annotations

import enum
import functools
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import BacklineError, HostError


class Capability(enum.Enum):
    """Something that a lab or a test may need; the value is how messages name it."""

    ROOT = "root"
    CGROUP2 = "cgroup2"
    NAMESPACES = "namespaces"
    NSPAWN = "systemd-nspawn"
    OVERLAY = "overlayfs"
    NFT_BRIDGE = "nftables bridge family"
    TBF = "tbf"
    NETEM = "netem"
    TUN = "tun"
    LOOP = "loop devices"
    TCPDUMP = "tcpdump"
    QEMU = "QEMU"
    UEFI = "UEFI firmware for QEMU"
    KVM = "KVM"
    PODMAN = "podman"
    CHROMIUM = "chromium"
    LIBNFS = "libnfs"
    HELD_CALLS = "held system calls"


HINTS = {
    Capability.ROOT: "run it as root",
    Capability.CGROUP2: "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    Capability.NSPAWN: "run `make setup`",
    Capability.NETEM: "a kernel with sch_netem; without it frames cannot be delayed",
    Capability.HELD_CALLS: "a kernel and a container that let processes listen to each other's calls (seccomp_unotify)",
    Capability.KVM: "QEMU emulates the processor instead, which is slow",
    Capability.QEMU: "run `make setup`",
    Capability.UEFI: "run `make setup`",
    Capability.PODMAN: "run `make setup`",
    Capability.CHROMIUM: "run `make setup`",
    Capability.TCPDUMP: "run `make setup`",
    Capability.LIBNFS: "run `make setup`",
}
REQUIRED = (
    Capability.ROOT,
    Capability.CGROUP2,
    Capability.NAMESPACES,
    Capability.NSPAWN,
    Capability.OVERLAY,
    Capability.NFT_BRIDGE,
)
"""What no lab of containers works without."""
OVMF = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"))


@dataclass(frozen=True)
class Found:
    """The capabilities that are there, and why each of the others is not."""

    there: frozenset[Capability]
    missing: dict[Capability, str]

    def __contains__(self, capability: Capability) -> bool:
        return capability in self.there

    def require(self, wanted: Iterable[Capability] = REQUIRED) -> None:
        """Raises HostError("lan.capability") that names what is missing of `wanted`."""
        absent = [one for one in wanted if one not in self.there]
        if absent:
            reasons = ", ".join(f"{one.value} ({self.missing.get(one, 'not tried')})" for one in absent)
            hint = next((HINTS[one] for one in absent if one in HINTS), None)
            raise HostError("lan.capability", f"this machine lacks {reasons}", hint=hint)


@functools.cache
def probe() -> Found:
    """Try everything; about a fifth of a second, once a process."""
    from e2e.sandbox import Sandbox

    missing: dict[Capability, str] = {}
    there: set[Capability] = set()

    def attempt(capability: Capability, trial: Callable[[], object]) -> bool:
        try:
            trial()
        except BacklineError as error:
            missing[capability] = error.message.splitlines()[-1]
        except OSError as error:
            missing[capability] = error.strerror or str(error)
        else:
            there.add(capability)
        return capability in there

    def program(name: str) -> Callable[[], object]:
        def trial() -> None:
            if shutil.which(name) is None:
                raise HostError("lan.capability", f"no program {name}")

        return trial

    def is_root() -> None:
        if os.geteuid() != 0:
            raise HostError("lan.capability", "not root")

    attempt(Capability.NSPAWN, program("systemd-nspawn"))
    attempt(Capability.TCPDUMP, program("tcpdump"))
    attempt(Capability.QEMU, program("qemu-system-x86_64"))
    attempt(Capability.PODMAN, program("podman"))
    attempt(Capability.CHROMIUM, program("chromium"))
    attempt(Capability.LIBNFS, program("nfs-cat"))
    attempt(Capability.UEFI, lambda: [path.stat() for path in OVMF])
    attempt(Capability.HELD_CALLS, _held_calls)
    attempt(Capability.TUN, lambda: os.close(os.open("/dev/net/tun", os.O_RDWR)))
    attempt(Capability.KVM, _kvm)
    if not attempt(Capability.ROOT, is_root):
        return Found(frozenset(there), missing)
    from e2e import cgroups

    if not attempt(Capability.CGROUP2, cgroups.hierarchy):
        return Found(frozenset(there), missing)
    try:
        sandbox = Sandbox(f"probe-{os.getpid()}")
    except BacklineError as error:
        missing[Capability.NAMESPACES] = error.message
        return Found(frozenset(there), missing)
    there.add(Capability.NAMESPACES)
    with sandbox:
        attempt(Capability.OVERLAY, lambda: sandbox.run(["sh", "-ec", _OVERLAY]))
        attempt(Capability.LOOP, lambda: sandbox.run(["sh", "-ec", _LOOP]))
        attempt(Capability.NFT_BRIDGE, lambda: sandbox.run(["nft", "add", "table", "bridge", "probe"]))
        tbf = ["tc", "qdisc", "replace", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst", "2kb", "latency", "10ms"]
        attempt(Capability.TBF, lambda: sandbox.run(tbf))
        netem = ["tc", "qdisc", "replace", "dev", "lo", "root", "netem", "delay", "1ms"]
        attempt(Capability.NETEM, lambda: sandbox.run(netem))
    return Found(frozenset(there), missing)


_OVERLAY = """
mkdir -p /run/lab/o/l /run/lab/o/u /run/lab/o/w /run/lab/o/m
mount -t overlay probe -o lowerdir=/run/lab/o/l,upperdir=/run/lab/o/u,workdir=/run/lab/o/w /run/lab/o/m
umount /run/lab/o/m
"""
_LOOP = """
truncate --size=2M /run/lab/loop
device=$(losetup --find --show /run/lab/loop)
losetup --detach "$device"
"""


def _held_calls() -> None:
    """Tests look at a process between its system calls (tests/watched.py), on x86-64 only."""
    actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    if "user_notif" not in actions or os.uname().machine != "x86_64":
        raise HostError("lan.capability", "seccomp has no user_notif here")


def _kvm() -> None:
    """KVM that runs a Debian kernel: the device alone says nothing on a nested paravirtual host."""
    descriptor = os.open("/dev/kvm", os.O_RDWR)
    os.close(descriptor)
    flags = Path("/proc/cpuinfo").read_text()
    if "vmx" not in flags.split() and "svm" not in flags.split():
        raise HostError("lan.capability", "the processor offers no virtualisation here (nested host)")


def missing_text(found: Found) -> str:
    """What is missing, one line each with its hint, for people."""
    lines = []
    for capability, reason in found.missing.items():
        hint = f" - {HINTS[capability]}" if capability in HINTS else ""
        lines.append(f"{capability.value}: {reason}{hint}")
    return "\n".join(lines)


__all__ = ["REQUIRED", "Capability", "Found", "missing_text", "probe"]
