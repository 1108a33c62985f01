"""mdb's queries and rules; no HTTP. One transaction a call: all of its changes, their audit and their feed, or nothing.

Writers come one after the other: each takes the feed's counter first, so what a writer read stays true until it
commits, on both databases. Every refusal is one of the house's errors; those of machines are in `edits`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.common.database import Database, violated
from services.common.errors import BacklineError, BusyError, HostError, InputError, MissingError
from services.common.feed.wire import Item
from services.common.tables import Row
from services.mdb import history, importing, pools, registration, seeds, switches, variables
from services.mdb.edits import Create, Delete, Edit, Step, Update, Work
from services.mdb.history import MACHINES, SETTINGS, SWITCHES, TOPICS
from services.mdb.models import outbox
from services.mdb.rows import addresses, find, load, record
from services.mdb.schema import (
    Actor,
    AuditEntry,
    Code,
    Imported,
    Machine,
    MachinePatch,
    MachineType,
    NewMachine,
    NewSwitch,
    Pool,
    Registration,
    Scalar,
    Seed,
    Switch,
    SwitchPatch,
    Variable,
)
from services.mdb.writing import write

__all__ = ["MACHINES", "TOPICS", "Create", "Delete", "Edit", "Store", "Update", "record"]

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BY_HALL = Actor("hall.toml", "local")
_CLOCK: Callable[[], float] = time.time


class Store:
    """mdb's database. `bounds` are the pools by type; a type without one takes written addresses only."""

    def __init__(
        self,
        database: Database,
        bounds: Mapping[MachineType, pools.Bounds],
        *,
        seeds: Sequence[Seed] = (),
        clock: Callable[[], float] = _CLOCK,
    ) -> None:
        self.database = database
        self.bounds = bounds
        self.seeds = {seed.hostname: seed for seed in seeds}
        self._clock = clock
        self._undeclared: BacklineError | None = None

    def prepare(self) -> None:
        """Make or move on the schema, and have what hall.toml declares; called once, before anything else.

        What hall.toml declares and mdb cannot have keeps nobody from using the rest: `declared` tells of it.
        """
        self.database.migrate(MIGRATIONS)
        with self.database.write() as session:
            outbox.begin(session)
            variables.begin(session, self._clock())
        try:
            with self._writing() as session:
                outbox.lock(session)
                edits = seeds.plan(list(self.seeds.values()), load(session, None).values())
                self._edit(session, BY_HALL, edits)
            self._undeclared = None
        except (InputError, BusyError) as error:
            logger.error("the machines of hall.toml are not all here: %s", error)
            self._undeclared = error

    async def declared(self) -> None:
        """A check for /healthz. Raises HostError("ready.seeds") while what hall.toml declares is not all here."""
        if self._undeclared is not None:
            raise HostError("ready.seeds", f"the machines of hall.toml are not all here: {self._undeclared}")

    # Reading

    def machines(self, ids: Collection[int] | None = None) -> list[Machine]:
        """Machines in the order of their host names; all of them without `ids`."""
        with self.database.read() as session:
            return sorted(load(session, ids).values(), key=lambda machine: machine.hostname)

    def machine(self, name: int | str) -> Machine:
        """By id, or by exact host name, alias, MAC or address. Raises MissingError("machine.unknown")."""
        with self.database.read() as session:
            found = find(session, name)
            if found is None:
                raise MissingError("machine.unknown", f"there is no machine {name}")
            return load(session, [found])[found]

    def pools(self) -> list[Pool]:
        """How full each pool is."""
        now = self._clock()
        with self.database.read() as session:
            return [
                Pool(
                    type=type,
                    first=bounds.span.first,
                    last=bounds.span.last,
                    excluded=[str(span) for span in bounds.excluded],
                    size=level.size,
                    used=level.used,
                    resting=level.resting,
                    free=level.free,
                )
                for type, bounds in self.bounds.items()
                for level in [pools.level(bounds, *addresses(session), now=now)]
            ]

    def switches(self) -> list[Switch]:
        """Switches in the order of their names."""
        with self.database.read() as session:
            return switches.load(session)

    def switch(self, id: int) -> Switch:
        """One by its id. Raises MissingError("switch.unknown")."""
        with self.database.read() as session:
            return switches.find(session, id)

    def settings(self) -> list[Variable]:
        """What is changed while the hall runs, each with its type, default and meaning."""
        with self.database.read() as session:
            return variables.listed(session)

    def audit(
        self, *, topic: str | None = None, key: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """The newest changes first: of a topic, of one record by its key, older than entry `before`."""
        with self.database.read() as session:
            return list(history.read(session, topic=topic, key=key, before=before, limit=limit))

    # Writing

    def create(self, actor: Actor, machine: NewMachine) -> Machine:
        """Add a machine. Raises as `edit`."""
        (made,) = self.edit(actor, [Create(machine)])
        assert made is not None
        return made

    def update(self, actor: Actor, id: int, patch: MachinePatch, *, match: int | None = None) -> Machine:
        """Change a machine. Raises as `edit`."""
        (changed,) = self.edit(actor, [Update(id, patch, match)])
        assert changed is not None
        return changed

    def delete(self, actor: Actor, id: int, *, match: int | None = None) -> None:
        """Remove a machine; its address rests. Raises as `edit`."""
        self.edit(actor, [Delete(id, match)])

    def edit(self, actor: Actor, edits: Sequence[Edit], *, dry: bool = False) -> list[Machine | None]:
        """Do all of `edits`, in order, or none. Returns each machine afterwards, None for one removed.

        What counts is the end: two machines may swap names, MACs or addresses. With `dry` nothing is kept, and machines
        to be made have id 0. Raises InputError (`machine.*`, `pool.*`), BusyError (`conflict.*`, `pool.exhausted`),
        MissingError("machine.unknown"); `where` says which edit it was, when there are several.
        """
        with self._writing() as session:
            return [step.after for step in self._edit(session, actor, edits, dry=dry)]

    def take(self, actor: Actor, rows: Sequence[Row], *, dry: bool = False) -> Imported:
        """Import rows, all of them or none, and tell what each did; with `dry` nothing is kept.

        Raises as `edit`, and InputError("import.*"); `where` is the line of the row.
        """
        with self._writing() as session:
            outbox.lock(session)
            planned = importing.plan(rows, load(session, None).values())
            edits, places = [each.edit for each in planned], [each.row.place() for each in planned]
            steps = self._edit(session, actor, edits, dry=dry, places=places)
        return importing.told(planned, steps, dry=dry)

    def register(self, asked: Registration) -> Machine:
        """A machine registers itself, or again with a code. Raises as `edit`, and InputError("register.*")."""
        with self._writing() as session:
            outbox.lock(session)
            edit, actor = registration.plan(session, asked, self._clock())
            (step,) = self._edit(session, actor, [edit])
        assert step.after is not None
        return step.after

    def make_code(self, actor: Actor, id: int) -> Code:
        """A one-time code with which machine `id` registers again. Raises MissingError("machine.unknown")."""
        with self._writing() as session:
            return registration.make_code(session, actor, id, self._clock())

    def create_switch(self, actor: Actor, switch: NewSwitch) -> Switch:
        """Add a switch. Raises InputError("switch.*"), BusyError("conflict.*")."""
        with self._writing() as session:
            return switches.create(session, actor, switch, self._clock())

    def update_switch(self, actor: Actor, id: int, patch: SwitchPatch, *, match: int | None = None) -> Switch:
        """Change a switch. Raises as `create_switch`, and MissingError("switch.unknown")."""
        with self._writing() as session:
            return switches.change(session, actor, id, patch, match, self._clock())

    def delete_switch(self, actor: Actor, id: int, *, match: int | None = None) -> None:
        """Remove a switch. Raises MissingError("switch.unknown"), BusyError("conflict.changed")."""
        with self._writing() as session:
            switches.remove(session, actor, id, match, self._clock())

    def set(self, actor: Actor, key: str, value: Scalar) -> Variable:
        """Change a setting. Raises MissingError("setting.unknown"), InputError("setting.value")."""
        with self._writing() as session:
            variables.change(session, actor, key, value, self._clock())
            return next(each for each in variables.listed(session) if each.key == key)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction; a rule of the database that nobody foresaw is an error like others, and nothing is kept."""
        try:
            with self.database.write() as session:
                yield session
        except IntegrityError as error:
            raise BusyError("conflict.rule", f"the database refuses it: {violated(error)}") from error

    def _edit(
        self,
        session: Session,
        actor: Actor,
        edits: Sequence[Edit],
        *,
        dry: bool = False,
        places: Sequence[str] = (),
    ) -> list[Step]:
        """The edits of machines of a transaction; hall.toml may do anything."""
        revision, now = outbox.lock(session), self._clock()
        by_hall = actor is BY_HALL
        work = Work(session, self.bounds, now, revision, edits, seeds=self.seeds, by_hall=by_hall, places=places)
        steps = work.settle()
        if not dry:
            write(session, actor, steps, now)
        return steps

    # The feed

    def source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        """Every record of the feed (`services.common.feed.server.Source`)."""
        if MACHINES in topics:
            for machine in load(session, None).values():
                yield Item(MACHINES, str(machine.id), record(machine))
        if SWITCHES in topics:
            for switch in switches.load(session):
                yield Item(SWITCHES, str(switch.id), switches.record(switch))
        if SETTINGS in topics:
            for each in variables.listed(session):
                yield Item(SETTINGS, each.key, variables.record(each.key, each.value))
