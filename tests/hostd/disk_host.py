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
from services.hostd.history import Failure, History, Record
from services.hostd.planner import Kind, Seen, Step, simulate
from services.hostd.unit_files import UnitFiles


class DiskHost:
    """Implements `applying.Hands`, and observes. `breaks`: a step that fails; `falls`: a unit that falls over."""

    def __init__(self, folder: Path, *, breaks: str = "", falls: str = "") -> None:
        self.folder = folder
        self.state = folder / "systemd.json"
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

    def observe(self, units: Iterable[str]) -> dict[str, Seen]:
        seen = self.seen()
        return {name: seen.get(name, Seen()) for name in {*units, *(n for n, unit in seen.items() if unit.ours)}}

    async def do(self, step: Step) -> None:
        self.hook(step)
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
        else:
            after = simulate(self.seen(), [step])
            if step.unit == self.falls and step.kind is Kind.START:
                after[step.unit] = msgspec.structs.replace(after[step.unit], active="failed")
            self.put(after)

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
