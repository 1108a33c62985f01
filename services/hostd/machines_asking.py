"""How the supervisor has machines changed: it has no right to copy a /var or mount an image, so it asks a unit.

    asks/NAME.json           what is asked for, with an id
    asks/NAME.verdict.json   how it ended, with the same id

`backline-hostd-machine-ask@NAME.service` reads the first, does it with `Machines` as `backline machine` does, waits
until `backline-hostd-machine@NAME.service` has settled the machine, and writes the second. Both files are replaced in
one step. Asking for the same once more gives the same verdict and does nothing twice, also when whoever asked, or the
unit, was killed meanwhile; what is done already is no error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from services.common.codec import decode_json, encode_json
from services.common.errors import BacklineError, BusyError, Exit, HostError, MissingError
from services.common.names import label_problem
from services.hostd import durable
from services.hostd.desired import MachineWish
from services.hostd.history import Failure
from services.hostd.machines import MachineFailed, Machines
from services.hostd.machines_schema import Record
from services.hostd.machines_schema import Step as Stage

UNIT = "backline-hostd-machine-ask@{name}.service"
ASKS = Path("/var/lib/backline-hostd-supervisor/asks")
BUSY_SECONDS = 600.0
"""How long a machine may be settled by somebody else before we are done with waiting."""
_LOOK = 0.5
Verb = Literal["create", "bring-back", "configure", "upgrade", "revert", "start", "stop", "set-aside"]
Wait = Callable[[Machines, str], object]
T = TypeVar("T", bound=msgspec.Struct)


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked for. `wish` for create and configure; `version` for upgrade and revert, empty for any."""

    id: str
    verb: Verb
    wish: MachineWish | None = None
    version: str = ""
    why: str = ""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it ended; no failure means that it is so."""

    id: str
    failure: Failure | None = None


class AskFailed(BacklineError):
    """A verdict that is a failure, with its own code, message and hint."""

    exit = Exit.FAILED


class Asks:
    """The files of what is asked for, below a folder."""

    def __init__(self, folder: Path = ASKS) -> None:
        self.folder = folder

    def put(self, name: str, ask: Ask) -> None:
        """Ask. Raises OSError."""
        durable.write(self._path(name), encode_json(ask), mode=0o600)

    def ask(self, name: str) -> Ask | None:
        """What is asked for, if it can be read."""
        return _read(self._path(name), Ask)

    def verdict(self, name: str) -> Verdict | None:
        """The last verdict, if it can be read."""
        return _read(self.folder / f"{name}.verdict.json", Verdict)

    def close(self, name: str, verdict: Verdict) -> None:
        """Say how it ended. Raises OSError."""
        durable.write(self.folder / f"{name}.verdict.json", encode_json(verdict), mode=0o600)

    def _path(self, name: str) -> Path:
        if problem := label_problem(name):
            raise HostError("machine.name", problem)
        return self.folder / f"{name}.json"


def answer(asks: Asks, machines: Machines, name: str, *, wait: Wait) -> Verdict:
    """Do what is asked for, and write down how it ended. Raises MissingError("machine.asked"), OSError."""
    ask = asks.ask(name)
    if ask is None:
        raise MissingError("machine.asked", f"nothing is asked for about {name}")
    known = asks.verdict(name)
    if known is not None and known.id == ask.id:
        return known
    try:
        do(machines, name, ask, wait=wait)
    except BacklineError as error:
        verdict = Verdict(ask.id, Failure(error.code, error.message, error.hint))
    else:
        verdict = Verdict(ask.id)
    asks.close(name, verdict)
    return verdict


def do(machines: Machines, name: str, ask: Ask, *, wait: Wait) -> None:
    """Do one thing, or see that it is done. Raises BacklineError."""
    end = machines.iron.now() + BUSY_SECONDS
    while True:
        try:
            _BEGIN[ask.verb](machines, name, ask)
            break
        except BusyError as error:  # settled by somebody, as after a start of the iron
            if error.code != "machine.busy" or machines.iron.now() >= end:
                raise
            machines.iron.pause(_LOOK)
    if ask.verb == "set-aside":
        return
    if ask.verb != "bring-back":
        wait(machines, name)
    if ask.verb in ("upgrade", "revert"):
        must_run(machines, name, ask.version)


def must_run(machines: Machines, name: str, version: str) -> None:
    """Raises MachineFailed("machine.reverted") when a change has ended with another version than that."""
    record = machines.records.load(name)
    if not version or record.current.version == version:
        return
    outcome = record.history[-1]
    aside = f"; what it wrote is kept in {machines.records.home(name) / outcome.kept}" if outcome.kept else ""
    raise MachineFailed(
        "machine.reverted",
        f"{name} runs {record.current.version} again: {outcome.detail}",
        hint=f"`backline machine show {name}`{aside}",
    )


def _create(machines: Machines, name: str, ask: Ask) -> None:
    wish = _wish(ask)
    if name in machines.records.names():
        machine = machines.records.load(name).machine
        if (machine.role, machine.network) != (wish.role, wish.network):
            raise BusyError("machine.exists", f"there is a machine {name} already, and it is another one")
        machines.want(name, _word(wish))
        return
    machines.create(
        name,
        wish.role,
        version=wish.version,
        network=list(wish.network),
        resources=wish.resources,
        folders=wish.folders,
        wanted=_word(wish),
    )


def _bring_back(machines: Machines, name: str, ask: Ask) -> None:  # noqa: ARG001
    if name not in machines.records.names():
        machines.bring_back(name)


def _configure(machines: Machines, name: str, ask: Ask) -> None:
    wish = _wish(ask)
    machines.configure(name, network=list(wish.network), resources=wish.resources, folders=wish.folders)


def _upgrade(machines: Machines, name: str, ask: Ask) -> None:
    record = machines.records.load(name)
    if _changes_to(record, ask.version) or (record.change is None and record.current.version == ask.version):
        return
    machines.plan_upgrade(name, ask.version, why=ask.why, start=True)


def _revert(machines: Machines, name: str, ask: Ask) -> None:
    record = machines.records.load(name)
    if not ask.version or record.change is not None or record.current.version != ask.version:
        machines.revert(name, why=ask.why)


def _start(machines: Machines, name: str, ask: Ask) -> None:  # noqa: ARG001
    machines.want(name, "running")


def _stop(machines: Machines, name: str, ask: Ask) -> None:  # noqa: ARG001
    machines.want(name, "stopped")


def _set_aside(machines: Machines, name: str, ask: Ask) -> None:  # noqa: ARG001
    if name in machines.records.names():
        machines.remove(name)


_BEGIN: dict[Verb, Callable[[Machines, str, Ask], None]] = {
    "create": _create,
    "bring-back": _bring_back,
    "configure": _configure,
    "upgrade": _upgrade,
    "revert": _revert,
    "start": _start,
    "stop": _stop,
    "set-aside": _set_aside,
}


def _changes_to(record: Record, version: str) -> bool:
    change = record.change
    return change is not None and change.to.version == version and change.step is not Stage.FAILED


def _wish(ask: Ask) -> MachineWish:
    if ask.wish is None:
        raise HostError("machine.asked", f"{ask.verb} says nothing of what the machine becomes")
    return ask.wish


def _word(wish: MachineWish) -> str:
    return "running" if wish.running else "stopped"


def wait_until_settled(machines: Machines, name: str) -> Record:
    """Wait until the unit that settles a machine has done so. Raises MachineFailed("machine.start")."""
    from services.common.process import run
    from services.hostd.machines_iron import SETTLING

    unit = SETTLING.format(name=name)
    while True:
        # Joins the run that is under way, or begins one: so it is not missed either way.
        done = run(["systemctl", "start", unit], check=False)
        record = machines.records.load(name)
        if done.returncode == 0 and record.change is None:
            return record
        if done.returncode == 0:
            continue
        shown = run(["systemctl", "show", "--property=ActiveState", "--value", unit], check=False).stdout.strip()
        if shown != "activating":  # else it was killed, and is about to be started again
            argv = ["journalctl", "--unit", unit, "--lines=6", "--output=cat", "--no-pager", "--quiet"]
            tail = run(argv, check=False).stdout.strip() or done.stderr.strip()
            raise MachineFailed(
                "machine.start", f"{name} is not as it should be\n{tail}", hint=f"`journalctl -u {unit}` has more"
            )


def _read(path: Path, type: type[T]) -> T | None:
    try:
        return decode_json(path.read_bytes(), type)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
