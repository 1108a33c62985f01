"""The back end QEMU: machines with firmware and a kernel of their own, which boot from the lab's network.

QEMU runs inside the lab's namespaces, in a cgroup of the node's; its cards are the taps that `network` made. There is
no disk: the firmware asks for a network boot, as a seat's does. Control (QMP) and serial console are socket pairs that
QEMU inherits, so nothing is connected to and no word is lost. What the console says becomes entries of the journal
(`e2e.serial`), and the node is up when its systemd says on the console that its start is finished.

BIOS machines boot by their card's ROM, an iPXE of 2019 in Debian 12; UEFI ones by OVMF's own PXE. Without KVM the
processor is emulated: a start takes a minute instead of seconds.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from e2e import cgroups, serial
from e2e.backend import Ended, Listener, Order
from e2e.capabilities import OVMF, Capability, Found
from e2e.qmp import Qmp
from e2e.reactor import Reactor
from e2e.roots import Roots
from e2e.sandbox import Sandbox
from services.common.errors import BacklineError, HostError

# With cx16 Debian's kernels die in random double faults under TCG of QEMU 7.2. With erms and fsrm they clear and copy
# memory by bytes (`rep stosb`, `rep movsb`), which TCG does one by one: the kernel spent most of a start there. With a
# second processor the kernel now and then runs into a breakpoint of its own, that it has just replaced by the code
# (text_poke), and stops in sched_clock_cpu two seconds after its start.
EMULATED = ("-accel", "tcg", "-cpu", "max,-cx16,-erms,-fsrm", "-smp", "1")
VIRTUALISED = ("-accel", "kvm", "-cpu", "host", "-smp", "2")
VARIABLES = "uefi-variables.fd"
PICTURE = "screen.png"
_CHUNK = 1 << 16
_BETWEEN_KEYS = 0.15
"""Seconds: QEMU holds each key for 0.1 s, and a keyboard's buffer is 16 bytes."""
# QAPI's names (QKeyCode) of keys that are not called as what they write.
_KEYS = {"\n": "ret", " ": "spc", "-": "minus", ".": "dot", "/": "slash", "=": "equal", ",": "comma"}


def arguments(order: Order, *, home: str, kvm: bool, control: int, console: int, now: datetime) -> list[str]:
    """QEMU's command line for a node: `control` and `console` are descriptors of sockets, `home` the node's folder."""
    spec = order.spec
    argv = ["qemu-system-x86_64", "-name", order.name, "-nodefaults", "-no-user-config"]
    # graphics=off: SeaBIOS, and with it iPXE, writes to the serial port what else is on the screen.
    argv += ["-machine", "q35,graphics=off", "-display", "none", "-vga", "none"]
    if spec.screen:
        argv += ["-device", "VGA,edid=on,xres=1280,yres=800"]
    argv += [*(VIRTUALISED if kvm else EMULATED), "-m", str(spec.memory)]
    argv += ["-chardev", f"socket,id=control,fd={control}", "-mon", "chardev=control,mode=control"]
    argv += ["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"]
    if spec.firmware == "uefi":
        argv += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF[0]}"]
        argv += ["-drive", f"if=pflash,unit=1,format=raw,file={home}/{VARIABLES}"]
    for number, cable in enumerate(order.cables):
        card = f"virtio-net-pci,netdev=card{number},mac={cable.mac},bootindex={number}"
        if spec.firmware == "uefi":
            card += ",romfile="  # no ROM: else QEMU's old iPXE would stand before OVMF's own PXE
        netdev = f"tap,id=card{number},ifname={cable.port},script=no,downscript=no"
        argv += ["-netdev", netdev, "-device", card]
    if spec.clock_offset:
        clock = (now + timedelta(seconds=spec.clock_offset)).astimezone(UTC)
        argv += ["-rtc", f"base={clock:%Y-%m-%dT%H:%M:%S}"]
    # A restart is a new run, as with every other back end.
    return [*argv, "-action", "reboot=shutdown"]


def keys_of(char: str) -> list[str]:
    """The keys of a US keyboard that write a character, as QEMU calls them."""
    return [*(["shift"] if char.isupper() else []), _KEYS.get(char, char.lower())]


class QemuBackend:
    """Implements `backend.Backend`."""

    name = "qemu"

    def __init__(self, sandbox: Sandbox, roots: Roots, reactor: Reactor, found: Found) -> None:
        self.sandbox = sandbox
        self.roots = roots
        self.reactor = reactor
        self.found = found

    def start(self, order: Order, listener: Listener) -> QemuRun:
        """Power a machine on. Raises HostError("lan.capability"), HostError("lan.qemu")."""
        needed = [Capability.QEMU, Capability.TUN]
        if order.spec.firmware == "uefi":
            needed.append(Capability.UEFI)
        self.found.require(needed)
        return QemuRun(self.sandbox, order, listener, kvm=Capability.KVM in self.found)


