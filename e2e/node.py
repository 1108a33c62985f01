"""A machine of a lab, and its verbs: run, wait for, put, get, crash, freeze, reboot...

Waiting is for events: the notify socket, the journal's stream, D-Bus signals. Where the kernel has no event for
something (a port that begins to listen, a file that appears), the wait looks again whenever the node says anything,
and at least every 50 ms. A wait that fails names what was awaited, and ends with the last lines of the node.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from e2e.backend import UNIT_FAILED, Ended, Listener, Order, Run
from e2e.journal import Entry
from e2e.netbooted import netboot_says
from e2e.topology import Node as NodeSpec
from e2e.wait_target import WaitTarget
from services.common import process
from services.common.bus import UnitDetails, UnitStatus
from services.common.errors import BacklineError, HostError, UsageError

if TYPE_CHECKING:
    import httpx2

    from e2e.lab import Lab

WAIT = 60.0
"""Seconds that a wait lasts by default."""
LOOK = 0.05
PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
"""MESSAGE_ID of a unit's process that ended (SD_MESSAGE_UNIT_PROCESS_EXIT); EXIT_CODE and EXIT_STATUS say how."""
CRASHES = frozenset({"4", "5", "6", "7", "8", "11", "31"})
"""Signals of a process that crashed (signal(7): action Core): ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS."""


def dumped_core(fields: Mapping[str, str]) -> bool:
    """Whether a journal entry tells of a core dump, or of a crash whose dump a limit or a read-only folder prevented.

    In a container the limit is 0 unless something raises it: systemd then says `killed`, not `dumped`.
    """
    if fields.get("MESSAGE_ID") != PROCESS_EXIT:
        return False
    how = fields.get("EXIT_CODE")
    return how == "dumped" or (how == "killed" and fields.get("EXIT_STATUS") in CRASHES)


class WaitFailed(BacklineError):
    """What was awaited did not come, or cannot come any more. `node` says where."""

    def __init__(self, code: str, message: str, *, node: str, hint: str) -> None:
        super().__init__(code, message, hint=hint)
        self.node = node


class CommandFailed(BacklineError):
    """A program in a node ended otherwise than a test wanted. `completed` has its output."""

    def __init__(self, node: str, completed: process.Completed, wanted: str) -> None:
        said = (completed.stderr.strip() or completed.stdout.strip())[-2000:]
        shown = " ".join(completed.argv)
        super().__init__("lan.command", f"on {node}: `{shown}` {wanted}" + (f"\n{said}" if said else ""))
        self.completed = completed


