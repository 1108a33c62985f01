"""A private bus with a systemd on it: a real dbus-daemon, and an object that answers as org.freedesktop.systemd1 does.

PID 1 of a test machine need not be systemd, and nobody's real systemd should be told to stop things by a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.common.bus.fake import FakeSystemd, make_unit
from services.common.bus.model import UnitDetails, unit_from_path, unit_to_path
from services.common.process import running, spawn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from dbus_next.aio.message_bus import MessageBus
    from dbus_next.constants import MessageType
    from dbus_next.message import Message
    from dbus_next.signature import Variant

ROOT = Path(__file__).parents[2]
SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
"""


@contextlib.contextmanager
def bus_daemon(folder: Path) -> Iterator[str]:
    """A dbus-daemon of our own; gives its address."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("missing capability: dbus-daemon (Debian package dbus-daemon)")
    socket = folder / "bus"
    socket.unlink(missing_ok=True)
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(socket=socket))
    argv = ["dbus-daemon", "--nofork", "--nopidfile", "--print-address", f"--config-file={config}"]
    # It says on stderr that it may not raise its limit of open files; nobody needs that.
    with running(spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)) as process:
        assert process.stdout is not None
        address = process.stdout.readline()  # printed once it listens
        process.stdout.close()
        assert address, "dbus-daemon did not start"
        yield f"unix:path={socket}"
    socket.unlink(missing_ok=True)


class SystemdOnBus:
    """org.freedesktop.systemd1 on a bus, in a process of its own, told what to do on its standard input.

    It cannot be a thread of the test: pystemd holds the interpreter's lock while it waits for an answer.
    """

    def __init__(
        self,
        address: str,
        units: list[UnitDetails],
        *,
        folder: Path | None = None,
        programs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`programs`: what a start of a template's instance runs, by the template's prefix ("getty@")."""
        known = msgspec.json.encode(units).decode()
        runs = msgspec.json.encode(programs or {}).decode()
        self._argv = [sys.executable, "-m", "tests.common.bus_rig", address, known, str(folder or ""), runs]

    def __enter__(self) -> SystemdOnBus:
        with contextlib.ExitStack() as stack:
            child = stack.enter_context(
                running(spawn(self._argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            )
            assert child.stdin is not None
            assert child.stdout is not None
            self._stdin = stack.enter_context(child.stdin)
            self._stdout = stack.enter_context(child.stdout)
            assert self._stdout.readline() == b"ready\n", "the bus rig did not start"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _tell(self, *command: object) -> Any:
        self._stdin.write(msgspec.json.encode(command) + b"\n")
        self._stdin.flush()
        return msgspec.json.decode(self._stdout.readline())

    def change(self, name: str, active: str, sub: str) -> None:
        """Announce PropertiesChanged of a unit."""
        self._tell("change", name, active, sub)

    def deny(self) -> None:
        """Refuse every job from now on."""
        self._tell("deny")

    def end_jobs_with(self, result: str) -> None:
        """The result of every job from now on."""
        self._tell("result", result)

    def calls(self) -> list[tuple[str, list[Any]]]:
        """The member and arguments of every call so far."""
        return [(member, body) for member, body in self._tell("calls")]

    def hang_jobs(self) -> None:
        """Jobs do not end until they are cancelled."""
        self._tell("hang")

    def fall_over(self, name: str) -> None:
        """A unit that is started fails at once, although its job is done."""
        self._tell("fall", name)

    def reset(self) -> None:
        """As it was at first."""
        self._tell("reset")


_AFTER = {
    "StartUnit": ("active", "running"),
    "RestartUnit": ("active", "running"),
    "StopUnit": ("inactive", "dead"),
}


class Systemd:
    """The object in the process of `SystemdOnBus`. Its state is a `FakeSystemd`, which reads unit files in a folder."""

    def __init__(
        self, address: str, units: list[UnitDetails], folder: Path | None, programs: Mapping[str, Sequence[str]]
    ) -> None:
        self.first, self.folder, self.programs = units, folder, programs
        self.running: dict[str, asyncio.Task[None]] = {}
        self.address = address
        self.reset()

    @property
    def units(self) -> dict[str, UnitDetails]:
        return self.state.units

    def reset(self) -> None:
        self.state = FakeSystemd(self.first, folder=self.folder)
        self.hang = False
        self.falls = ""
        self.hanging: dict[int, str] = {}
        self.calls: list[tuple[str, list[Any]]] = []
        self.deny = False
        self.job_result = "done"
        self.jobs = 0

    async def run(self) -> None:
        self.bus = MessageBus(bus_address=self.address)
        await self.bus.connect()
        self.bus.add_message_handler(self._answer)
        await self.bus.request_name(SYSTEMD)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print("ready", flush=True)
        while line := await reader.readline():
            command, *arguments = msgspec.json.decode(line)
            result = await self._obey(command, arguments)
            print(
                msgspec.json.encode(result, enc_hook=lambda value: getattr(value, "value", None)).decode(), flush=True
            )

    async def _obey(self, command: str, arguments: list[str]) -> object:
        match command:
            case "change":
                name, active, sub = arguments
                changed = {"ActiveState": Variant("s", active), "SubState": Variant("s", sub)}
                interface = "org.freedesktop.DBus.Properties"
                body = [f"{SYSTEMD}.Unit", changed, []]
                path = unit_to_path(name)
                await self.bus.send(Message.new_signal(path, interface, "PropertiesChanged", "sa{sv}as", body))
            case "deny":
                self.deny = True
            case "result":
                self.job_result = arguments[0]
            case "hang":
                self.hang = True
            case "fall":
                self.falls = arguments[0]
            case "reset":
                self.reset()
            case "calls":
                return self.calls
        return None

    def _answer(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        self.calls.append((message.member or "", message.body))
        answers: dict[str, Callable[[Message], Message]] = {
            "Subscribe": Message.new_method_return,
            "ListUnitsByPatterns": self._list,
            "LoadUnit": lambda message: Message.new_method_return(message, "o", [unit_to_path(message.body[0])]),
            "Get": self._get,
            "StartUnit": self._job,
            "StopUnit": self._job,
            "RestartUnit": self._job,
            "ReloadUnit": self._job,
            "StartTransientUnit": self._job,
            "CancelJob": self._cancel,
            "Reload": self._reload,
            "ResetFailedUnit": self._reset_failed,
            "EnableUnitFiles": self._enable,
            "DisableUnitFiles": self._enable,
            "GetAll": self._get_all,
            "SetUnitProperties": self._set_properties,
        }
        return answers[message.member or ""](message)

    def _list(self, message: Message) -> Message:
        states, patterns = message.body
        rows = [
            [unit.name, unit.description, unit.load, unit.active, unit.sub, "", unit_to_path(unit.name), 0, "", "/"]
            for unit in self.units.values()
            if (not states or unit.active in states) and (not patterns or unit.name in patterns)
        ]
        return Message.new_method_return(message, "a(ssssssouso)", [rows])

    def _get(self, message: Message) -> Message:
        _, key = message.body
        if (message.path or "").startswith(f"{MANAGER_PATH}/job/"):
            number = int((message.path or "").rpartition("/")[2])
            if number in self.hanging:
                return Message.new_method_return(message, "v", [Variant("s", "running")])
            name = "org.freedesktop.DBus.Error.UnknownObject"
            return Message.new_error(message, name, f"Unknown object '{message.path}'.")
        unit = self.units.get(unit_from_path(message.path or "") or "")
        if unit is None:
            value = Variant("s", "not-found" if key == "LoadState" else "")
        else:
            value = {
                "Id": Variant("s", unit.name),
                "Description": Variant("s", unit.description),
                "LoadState": Variant("s", unit.load),
                "ActiveState": Variant("s", unit.active),
                "SubState": Variant("s", unit.sub),
                "UnitFileState": Variant("s", unit.file_state),
                "ActiveEnterTimestamp": Variant("t", int(unit.active_since * 1_000_000)),
                "InvocationID": Variant("ay", bytes.fromhex(unit.invocation)),
                "MainPID": Variant("u", unit.main_pid),
                "NRestarts": Variant("u", unit.restarts),
                "Result": Variant("s", unit.result),
                "FragmentPath": Variant("s", unit.fragment),
            }[key]
        return Message.new_method_return(message, "v", [value])

    def _get_all(self, message: Message) -> Message:
        unit = self.units.get(unit_from_path(message.path or "") or "")
        values = {"LoadState": Variant("s", "not-found" if unit is None else unit.load)}
        if unit is not None:
            values |= {"Id": Variant("s", unit.name), "After": Variant("as", ["basic.target"])}
        return Message.new_method_return(message, "a{sv}", [values])

    def _set_properties(self, message: Message) -> Message:
        if message.body[0] not in self.units:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchUnit", f"Unit {message.body[0]} not found.")
        return Message.new_method_return(message)

    def _reload(self, message: Message) -> Message:
        self.state.reload_manager()
        return Message.new_method_return(message)

    def _reset_failed(self, message: Message) -> Message:
        self.state.reset_failed(message.body[0])
        return Message.new_method_return(message)

    def _enable(self, message: Message) -> Message:
        (name,) = message.body[0]
        if name not in self.units:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchUnit", f"Unit {name} not found.")
        if message.member == "EnableUnitFiles":
            self.state.enable(name)
            return Message.new_method_return(message, "ba(sss)", [True, []])
        self.state.disable(name)
        return Message.new_method_return(message, "a(sss)", [[]])

    def _cancel(self, message: Message) -> Message:
        number = message.body[0]
        if number not in self.hanging:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchJob", f"Job {number} does not exist.")
        self.bus.send(Message.new_method_return(message))
        self._ended(number, self.hanging.pop(number), "canceled")
        return True  # type: ignore[return-value]

    def _ended(self, number: int, name: str, result: str) -> None:
        body = [number, f"{MANAGER_PATH}/job/{number}", name, result]
        self.bus.send(Message.new_signal(MANAGER_PATH, f"{SYSTEMD}.Manager", "JobRemoved", "uoss", body))

    def _job(self, message: Message) -> Message:
        name = message.body[0]
        if self.deny:
            return Message.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "no")
        prefix, at, instance = name.partition("@")
        if (argv := self.programs.get(f"{prefix}{at}")) is not None:
            return self._program(message, name, [*argv, instance.removesuffix(".service")])
        if message.member != "StartTransientUnit" and name not in self.units:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchUnit", f"Unit {name} not found.")
        self.jobs += 1
        path = f"{MANAGER_PATH}/job/{self.jobs}"
        self.bus.send(Message.new_method_return(message, "o", [path]))
        if self.hang:
            self.hanging[self.jobs] = name
            return True  # type: ignore[return-value]
        if self.job_result == "done" and name in self.units and message.member in _AFTER:
            active, sub = ("failed", "failed") if name == self.falls else _AFTER[message.member]
            self.units[name] = msgspec.structs.replace(self.units[name], active=active, sub=sub)
        self._ended(self.jobs, name, self.job_result)
        return True  # type: ignore[return-value]  # dbus-next: handled, the answer is sent already

    def _program(self, message: Message, name: str, argv: Sequence[str]) -> Message:
        """Start or stop a program, as systemd does a oneshot; its output are units' states, `NAME STATE` a line."""
        self.jobs += 1
        number = self.jobs
        self.bus.send(Message.new_method_return(message, "o", [f"{MANAGER_PATH}/job/{number}"]))
        known = self.running.get(name)
        if message.member == "StopUnit":
            if known is not None:
                known.cancel()
            self._ended(number, name, "done")
        elif known is not None and not known.done():
            known.add_done_callback(lambda _: self._ended(number, name, "done"))
        else:
            self.running[name] = asyncio.create_task(self._run(number, name, argv))
        return True  # type: ignore[return-value]

    async def _run(self, number: int, name: str, argv: Sequence[str]) -> None:
        self._set(name, "activating")
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        finally:
            self._set(name, "inactive")
        for line in output.decode().splitlines():
            unit, _, state = line.partition(" ")
            self._set(unit, state)
        self._ended(number, name, "done" if process.returncode == 0 else "failed")

    def _set(self, name: str, state: str) -> None:
        self.units[name] = make_unit(name, name, active=state)
        changed = {"ActiveState": Variant("s", state), "SubState": Variant("s", state)}
        body = [f"{SYSTEMD}.Unit", changed, []]
        interface = "org.freedesktop.DBus.Properties"
        self.bus.send(Message.new_signal(unit_to_path(name), interface, "PropertiesChanged", "sa{sv}as", body))


async def spoof_to_everybody(address: str, body: list[Any]) -> None:
    """A JobRemoved that somebody else sends straight to each connection of the bus."""
    bus = MessageBus(bus_address=address)
    await bus.connect()
    for number in range(int((bus.unique_name or ":1.0").rpartition(".")[2])):
        message = Message.new_signal(MANAGER_PATH, f"{SYSTEMD}.Manager", "JobRemoved", "uoss", body)
        message.destination = f":1.{number}"
        await bus.send(message)
    bus._user_disconnect = True
    bus._finalize(None)  # type: ignore[no-untyped-call]
    bus._stream.close()
    bus._sock.close()


if __name__ == "__main__":
    known = msgspec.json.decode(sys.argv[2], type=list[UnitDetails])
    programs = msgspec.json.decode(sys.argv[4], type=dict[str, list[str]])
    asyncio.run(Systemd(sys.argv[1], known, Path(sys.argv[3]) if sys.argv[3] else None, programs).run())
