"""A host whose systemd is a file: what was done to it outlives the process that did it, however that ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from services.common.errors import BacklineError, HostError
from services.hostd import durable
from services.hostd.applying import Applier
from services.hostd.desired import Desired
from services.hostd.history import Failure, History, Record
from services.hostd.host_planner import HostSeen, simulate
from services.hostd.machines_planner import MachinesSeen
from services.hostd.planner import Kind, Seen, Step
from services.hostd.roots_planner import RootsSeen
from services.hostd.unit_files import UnitFiles


class DiskHost:
    """Implements `applying.Hands`, and observes. `breaks`: a step that fails; `falls`: a unit that falls over."""

    def __init__(self, folder: Path, *, breaks: str = "", falls: str = "") -> None:
        self.folder = folder
        self.state = folder / "systemd.json"
        self.other = folder / "other.json"
        self.tokens: dict[str, str] = {}
        self.files = UnitFiles(folder / "units")
        self.history = History(folder / "state")
        self.breaks, self.falls = breaks, falls
        self.done: list[str] = []
        self.shutdown = False
        self.hook: Callable[[Step], None] = lambda step: None
        self.files.folder.mkdir(parents=True, exist_ok=True)
        if not self.state.exists():
            self.put({})

    def put(self, units: dict[str, Seen]) -> None:
        durable.write(self.state, msgspec.json.encode(units))

    def seen(self) -> dict[str, Seen]:
        """Units, with the files that are there."""
        units = msgspec.json.decode(self.state.read_bytes(), type=dict[str, Seen])
        found = self.files.found(set())
        names = {*units, *found}
        return {name: self._with_files(name, units.get(name, Seen())) for name in sorted(names)}

    def _with_files(self, name: str, unit: Seen) -> Seen:
        found = self.files.found({name}).get(name)
        file, drop_ins = (found.file, found.drop_ins) if found is not None else (None, {})
        return msgspec.structs.replace(unit, file=file, drop_ins=drop_ins)

    def observe(self, units: Iterable[str], desired: Desired) -> HostSeen:
        seen = self.seen()
        named = {name: seen.get(name, Seen()) for name in {*units, *(n for n, unit in seen.items() if unit.ours)}}
        rest = self.rest()
        return HostSeen(named, rest.machines, rest.roots)

    def rest(self) -> HostSeen:
        """Machines and roots; none of them on a host that was not given any."""
        if not self.other.exists():
            return HostSeen()
        return msgspec.json.decode(self.other.read_bytes(), type=HostSeen)

    def put_rest(self, machines: MachinesSeen | None, roots: RootsSeen | None) -> None:
        durable.write(self.other, msgspec.json.encode(HostSeen({}, machines, roots)))

    async def do(self, step: Step, token: str) -> None:
        self.hook(step)
        self.tokens.setdefault(token, str(step))
        assert self.tokens[token] == str(step), "two steps have one token"
        if str(step) == self.breaks:
            raise HostError("test.broken", f"{step} does not work")
        self.done.append(str(step))
        if step.kind is Kind.WRITE:
            assert step.unit is not None
            assert step.text is not None
            self.files.write(step.unit, step.drop_in, step.text)
        elif step.kind is Kind.REMOVE:
            assert step.unit is not None
            self.files.remove(step.unit, step.drop_in)
        elif step.machine is not None or step.names is not None:
            # What is done already is no error, as it is none for `machines_asking`.
            if not self._is_so(step):
                rest = simulate(self.rest(), [step])
                self.put_rest(rest.machines, rest.roots)
        else:
            after = simulate(HostSeen(self.seen()), [step]).units
            if step.unit == self.falls and step.kind is Kind.START:
                after[step.unit] = msgspec.structs.replace(after[step.unit], active="failed")
            self.put(after)

    def _is_so(self, step: Step) -> bool:
        machines = self.rest().machines
        if step.machine is None or machines is None:
            return False
        found = machines.machines.get(step.machine)
        match step.kind:
            case Kind.CREATE | Kind.BRING_BACK:
                return found is not None
            case Kind.SET_ASIDE:
                return found is None
            case Kind.UPGRADE | Kind.REVERT:
                return found is not None and found.version == step.version and not found.changing
            case _:
                return False

    async def going_down(self) -> bool:
        return self.shutdown

    async def explain(self, error: BacklineError, step: Step) -> Failure:
        return Failure(error.code, error.message, error.hint, step.unit)

    def applier(self, *, boot: str = "boot-1", tell: Callable[[Record], object] = lambda record: None) -> Applier:
        return Applier(self.history, self, self.observe, boot=boot, settle_seconds=0.01, tell=tell)


def dies(work: Callable[[], None], folder: Path, call: int) -> bool:
    """Run `work` in a process that kills itself just before its `call`-th change of a file; False when it lived."""
    child = os.fork()
    if child == 0:
        left = call

        def before(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def audit(event: str, arguments: tuple[object, ...]) -> None:
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and _below(folder, arguments[0]):
                before()

        fsync = os.fsync

        def counted(descriptor: int) -> None:
            before()
            fsync(descriptor)

        os.fsync = counted  # type: ignore[assignment]
        sys.addaudithook(audit)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the process ended with {status}"
    return status != 0


def _below(folder: Path, path: object) -> bool:
    return isinstance(path, str | Path) and str(path).startswith(str(folder))
