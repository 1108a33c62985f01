"""Machines on iron: make, start, stop, upgrade, revert. Whoever dies on the way leaves the old state or the new one.

A command writes what is wanted into the machine's record and lets `settle` do it, which a unit runs
(`backline-hostd-machine@NAME.service`): it is started again when it is killed, and with the iron. An upgrade goes

    planned → stopped → copied → tried → committed      or, from any of them, failed → reverted

and each word is on disk before the next thing is done. The new version runs on a copy of /var: the old one's is never
touched, so going back is a record that names it again. The commit (`current` becomes the new version and its /var) is
one replacement of the record; until then the old version is what the iron starts. An upgrade that is found in another
boot of the iron is taken back. What the new version wrote is kept under its name when it is taken back.
"""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec

from services.common.errors import BacklineError, BusyError, Exit, InputError, MissingError, UsageError
from services.hostd import machines_images, machines_render
from services.hostd.durable import synchronise
from services.hostd.machines_images import Images
from services.hostd.machines_iron import Iron, NotReady
from services.hostd.machines_records import Records, make_folder
from services.hostd.machines_schema import (
    Card,
    Change,
    Kept,
    Machine,
    Outcome,
    Record,
    Resources,
    Running,
    Step,
)

logger = logging.getLogger(__name__)

BASE = Path("/var/lib/backline-machines")
CREDENTIALS = Path("/etc/credstore")
GATE_SECONDS = 180.0
SETTLE_SECONDS = 5.0
HISTORY = 50
_LOOK = 0.5
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")
_CREDENTIALS_OF = "backline.machines"
_SHARED = ("backline.hall",)
_change = msgspec.structs.replace


class MachineFailed(BacklineError):
    """A machine did not come up (`machine.start`), or a change of it was taken back (`machine.reverted`)."""

    exit = Exit.FAILED


def _nothing(name: str) -> None:
    """What is called at each step when nobody cares."""


