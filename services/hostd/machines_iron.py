"""What is asked of the iron's systemd to run machines, and the real one.

`Iron` is the seam: `machines` is written against it, tests have one that lives in a file. `Systemd` writes the rendered
files into /run, and starts and stops units through systemctl(1), which joins a job that is under way already: whoever
is killed meanwhile leaves the job, and the next one waits for the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from services.common.bus import BusError
from services.common.errors import BacklineError, HostError
from services.common.process import ProcessFailed, run
from services.hostd import machines_render as render

SETTLING = "backline-hostd-machine@{name}.service"
TRIES = 3
"""How often a machine may end before its default target is reached."""
SAVING, SAVING_TIMER = "backline-state.service", "backline-state.timer"
"""The unit inside a machine that saves what it cannot make again, and how long it may take."""
SAVE_SECONDS = 300.0
TELLING = 5
"""Lines of a failed unit's journal that a reason shows."""


class NotReady(Exception):
    """A machine did not reach its default target: `str()` says why."""


class Iron(Protocol):
    """The systemd of the iron."""

    def boot(self) -> str:
        """The boot id of the iron."""

    def now(self) -> float:
        """Seconds since the iron started, its sleep included: no clock that anybody sets."""

    def pause(self, seconds: float) -> None:
        """Let that time go by."""

    def placed(self, files: Mapping[str, str]) -> bool:
        """Whether files are as they should."""

    def read(self, path: str) -> str | None:
        """What a file says; None when there is none."""

    def place(self, files: Mapping[str, str]) -> None:
        """Make files be as they should."""

    def clear(self, paths: list[str]) -> None:
        """Make files not be there."""

    def reload(self) -> None:
        """Have systemd read its files again: limits hold from then on."""

    def wake(self, name: str) -> None:
        """Let the unit run that settles a machine; not waited for."""

    def rest(self, name: str) -> None:
        """End that unit where it is, as a crash would."""

    def save(self, name: str) -> str | None:
        """Let a running machine save its state where it knows how to (`backline state`). Returns why it could not."""

    def start(self, name: str, *, deadline: float) -> None:
        """Start a machine from the files as they are, and wait until its default target is reached. Raises NotReady."""

    def stop(self, name: str) -> None:
        """Stop a machine, and wait until nothing of it runs."""

    def state(self, name: str) -> str:
        """systemd's word for a machine: active, activating, inactive, failed..."""

    def failed_units(self, name: str) -> list[str]:
        """Units inside a running machine that failed, each with its last lines. Raises NotReady."""

    def tree(self, role: str, version: str) -> Path:
        """Where a version's tree can be read; its mount unit has been placed. Raises HostError("machine.mount")."""

    def release(self, role: str, version: str) -> None:
        """Nothing uses that tree any more."""