class QemuRun:
    """One machine, from power on to power off. Implements `backend.Run`."""

    def __init__(self, sandbox: Sandbox, order: Order, listener: Listener, *, kvm: bool) -> None:
        self.sandbox = sandbox
        self.listener = listener
        self.name = order.name
        self._home = f"/run/lab/n/{order.index}"
        self.leader: int | None = None
        self.outside = sandbox.lab / "n" / str(order.index)
        self.outside.mkdir(parents=True, exist_ok=True)
        self.cgroup = sandbox.make_cgroup(order.name)
        self._killed = False
        self._ready = False
        self._reason = ""
        self._ended = threading.Event()
        if order.spec.firmware == "uefi" and not (self.outside / VARIABLES).exists():
            shutil.copyfile(OVMF[1], self.outside / VARIABLES)
        with contextlib.ExitStack() as stack:
            control, its_control = socket.socketpair()
            self._console, its_console = socket.socketpair()
            for one in (its_control, its_console):
                stack.callback(one.close)  # ours end when QEMU's do
            ends = (its_control.fileno(), its_console.fileno())
            argv = arguments(
                order,
                home=self._home,
                kvm=kvm,
                control=ends[0],
                console=ends[1],
                now=datetime.now(UTC),
            )
            log = stack.enter_context((self.outside / "qemu.log").open("wb"))
            self.process = sandbox.spawn(argv, cgroup=order.name, pass_fds=ends, stdout=log, stderr=log)
        self._qmp = Qmp(control, self._event)
        threading.Thread(target=self._follow, name=f"console of {self.name}", daemon=True).start()

    def _event(self, name: str, data: dict[str, Any]) -> None:
        """SHUTDOWN says why: guest-reset, guest-shutdown, guest-panic... (QAPI schema, ShutdownCause)."""
        if name == "SHUTDOWN":
            self._reason = str(data.get("reason", ""))

    def _follow(self) -> None:
        """Follow the console to its end, which is QEMU's; clean up, tell."""
        lines = serial.Lines()
        with (self.outside / "console").open("wb") as file, self._console:
            while data := self._receive():
                file.write(data)
                file.flush()
                self._said(lines.feed(data))
            self._said(lines.end())
        code = self.process.wait()
        cgroups.kill(self.cgroup)
        with contextlib.suppress(BacklineError, OSError):
            cgroups.wait_empty(self.cgroup, time.monotonic() + 10)
        self._qmp.close()
        how, words = self._how(code)
        self.listener.ended(how, words)
        self._ended.set()
        self.listener.over()

    def _receive(self) -> bytes:
        try:
            return self._console.recv(_CHUNK)
        except OSError:  # reset: QEMU was killed
            return b""

    def _said(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.listener.entry(serial.fields(line))
            if not self._ready and serial.is_finished(line):
                self._ready = True
                self.listener.ready()

    def _how(self, code: int) -> tuple[Ended, str]:
        if self._killed:
            return Ended.KILLED, "power was cut"
        if code == 0 and self._reason == "guest-reset":
            return Ended.REBOOT, "restarts"
        if code == 0 and self._reason in ("guest-shutdown", "host-signal", "host-qmp-quit"):
            return Ended.OFF, "powered off"
        try:
            said = (self.outside / "qemu.log").read_text(errors="replace").strip()[-1000:]
        except OSError:
            return Ended.KILLED, "the lab is gone"
        return Ended.FAILED, f"QEMU ended with exit code {code} {self._reason}: {said or 'it said nothing'}"

    def alive(self) -> bool:
        """Whether it still runs."""
        return not self._ended.is_set()

    def power_off(self) -> None:
        """Press the power button (ACPI). Firmware, and a system that has not started logind yet, do not hear it."""
        self._qmp.execute("system_powerdown")

    def kill(self) -> None:
        """Pull the plug."""
        self._killed = True
        cgroups.kill(self.cgroup)

    def wait_ended(self, deadline: float) -> bool:
        """Wait until it and all of it is gone."""
        return self._ended.wait(max(0.0, deadline - time.monotonic()))

    def type(self, text: str) -> None:
        """Type on its keyboard: letters, digits and some signs. Raises HostError("lan.qmp")."""
        for char in text:
            self._qmp.execute("send-key", keys=[{"type": "qcode", "data": key} for key in keys_of(char)])
            time.sleep(_BETWEEN_KEYS)

    def picture(self) -> bytes:
        """What its screen shows, as PNG. Raises HostError("lan.qmp"), also for a machine without a graphics card."""
        self._qmp.execute("screendump", filename=f"{self._home}/{PICTURE}", format="png", seconds=30.0)
        return (self.outside / PICTURE).read_bytes()

    def freeze(self, *, frozen: bool) -> None:
        """Stop or continue its processors; its real-time clock goes on, as after a suspend."""
        self._qmp.execute("stop" if frozen else "cont")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Nothing can be run in it from outside. Raises HostError("lan.qemu")."""
        raise HostError(
            "lan.qemu",
            f"{self.name} is a machine of its own: `{' '.join(argv)}` cannot be run in it from here",
            hint="wait for what its console says (wait_for_journal), or ask its services over the lab's network",
        )

    def path(self, path: str) -> Path | None:  # noqa: ARG002
        """Its files are its own."""
        return None

    def memory(self) -> int:
        """Bytes that QEMU uses."""
        return cgroups.memory(self.cgroup)

    def console(self) -> str:
        """What firmware, kernel and systemd wrote to the serial port."""
        try:
            return (self.outside / "console").read_text(errors="replace")
        except OSError:
            return ""