class Machines:
    """The machines of one host."""

    def __init__(
        self,
        iron: Iron,
        *,
        base: Path = BASE,
        credentials: Path = CREDENTIALS,
        step: Callable[[str], None] = _nothing,
    ) -> None:
        """`step` is called with the name of every step before and after it is done; tests die in it."""
        self.iron = iron
        self.records = Records(base)
        self.images = Images(base / "images")
        self.credentials = credentials
        self.step = step

    # What is asked for

    def create(
        self,
        name: str,
        role: str,
        *,
        version: str = "",
        network: list[Card] | None = None,
        resources: Resources | None = None,
        folders: Mapping[str, str] | None = None,
        wanted: str = "running",
    ) -> Record:
        """Make a machine with the image's own /var; `settle` starts it.

        Raises BusyError("machine.exists"), MissingError("machine.version"), InputError("machine.invalid").
        """
        machine = _checked(
            Machine(
                name=name,
                role=role,
                id=uuid.uuid4().hex,
                network=network or [],
                resources=resources or Resources(),
                folders=dict(folders or {}),
            )
        )
        running = Running(version=self.images.find(role, version), var="var-1")
        with self.records.lock_all(wait=True):
            self.records.begin(name)
            self.step("create: begun")
            tree = self._tree(role, running.version)
            for outside in machine.folders.values():
                make_folder(Path(outside))
            self.records.new_var(name, running.var, source=tree / "var", image=tree / "var")
            self.step("create: copied")
            outcome = Outcome(at=_now(), kind="created", version=running.version)
            record = Record(machine=machine, current=running, history=[outcome])
            if wanted == "stopped":
                record = _change(record, wanted="stopped")
            with self.records.lock(name):
                self._ask(record)
            self.step("create: made")
        return record

    def want(self, name: str, wanted: str) -> Record:
        """Write down that a machine is to run, or not. Raises BusyError("machine.changing")."""
        with self.records.lock(name):
            record = self._unchanging(name)
            if wanted == "running":
                self.images.find(record.machine.role, record.current.version)
            record = _change(record, wanted="running" if wanted == "running" else "stopped")
            self._ask(record)
        return record

    def plan_upgrade(
        self,
        name: str,
        version: str = "",
        *,
        why: str = "",
        gate_seconds: float = GATE_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        start: bool = False,
    ) -> Record:
        """Write down an upgrade; with `start` a stopped machine runs from then on.

        Raises BusyError("machine.changing"), MissingError("machine.version"), HostError("machine.space"), UsageError.
        """
        with self.records.lock(name):
            record = self._unchanging(name)
            to = self.images.find(record.machine.role, version)
            if to == record.current.version:
                raise UsageError("machine.same", f"{name} runs {to} already")
            if record.wanted != "running" and not start:
                raise UsageError(
                    "machine.stopped",
                    f"{name} is stopped: nobody could see whether the new version works",
                    hint=f"`backline machine start {name}` first",
                )
            self.records.check_room(name, record.current.var)
            change = Change(
                to=Running(version=to, var=self.records.next_var(name)),
                boot=self.iron.boot(),
                gate_seconds=gate_seconds,
                settle_seconds=settle_seconds,
                why=why,
            )
            record = _change(record, change=change, wanted="running")
            self._ask(record)
        return record

    def configure(self, name: str, *, network: list[Card], resources: Resources, folders: Mapping[str, str]) -> Record:
        """Give a machine other cards, limits and persistent folders.

        Limits alone hold at once; for the rest `settle` starts it anew if it runs. Raises
        BusyError("machine.changing"), InputError("machine.invalid").
        """
        with self.records.lock(name):
            record = self._unchanging(name)
            machine = _checked(_change(record.machine, network=network, resources=resources, folders=dict(folders)))
            for outside in machine.folders.values():
                make_folder(Path(outside))
            record = _change(record, machine=machine)
            self._ask(record)
        return record

    def bring_back(self, name: str) -> Record:
        """Make a machine that was set aside one again, with all that it had; it is stopped.

        Raises BusyError("machine.exists"), MissingError("machine.unknown").
        """
        with self.records.lock_all(wait=True):
            if name in self.records.names():
                raise BusyError("machine.exists", f"there is a machine {name} already")
            found = self.records.aside().get(name)
            if found is None:
                raise MissingError("machine.unknown", f"no machine {name} was set aside")
            self.step("bring back: begun")
            self.records.take_back(name, found[0])
            self.step("bring back: done")
        return self.records.load(name)

    def revert(self, name: str, *, why: str = "") -> Record:
        """Back to the version before, with its /var as it was then, or on today's when it declares that it runs on it.

        One replacement of the record; `settle` brings the machine in line with it. During an upgrade, it is that which
        is taken back. Raises MissingError("machine.previous").
        """
        self.records.load(name)
        self.iron.rest(name)
        with self.records.lock(name):
            record = self.records.load(name)
            if record.change is not None:
                failure = record.change.failure or why or "taken back"
                record = _change(record, change=_change(record.change, step=Step.FAILED, failure=failure))
                self._ask(record)
                return record
            if record.previous is None:
                raise MissingError("machine.previous", f"there is no version that {name} could go back to")
            previous = record.previous
            self.images.find(record.machine.role, previous.version)
            if self._declares(record.machine.role, old=previous.version, new=record.current.version):
                to, aside = _change(previous, var=record.current.var), previous.var
                what = f"as it was before {record.current.version}"
            else:
                to, aside = previous, record.current.var
                what = f"what {record.current.version} wrote until it was taken back"
            # The running machine writes on into its own folder until it is stopped: the record only says what is next.
            kept = Kept(var=aside, version=record.current.version, since=_now(), why=what)
            if aside == previous.var:
                kept = _change(kept, version=previous.version)
            record = _ended(record, to, "reverted", why or "asked for", kept=kept)
            self.step("revert: planned")
            self._ask(record)
            self.step("revert: switched")
        return record

    def remove(self, name: str) -> Path:
        """Take a stopped machine away; its folders are set aside, and where is returned.

        Raises BusyError("machine.running").
        """
        with self.records.lock(name):
            record = self._unchanging(name)
            if record.wanted == "running" or self.iron.state(name) not in ("inactive", "failed"):
                raise BusyError("machine.running", f"{name} runs", hint=f"`backline machine stop {name}` first")
            self.iron.clear(machines_render.own(name))
            place = self.records.put_away(name)
        self._release_unused()
        return place

    def forget(self, name: str, var: str) -> Record:
        """Throw away a kept /var. Raises MissingError("machine.kept")."""
        with self.records.lock(name):
            record = self.records.load(name)
            if var not in [kept.var for kept in record.kept]:
                names = ", ".join(kept.var for kept in record.kept) or "nothing"
                raise MissingError("machine.kept", f"{name} has kept no {var}", hint=f"kept: {names}")
            record = _change(record, kept=[kept for kept in record.kept if kept.var != var])
            self.records.save(record)
            self.records.tidy(record)
        return record

    def add_credential(self, name: str, credential: str, data: bytes) -> Path:
        """Give a machine a secret of its own from its next start on. Raises UsageError("machine.credential")."""
        if not _CREDENTIAL.fullmatch(credential):
            raise UsageError(
                "machine.credential", f"{credential!r} is no name of a credential", hint="as in backline.tls"
            )
        folder = self.credentials / _CREDENTIALS_OF / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = folder / f".{credential}.new"
        aside.unlink(missing_ok=True)
        with aside.open("xb") as file:
            aside.chmod(0o600)
            file.write(data)
        aside.rename(folder / credential)
        synchronise(folder)
        return folder / credential

    # What is done

    def settle(self, name: str) -> Record:
        """Do what the record says, to its end: a change, and then running or stopped.

        To be called as often as one likes; raises MachineFailed when the machine that should run is not well.
        """
        with self.records.lock(name, wait=True):
            record = self.records.load(name)
            while record.change is not None:
                record = self._forward(record, record.change)
            self._bring_in_line(record)
            self.records.tidy(record)
            self.records.hold_reserve()
        self._release_unused()
        return record

    def _forward(self, record: Record, change: Change) -> Record:
        """One step of an upgrade."""
        name = record.machine.name
        if change.boot != self.iron.boot() and change.step is not Step.FAILED:
            return self._failed(record, change, "the iron was started again before the new version was committed")
        try:
            match change.step:
                case Step.PLANNED:
                    # Copies of it are elsewhere, where /var is not. It is no reason not to upgrade.
                    if (problem := self.iron.save(name)) is not None:
                        logger.warning("%s has not saved its state before its upgrade: %s", name, problem)
                    self.step("stop: begun")
                    self.iron.stop(name)
                    self.step("stop: done")
                    return self._save(record, _change(change, step=Step.STOPPED))
                case Step.STOPPED:
                    self.step("copy: begun")
                    tree = self._tree(record.machine.role, change.to.version)
                    source = self.records.home(name) / record.current.var
                    self.records.new_var(name, change.to.var, source=source, image=tree / "var")
                    self.step("copy: done")
                    return self._save(record, _change(change, step=Step.COPIED))
                case Step.COPIED:
                    deadline = self.iron.now() + change.gate_seconds
                    return self._save(record, _change(change, step=Step.TRIED, deadline=deadline))
                case Step.TRIED:
                    self._try(record, change)
                    return self._commit(record, change)
                case Step.FAILED:
                    return self._back(record, change)
        except (NotReady, BacklineError) as error:
            if change.step is Step.FAILED:
                raise
            return self._failed(record, change, str(error))

    def _try(self, record: Record, change: Change) -> None:
        """Start the new version and watch it. Raises NotReady."""
        name = record.machine.name
        self._place(record)
        self.step("start: begun")
        self.iron.start(name, deadline=change.deadline)
        self.step("start: done")
        self._watch(name, change.settle_seconds)
        self.step("gate: passed")

    def _watch(self, name: str, seconds: float) -> None:
        """No unit fails for that long. Raises NotReady."""
        end = self.iron.now() + seconds
        while True:
            if failed := self.iron.failed_units(name):
                raise NotReady("units failed: " + ", ".join(failed))
            if self.iron.now() >= end:
                return
            self.iron.pause(_LOOK)

    def _commit(self, record: Record, change: Change) -> Record:
        ended = _ended(record, change.to, "upgraded", change.why, previous=record.current)
        self.records.save(ended)
        self.step("commit: done")
        return ended

    def _failed(self, record: Record, change: Change, failure: str) -> Record:
        return self._save(record, _change(change, step=Step.FAILED, failure=failure))

    def _back(self, record: Record, change: Change) -> Record:
        """Stop whatever runs; the record then names the old version alone."""
        name = record.machine.name
        self.step("back: begun")
        self.iron.stop(name)
        self.step("back: stopped")
        # Nobody has run on a copy that the gate was never opened for.
        started = change.deadline > 0 and (self.records.home(name) / change.to.var).exists()
        kept = None
        if started:
            text = f"what {change.to.version} wrote until it was taken back"
            kept = Kept(var=change.to.var, version=change.to.version, since=_now(), why=text)
        ended = _ended(record, record.current, "reverted", change.failure, previous=record.previous, kept=kept)
        self.records.save(ended)
        self.step("back: done")
        return ended

    def _bring_in_line(self, record: Record) -> None:
        """What runs is what the record says. Raises MachineFailed("machine.start")."""
        name = record.machine.name
        if record.wanted == "stopped":
            self.iron.stop(name)
            self.iron.clear(machines_render.own(name))
            return
        self._place(record)
        self.step("line: placed")
        try:
            self.iron.start(name, deadline=self.iron.now() + GATE_SECONDS)
        except NotReady as error:
            raise MachineFailed("machine.start", f"{name} does not run: {error}") from error
        self.step("line: started")

    # What there is

    def _place(self, record: Record) -> None:
        """Make the files of what has to run; nothing runs meanwhile that was started from other ones."""
        files = self._files(record)
        if self.iron.placed(files):
            return
        limits = machines_render.limits(record.machine.name)
        rest = {path: text for path, text in files.items() if path != limits}
        if self.iron.placed(rest) or self._runs_by_another_hostd(record):
            self.iron.place({limits: files[limits]})
            self.iron.reload()
            return
        self.step("place: begun")
        self.iron.stop(record.machine.name)
        self.step("place: stopped")
        self.iron.place(files)

    def _runs_by_another_hostd(self, record: Record) -> bool:
        """Whether it runs what its record says, from files that an older or newer hostd has written otherwise.

        It need not be stopped for that: its next start is from ours.
        """
        name = record.machine.name
        _, drop_in, _ = machines_render.own(name)
        made_for = machines_render.stamp(record.machine, record.running, self._places(record))
        return self.iron.state(name) == "active" and made_for in (self.iron.read(drop_in) or "")

    def _ask(self, record: Record) -> None:
        """Write a record that wants something done. Who does it is woken first, and waits for the lock that we hold: so
        nothing is left undone when we die in between."""
        self.iron.wake(record.machine.name)
        self.step("ask: woken")
        self.records.save(record)

    def _files(self, record: Record) -> dict[str, str]:
        return machines_render.files(record.machine, record.running, self._places(record))

    def _places(self, record: Record) -> machines_render.Places:
        machine = record.machine
        own = self.credentials / _CREDENTIALS_OF / machine.name
        found = {name: self.credentials / name for name in _SHARED if (self.credentials / name).is_file()}
        if own.is_dir():
            found |= {path.name: path for path in own.iterdir() if path.is_file() and not path.name.startswith(".")}
        return machines_render.Places(
            images=PurePosixPath(self.images.base),
            home=PurePosixPath(self.records.home(machine.name)),
            credentials={name: PurePosixPath(path) for name, path in found.items()},
        )

    def _tree(self, role: str, version: str) -> Path:
        self.iron.place(machines_render.mount(role, version, PurePosixPath(self.images.base)))
        return self.iron.tree(role, version)

    def _declares(self, role: str, *, old: str, new: str) -> bool:
        before, after = (machines_images.schema(self._tree(role, version)) for version in (old, new))
        return machines_images.runs_on_newer(before, after)

    def used(self) -> set[tuple[str, str]]:
        """Versions that a machine runs or can go back to."""
        return {used for name in self.records.names() for used in _uses(self.records.load(name))}

    def _release_unused(self) -> None:
        """Unmount trees that no machine runs or can go back to; the next one does it when somebody is at it."""
        with contextlib.suppress(BusyError), self.records.lock_all():
            used = self.used()
            for role in self.images.roles():
                for version in self.images.versions(role):
                    if (role, version) not in used:
                        self.iron.release(role, version)

    def drop_image(self, role: str, version: str) -> None:
        """Remove a version that no machine runs or can go back to. Raises BusyError("machine.used")."""
        with self.records.lock_all(wait=True):
            users = [name for name in self.records.names() if (role, version) in _uses(self.records.load(name))]
            if users:
                raise BusyError("machine.used", f"{role} {version} is what {', '.join(users)} runs or can go back to")
            self.images.drop(role, version)

    def _unchanging(self, name: str) -> Record:
        record = self.records.load(name)
        if record.change is not None:
            raise BusyError(
                "machine.changing",
                f"{name} is being upgraded to {record.change.to.version} ({record.change.step.value})",
                hint=f"`backline machine revert {name}` takes it back",
            )
        return record

    def _save(self, record: Record, change: Change) -> Record:
        record = _change(record, change=change)
        self.step(f"{change.step.value}: not yet")
        self.records.save(record)
        self.step(f"{change.step.value}: recorded")
        return record


def _checked(machine: Machine) -> Machine:
    """The same one, if there can be such a machine. Raises InputError("machine.invalid")."""
    try:
        return msgspec.convert(msgspec.to_builtins(machine), Machine)
    except msgspec.ValidationError as error:
        raise InputError("machine.invalid", f"no machine can be like this: {error}") from error


def _uses(record: Record) -> set[tuple[str, str]]:
    runs = [record.current, record.previous, record.change.to if record.change else None]
    return {(record.machine.role, each.version) for each in runs if each is not None}


def _ended(
    record: Record,
    current: Running,
    kind: str,
    detail: str,
    *,
    previous: Running | None = None,
    kept: Kept | None = None,
) -> Record:
    """The record after a change."""
    outcome = Outcome(
        at=_now(),
        kind="upgraded" if kind == "upgraded" else "reverted",
        version=current.version,
        before=(record.change.to.version if record.change and kind == "reverted" else record.current.version),
        detail=detail,
        kept=kept.var if kept else "",
    )
    return _change(
        record,
        current=current,
        previous=previous,
        change=None,
        kept=[*record.kept, *([kept] if kept else [])],
        history=[*record.history, outcome][-HISTORY:],
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