class Node(WaitTarget):
    """A machine of a lab. Made by `Lab`; `lab["gw"]` is one."""

    def __init__(self, lab: Lab, name: str, index: int, spec: NodeSpec) -> None:
        self.lab = lab
        self.name = name
        self.index = index
        self.spec = spec
        self.version = spec.version
        self.credentials: dict[str, bytes] = {}
        self.binds: dict[str, str] = {}
        self.ask: Callable[[], tuple[str, Sequence[str]]] | None = None
        """What says at each power on which version it boots, and with which words; `version` when nobody does."""
        self.allowed_failures: set[str] = set()
        """Units that may fail without failing the test."""
        if (
            spec.backend == "qemu"
        ):  # emulated on a busy machine, it may be too late for its credentials: it starts again
            self.allowed_failures.add("backline-root.service")
        self.starts = 0
        self.booted: dict[str, str] = {}
        self._run: Run | None = None
        self._ready_since: float | None = None
        self._mark = 0
        self._next_version: str | None = None
        self._stay_off = False
        self._frozen = False
        self._between = False  # off for a moment, on the way to its next start

    # Power

    def start(self) -> None:
        """Power on; returns at once. Raises UsageError("lan.running") when it runs already."""
        if self._run is not None and self._run.alive():
            raise UsageError("lan.running", f"{self.name} runs already")
        backend = self.lab.backend_of(self)
        root = None
        words: Sequence[str] = ()
        if self.ask is not None:
            self.version, words = self.ask()
        if backend.name == "nspawn":
            ref = self.lab.roots.find(self.spec.role, self.version)
            root = self.lab.roots.mount(ref)
            self.booted = {"role": ref.role, "version": ref.version}
        self._mark = self.lab.journal.mark()
        self._ready_since = None
        self._stay_off = self._frozen = False
        credentials = {**self.lab.credentials_of(self), **self.credentials}
        order = Order(
            name=self.name,
            index=self.index,
            spec=self.spec,
            cables=self.lab.network.cables(self.name),
            root=root,
            credentials=credentials,
            binds=self.binds,
            words=words,
        )
        self.lab.journal.note("step", "power on", node=self.name)
        self.lab.network.plug(self.name)
        self._run = backend.start(order, Listener(self._on_ready, self._on_entry, self._on_ended, self._on_over))
        self.starts += 1

    def stop(self, *, seconds: float = 20.0) -> None:
        """Shut down in order; a machine that is off stays off. Raises WaitFailed("lan.stop")."""
        run = self._run
        if run is None or not run.alive():
            return
        self._stay_off = True
        self.lab.journal.note("step", "power button", node=self.name)
        run.power_off()
        if not run.wait_ended(time.monotonic() + seconds):
            raise self._failed("lan.stop", f"did not shut down within {seconds:g} s")

    def crash(self) -> None:
        """Pull the plug: nothing in it gets a chance to write anything any more."""
        run = self._need_run()
        self._stay_off = True
        self.lab.journal.note("fault", "crash", node=self.name)
        run.kill()
        if not run.wait_ended(time.monotonic() + 20):
            raise self._failed("lan.stuck", "its processes do not end, even killed")

    def destroy(self) -> None:
        """Pull the plug, and take its disk away: what is powered on under its name next is a new machine."""
        self.crash()
        self.lab.roots.drop(f"/run/lab/n/{self.index}", keep_var=False)

    def freeze(self) -> None:
        """Stop every process of it where it is; `thaw` goes on."""
        self.lab.journal.note("fault", "freeze", node=self.name)
        self._need_run().freeze(frozen=True)
        self._frozen = True

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.lab.journal.note("step", "thaw", node=self.name)
        self._need_run().freeze(frozen=False)
        self._frozen = False

    def reboot(self, version: str | None = None, *, seconds: float = WAIT) -> None:
        """Restart in order, into `version` when one is given, and wait until it is up again.

        A seat keeps nothing; a server keeps /var when it gets another version, and everything when not.
        """
        if version is not None:
            self.choose(version)
            self._next_version = version
        starts = self.starts
        self.lab.journal.note("step", f"reboot{f' into {version}' if version else ''}", node=self.name)
        self.run(["systemctl", "--no-block", "reboot"])
        deadline = time.monotonic() + seconds
        while self.starts == starts or not self.running:
            if time.monotonic() > deadline:
                raise self._failed("lan.reboot", f"did not restart within {seconds:g} s")
            self.lab.journal.pause(LOOK)
        self.wait_ready(deadline=deadline)

    def choose(self, version: str) -> None:
        """Look whether it can be told to boot a version. Raises MissingError, UsageError("lan.netboot")."""
        if self.ask is not None:
            raise netboot_says(self.name)
        self.lab.roots.find(self.spec.role, version)

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self._run is not None and self._run.alive()

    @property
    def ready(self) -> bool:
        """Whether it has reached its default target."""
        return self.running and self._ready_since is not None

    @property
    def seconds_to_ready(self) -> float | None:
        """From power on to its default target, in seconds."""
        return self._ready_since

    @property
    def state(self) -> str:
        """`off`, `starting`, `up` or `frozen`."""
        if self.running and self._frozen:
            return "frozen"
        return "up" if self.ready else "starting" if self.running else "off"

    @property
    def addresses(self) -> list[str]:
        """Its IPv4 addresses now, first card first, as its kernel has them."""
        return self.lab.addresses(self)

    @property
    def address(self) -> str:
        """Its first address. Raises WaitFailed("lan.address") when it has none."""
        found = self.addresses
        if not found:
            raise self._failed("lan.address", "has no address")
        return found[0]

    @property
    def has_network(self) -> bool:
        """Whether its network namespace is there."""
        return self.running and self._run is not None and self._run.leader is not None

    @property
    def netns(self) -> str:
        """Its network namespace, as a path inside the lab. Raises HostError("lan.off") when it is not there."""
        leader = self._need_run().leader
        if leader is None:
            raise HostError("lan.off", f"{self.name} has no network that can be entered from here")
        return f"/proc/{leader}/ns/net"

    # Programs

    def run(
        self, argv: Sequence[str], *, stdin: str | bytes | None = None, seconds: float = 60.0, check: bool = True
    ) -> process.Completed:
        """Run a program in it, to its end. Raises CommandFailed when it fails and `check`, ProcessFailed when late."""
        run = self._need_run()
        done = process.run(run.argv(list(argv)), stdin=stdin, check=False, deadline=time.monotonic() + seconds)
        done = process.Completed(tuple(argv), done.returncode, done.stdout, done.stderr)
        if check and done.returncode != 0:
            raise CommandFailed(self.name, done, process.explain_exit(done.returncode))
        return done

    def succeeds(self, *argv: str, seconds: float = 60.0) -> str:
        """Run a program that has to succeed; returns its standard output without the last newline."""
        return self.run(argv, seconds=seconds).stdout.rstrip("\n")

    def fails(self, *argv: str, seconds: float = 60.0) -> process.Completed:
        """Run a program that has to fail."""
        done = self.run(argv, seconds=seconds, check=False)
        if done.returncode == 0:
            raise CommandFailed(self.name, done, "succeeded, and was meant to fail")
        return done

    def run_in_background(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program in it; the caller waits for it, and it ends with the machine at the latest."""
        nothing = subprocess.DEVNULL
        return subprocess.Popen(self.argv(argv), stdin=nothing, stdout=nothing, stderr=nothing)

    def put(self, path: str, data: str | bytes, *, mode: int = 0o644) -> None:
        """Write a file, with its folders."""
        self.run(["install", "-D", f"--mode={mode:o}", "/dev/stdin", path], stdin=data)

    def get(self, path: str) -> bytes:
        """Read a file. Raises CommandFailed."""
        return base64.b64decode(self.run(["base64", "--wrap=0", path]).stdout)

    def http(self, method: str, url: str, *, seconds: float = 10.0, **how: Any) -> httpx2.Response:
        """An HTTP request from inside its network namespace; `how` as in httpx2.request. Raises httpx2.HTTPError."""
        import httpx2

        def call() -> httpx2.Response:
            return httpx2.request(method, url, timeout=seconds, trust_env=False, **how)

        return self.lab.sandbox.in_network(call, netns=self.netns)

    def connect(self, address: tuple[str, int], *, seconds: float = 5.0) -> socket.socket:
        """A TCP connection from inside its network namespace. Raises OSError."""
        return self.lab.sandbox.connect(address, netns=self.netns, seconds=seconds)

    def service(self, name: str, *, seconds: float = WAIT) -> str:
        """The unix socket of one of its services, as that service's typed client takes it, once it is there."""
        path = f"/run/backline/{name}.sock"
        self.wait_for_socket(path, seconds=seconds)
        return f"unix:{self._need_run().path(path)}"

    # systemd and the journal

    @property
    def bus(self) -> str:
        """Its system bus, as `services.common.bus` takes it."""
        path = self._need_run().path("run/dbus/system_bus_socket")
        if path is None:
            raise self._failed("lan.bus", "has no bus that can be reached from here")
        return f"unix:path={path}"

    def unit(self, name: str) -> UnitDetails:
        """A unit, as its systemd tells it. Raises MissingError("unit.unknown")."""
        from services.common.bus.manager import SystemdManager

        return SystemdManager(self.bus).unit(name)

    def units(self, *, states: Sequence[str] = ()) -> list[UnitStatus]:
        """Its loaded units."""
        from services.common.bus.manager import SystemdManager

        return SystemdManager(self.bus).list_units(states=states)

    def failed_units(self) -> list[str]:
        """Names of units that failed and may not."""
        return [unit.name for unit in self.units(states=["failed"]) if unit.name not in self.allowed_failures]

    def journal(self, *, unit: str | None = None, since_start: bool = True) -> list[Entry]:
        """Its entries in the lab's journal, of this start only or of all."""
        entries = self.lab.journal.since(self._mark if since_start else 0)
        return [entry for entry in entries if entry.node == self.name and (unit is None or entry.unit == unit)]

    def tail(self, lines: int = 15, *, unit: str | None = None) -> str:
        """Its last lines, for a message."""
        return self.lab.journal.tail([self.name], lines, unit=unit)

    # Waiting

    def wait_ready(self, *, seconds: float = WAIT, deadline: float | None = None) -> None:
        """Wait until it has reached its default target.

        Raises WaitFailed: `lan.unit` at once when a unit fails, `lan.died` when it goes off, `lan.late`.
        """
        self._wait("its default target", lambda: self.ready, seconds=seconds, deadline=deadline)
        self._check_units("its default target")

    def wait_for_unit(self, name: str, state: str = "active", *, seconds: float = WAIT) -> UnitDetails:
        """Wait until a unit is in `state`; a unit that fails meanwhile ends the wait at once with its last lines."""
        from services.common.bus.signals import SystemdEvents

        found: list[UnitDetails] = []

        def look() -> bool:
            try:
                unit = self.unit(name)
            except BacklineError:  # not loaded yet, or no bus for a moment
                return False
            if unit.active == "failed" and state != "failed":
                tail = self.tail(unit=name)
                raise self._failed("lan.unit", f"{name} failed ({unit.result})\n{tail}", tail=False)
            found[:] = [unit]
            return unit.active == state

        async def follow() -> None:
            async with SystemdEvents(self.bus).subscribe() as events:
                async for _ in events:
                    self.lab.journal.wake()

        self._wait("its bus", self._has_bus, seconds=seconds)
        with self.lab.background(follow()):
            self._wait(f"{name} {state}", look, seconds=seconds, units=state != "failed")
        return found[0]

    def wait_for_port(self, port: int, *, address: str | None = None, seconds: float = WAIT) -> None:
        """Wait until a TCP port of it accepts connections (from its own network namespace)."""

        def look() -> bool:
            try:
                self.connect((address or "127.0.0.1", port), seconds=1).close()
            except OSError:
                return False
            return True

        self._wait(f"TCP port {port}", look, seconds=seconds)

    def wait_for_socket(self, path: str, *, seconds: float = WAIT) -> None:
        """Wait until a unix socket is there and somebody listens on it."""

        def look() -> bool:
            place = self._run.path(path) if self._run else None
            if place is None:
                return False
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(place))
                except OSError:
                    return False
            return True

        self._wait(f"the socket {path}", look, seconds=seconds)

    def wait_for_file(self, path: str, *, seconds: float = WAIT) -> None:
        """Wait until a file or folder is there."""
        self._wait(f"the file {path}", lambda: self._has(path), seconds=seconds)

    def wait_for_journal(
        self, pattern: str, *, unit: str | None = None, since: int | None = None, seconds: float = WAIT
    ) -> Entry:
        """Wait for an entry whose message has `pattern` (a regular expression), from its start on or from a mark on."""
        found = re.compile(pattern)

        def wanted(entry: Entry) -> bool:
            of_unit = unit is None or entry.unit == unit
            return entry.node == self.name and of_unit and found.search(entry.message) is not None

        entry = self.lab.journal.wait(
            wanted,
            since=self._mark if since is None else since,
            deadline=time.monotonic() + seconds,
            stop=lambda: self._check_alive(f"a message like {pattern!r}"),
        )
        if entry is None:
            raise self._late(f"a message like {pattern!r}", seconds)
        return entry

    def wait_for_http(
        self, url: str, *, wanted: Callable[[httpx2.Response], bool] | None = None, seconds: float = WAIT
    ) -> httpx2.Response:
        """Wait until a GET from inside its network namespace is answered, with 200 or as `wanted`."""
        import httpx2

        answers: list[httpx2.Response] = []

        def look() -> bool:
            try:
                answer = self.http("GET", url, seconds=5)
            except httpx2.HTTPError:
                return False
            answers[:] = [answer]
            return wanted(answer) if wanted else answer.status_code == 200

        self._wait(f"an answer of {url}", look, seconds=seconds)
        return answers[0]

    def wait_for_property(
        self, destination: str, path: str, interface: str, name: str, value: object, *, seconds: float = WAIT
    ) -> None:
        """Wait until a D-Bus property has a value, as busctl(1) prints it in JSON."""
        import json

        def look() -> bool:
            done = self.run(["busctl", "--json=short", "get-property", destination, path, interface, name], check=False)
            return done.returncode == 0 and json.loads(done.stdout)["data"] == value

        self._wait(f"{interface}.{name} = {value!r}", look, seconds=seconds)

    def wait_until(self, what: str, look: Callable[[], bool], *, seconds: float = WAIT) -> None:
        """Wait until `look` is true; it is called whenever something happens in the lab, and every 50 ms."""
        self._wait(what, look, seconds=seconds)

    def wait_for_address(self, *, seconds: float = WAIT) -> str:
        """Wait until it has an IPv4 address; returns it."""
        self._wait("an address", lambda: bool(self.addresses), seconds=seconds)
        return self.address

    def wait_off(self, *, seconds: float = WAIT) -> None:
        """Wait until it has no power."""
        if (run := self._run) is not None and not run.wait_ended(time.monotonic() + seconds):
            raise self._late("being off", seconds)

    # Inside

    def memory(self) -> int:
        """Bytes that it uses."""
        return self._need_run().memory()

    def console(self) -> str:
        """What its console showed since power on."""
        return self._run.console() if self._run else ""

    def type(self, text: str) -> None:
        """Type on its keyboard. Raises HostError("lan.keyboard") when it has none."""
        self._need_run().type(text)

    def picture(self) -> bytes:
        """What its screen shows, as PNG. Raises HostError("lan.screen") when it has none."""
        return self._need_run().picture()

    def cpu(self) -> float:
        """Seconds of processor time that it used since the lab began."""
        return self.lab.cpu(self)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The host's command line that runs `argv` in it."""
        return self._need_run().argv(list(argv))

    def shell_argv(self) -> list[str]:
        """The host's command line of a shell in it."""
        return self._need_run().argv(["env", f"TERM={os.environ.get('TERM', 'linux')}", "bash", "-l"])

    def _need_run(self) -> Run:
        if self._run is None or not self._run.alive():
            raise HostError(
                "lan.off", f"{self.name} is off", hint=f"power it on: `backline lan start {self.name}`, or .start()"
            )
        return self._run

    def _has_bus(self) -> bool:
        path = self._run.path("run/dbus/system_bus_socket") if self._run else None
        with contextlib.suppress(OSError):
            return path is not None and path.exists()
        return False

    def _has(self, path: str) -> bool:
        if self._run is None or self._run.leader is None:
            return False
        return self.run(["test", "-e", path], check=False).returncode == 0

    def _on_ready(self) -> None:
        self._ready_since = time.time() - next(
            (entry.time for entry in self.journal() if entry.kind == "step"), time.time()
        )
        self.lab.journal.note("notify", "up: its default target is reached", node=self.name)

    def _on_entry(self, fields: dict[str, str]) -> None:
        self.lab.journal.add(self.name, fields)

    def _on_ended(self, how: Ended, words: str) -> None:
        self._ready_since = None
        self.lab.journal.note("exit", words, node=self.name, priority=3 if how is Ended.FAILED else 5)
        if not self.lab.closing:
            self._between = how is Ended.REBOOT and not self._stay_off
            self.lab.network.unplug(self.name)

    def _on_over(self) -> None:
        if self._between and not self.lab.closing:
            self._start_again()
        self._between = False

    def _start_again(self) -> None:
        """What its own restart does; in the thread that saw it go."""
        try:
            moved = self._next_version is not None and self._next_version != self.booted.get("version")
            if self._next_version is not None:
                self.version, self._next_version = self._next_version, None
            if self.spec.seat or moved:
                self.lab.roots.drop(f"/run/lab/n/{self.index}", keep_var=not self.spec.seat)
            else:
                self.lab.roots.detach(f"/run/lab/n/{self.index}")
            self.start()
        except BacklineError as error:
            self.lab.journal.note("exit", f"did not start again: {error}", node=self.name, priority=3)

    def _check_alive(self, what: str) -> None:
        if not self.running and not self._between:
            raise self._failed("lan.died", f"is off, and {what} was awaited")

    def _check_units(self, what: str) -> None:
        for entry in self.journal():
            if entry.fields.get("MESSAGE_ID") == UNIT_FAILED and entry.unit not in self.allowed_failures:
                if self._recovers(entry.unit):
                    continue
                tail = self.tail(unit=entry.unit)
                raise self._failed("lan.unit", f"{entry.unit} failed while {what} was awaited\n{tail}", tail=False)

    def _recovers(self, name: str) -> bool:
        """Whether systemd tries that unit again (Restart=), or has done so with success."""
        with contextlib.suppress(BacklineError):
            return self.unit(name).active != "failed"
        return False

    def _wait(
        self,
        what: str,
        look: Callable[[], bool],
        *,
        seconds: float,
        deadline: float | None = None,
        units: bool = True,
    ) -> None:
        began = time.monotonic()
        end = began + seconds if deadline is None else deadline
        while not look():
            self._check_alive(what)
            if units and not self.ready:
                self._check_units(what)
            if time.monotonic() >= end:
                raise self._late(what, round(end - began, 1))
            self.lab.journal.pause(min(LOOK, max(0.0, end - time.monotonic())))

    def _late(self, what: str, seconds: float) -> WaitFailed:
        return self._failed("lan.late", f"{what} did not come within {seconds:g} s")

    def _failed(self, code: str, message: str, *, tail: bool = True) -> WaitFailed:
        text = f"{self.name}: {message}"
        if tail:
            text += f"\n{self.tail()}"
            console = self.console().strip().splitlines()[-5:]
            if console and not self.journal():
                text += "\n" + "\n".join(console)
        return WaitFailed(code, text, node=self.name, hint=self.lab.again(self.name))