class Systemd:
    """The systemd of this host. Implements `Iron`."""

    def boot(self) -> str:
        """random(4): a new id with each start of the kernel; in a container, whose kernel lives on, its own start too.

        PID 1's start time tells apart two starts of one container.
        """
        fields = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}-{fields[19]}"

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def placed(self, files: Mapping[str, str]) -> bool:
        return all(_text(Path(name)) == text for name, text in files.items())

    def read(self, path: str) -> str | None:
        return _text(Path(path))

    def place(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = Path(name)
            if _text(path) != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                aside = path.with_name(f".{path.name}.new")
                aside.write_text(text)
                aside.rename(path)

    def clear(self, paths: list[str]) -> None:
        for name in paths:
            Path(name).unlink(missing_ok=True)
        run(["systemctl", "daemon-reload"])

    def reload(self) -> None:
        run(["systemctl", "daemon-reload"])

    def wake(self, name: str) -> None:
        run(["systemctl", "start", "--no-block", SETTLING.format(name=name)])

    def rest(self, name: str) -> None:
        run(["systemctl", "stop", SETTLING.format(name=name)])

    def save(self, name: str) -> str | None:
        leader = self.leader(name)
        if leader is None:
            return None
        inside = systemctl_in(leader)
        # Root file servers have the unit too, for nobody to start: where there is something to save, it has its hours.
        if run([*inside, "is-enabled", "--quiet", SAVING_TIMER], check=False).returncode != 0:
            return None
        try:
            run([*inside, "start", SAVING], deadline=time.monotonic() + SAVE_SECONDS)
        except ProcessFailed as error:
            return f"{error.message}{self._last_lines(leader, SAVING)}"
        return None

    def start(self, name: str, *, deadline: float) -> None:
        unit = render.unit(name)
        if self.state(name) not in ("active", "activating"):
            # Each time: whoever placed the files may have died before systemd knew of them.
            run(["systemctl", "daemon-reload"])
            run(["systemctl", "reset-failed", unit], check=False)
        end = time.monotonic() + max(0.0, deadline - self.now())
        for left in range(TRIES - 1, -1, -1):
            try:
                run(["systemctl", "start", unit], deadline=end)
            except ProcessFailed as error:
                if time.monotonic() >= end:
                    raise NotReady("its default target was not reached in time") from error
                if left == 0 or self.state(name) not in ("activating", "active"):
                    raise NotReady(f"it did not start\n{self._log(unit)}") from error
                self.pause(1)  # systemd starts it again by itself: what it hangs on may not be there yet
            else:
                return

    def stop(self, name: str) -> None:
        run(["systemctl", "stop", render.unit(name)])

    def state(self, name: str) -> str:
        return self._show(name, "ActiveState")

    def leader(self, name: str) -> int | None:
        """The process that is init in a machine."""
        done = run(["machinectl", "show", name, "--property=Leader", "--value"], check=False)
        text = done.stdout.strip()
        return int(text) if done.returncode == 0 and text.isdecimal() else None

    def failed_units(self, name: str) -> list[str]:
        from services.common.bus.manager import SystemdManager

        leader = self.leader(name)
        if leader is None:
            raise NotReady("it does not run any more")
        try:
            units = SystemdManager(f"unix:path=/proc/{leader}/root/run/dbus/system_bus_socket").list_units(
                states=["failed"]
            )
        except BusError as error:
            raise NotReady(f"its systemd cannot be asked: {error}") from error
        return [f"{unit.name}{self._last_lines(leader, unit.name)}" for unit in units]

    def tree(self, role: str, version: str) -> Path:
        try:
            run(["systemctl", "daemon-reload"])
            run(["systemctl", "start", render.mount_unit(role, version)])
        except ProcessFailed as error:
            raise HostError(
                "machine.mount",
                f"the tree of {role} {version} cannot be mounted: {error.message}",
                hint="EROFS images need Linux 6.12, as Debian 13 has it",
            ) from error
        return Path(render.root(role, version))

    def release(self, role: str, version: str) -> None:
        unit = render.mount_unit(role, version)
        if (path := Path(render.UNITS / unit)).exists():
            run(["systemctl", "stop", unit], check=False)
            self.clear([str(path)])

    def _log(self, unit: str) -> str:
        argv = ["journalctl", "--unit", unit, "--lines=8", "--output=cat", "--no-pager", "--quiet"]
        return run(argv, check=False).stdout.strip()

    def _show(self, name: str, what: str) -> str:
        try:
            argv = ["systemctl", "show", f"--property={what}", "--value", render.unit(name)]
            return run(argv).stdout.strip()
        except BacklineError:
            return "unknown"

    def _last_lines(self, leader: int, unit: str) -> str:
        argv = ["nsenter", f"--target={leader}", "--mount", "--root", "--", "journalctl", "--unit", unit]
        done = run([*argv, f"--lines={TELLING}", "--output=cat", "--no-pager", "--quiet"], check=False)
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        return "".join(f"\n    {line}" for line in lines)


def systemctl_in(leader: int) -> list[str]:
    """The beginning of a systemctl(1) in a machine; without its process namespace, its systemd does not answer."""
    return ["nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--", "systemctl"]


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
