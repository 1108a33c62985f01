"""udb's queries and rules; no HTTP. One transaction a call: all of its changes, their audit and their feed, or nothing.

Every call says who is asking (`services.udb.eyes`), and gives and takes what they may see: users of other groups are
as if they were not there. Writers come one after the other: each takes the feed's counter first, so what a writer read
stays true until it commits, on both databases. Every refusal is one of the house's errors; those of users are in
`edits`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.common.changes import Action, AuditEntry
from services.common.database import Database, violated
from services.common.errors import BusyError, HostError, MissingError
from services.common.feed.wire import Item
from services.common.history import Changed
from services.common.users import LOGIN, UID_POOLS
from services.common.yescrypt import hash_password
from services.udb import announcing, history
from services.udb.edits import (
    Create,
    Delete,
    Edit,
    Step,
    Update,
    Work,
    place_of,
    same_password,
    system_login,
    wanted_password,
)
from services.udb.eyes import Person
from services.udb.history import MESSAGE, SHOWINGS, USERS, Seen
from services.udb.importing import Planned
from services.udb.models import UserRow, outbox
from services.udb.rows import Account, load, public
from services.udb.schema import Imported, Message, NewUser, Pool, Shown, Taken, User, UserPatch
from services.udb.sealing import Seal
from services.udb.writing import of_step, write

__all__ = ["USERS", "Create", "Delete", "Edit", "Store", "Update"]

_LOGIN = re.compile(LOGIN)
MIGRATIONS = Path(__file__).parent / "migrations"
_CLOCK: Callable[[], float] = time.time
_SEVERAL = 8  # so many passwords are worth threads
_THREADS = 8  # 16 MB each, and the unit has a limit of tasks


class Store:
    """udb's database. Without `seal` it keeps no passwords; `foreign` says which logins the host has for itself."""

    def __init__(
        self,
        database: Database,
        seal: Seal | None,
        *,
        clock: Callable[[], float] = _CLOCK,
        foreign: Callable[[str], bool] = system_login,
    ) -> None:
        self.database = database
        self.seal = seal
        self._clock = clock
        self.foreign = foreign

    def prepare(self) -> None:
        """Make or move on the schema; called once, before anything else."""
        self.database.migrate(MIGRATIONS)
        with self.database.write() as session:
            outbox.begin(session)

    async def sealed(self) -> None:
        """A check for /healthz. Raises HostError("ready.key") while there is no key for passwords."""
        if self.seal is None:
            raise HostError("ready.key", "there is no key to seal passwords with: backline-udb-key.service makes one")

    # Reading

    def users(self, person: Person, ids: Collection[int] | None = None) -> list[User]:
        """Users in the order of their logins; all that `person` sees without `ids`."""
        with self.database.read() as session:
            found = load(session, ids, person.reads)
        return sorted((account.user for account in found.values()), key=lambda user: user.login)

    def user(self, person: Person, name: int | str) -> User:
        """By id, or by exact login. Raises MissingError("user.unknown")."""
        with self.database.read() as session:
            return self._find(session, person, name).user

    def pools(self, person: Person) -> list[Pool]:
        """How full the pools of uids are."""
        used = select(UserRow.group, func.count()).group_by(UserRow.group)
        with self.database.read() as session:
            counts = {row[0]: row[1] for row in session.execute(used)}
        return [
            Pool(
                group=group,
                first=pool.first,
                last=pool.last,
                used=counts.get(group.value, 0),
                free=len(pool) - counts.get(group.value, 0),
            )
            for group, pool in UID_POOLS.items()
            if group in person.reads
        ]

    def audit(
        self,
        person: Person,
        *,
        topic: str | None = None,
        key: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[AuditEntry]:
        """The newest entries first: of a topic, of one user, older than entry `before`."""
        with self.database.read() as session:
            return list(history.read(session, person.reads, topic=topic, key=key, before=before, limit=limit))

    def _find(self, session: Session, person: Person, name: int | str) -> Account:
        if isinstance(name, int):
            id = session.scalar(select(UserRow.id).where(UserRow.id == name))
        elif _LOGIN.fullmatch(name.lower()):
            id = session.scalar(select(UserRow.id).where(UserRow.login == name.lower()))
        else:
            id = None
        found = {} if id is None else load(session, [id], person.reads)
        if id is None or id not in found:
            raise MissingError("user.unknown", f"there is no user {name}")
        return found[id]

    # Passwords

    def show(self, person: Person, ids: Sequence[int], *, how: str = "alone") -> list[Shown]:
        """The passwords of some users, in that order. That they were shown is in the history before anybody sees them.

        Raises MissingError("user.unknown"), IntegrityError("udb.sealed"), HostError("udb.key").
        """
        with self._writing() as session:
            outbox.lock(session)
            found = load(session, ids, person.reads)
            if absent := [id for id in ids if id not in found]:
                raise MissingError("user.unknown", f"there is no user {absent[0]}")
            accounts = [found[id] for id in dict.fromkeys(ids)]
            shown = [self._shown(account) for account in accounts]
            seen = [
                Seen(Changed(SHOWINGS, str(user.id), user.login, None, {"how": how}), user.group)
                for user in (account.user for account in accounts if account.sealed is not None)
            ]
            history.log(session, person.actor, seen, self._clock())
        return shown

    def _shown(self, account: Account) -> Shown:
        user, password = account.user, None
        if account.sealed is not None:
            if self.seal is None:
                raise HostError("udb.key", "there is no key to open passwords with: backline-udb-key.service makes one")
            password = self.seal.open(account.sealed, user=user.id)
        return Shown(id=user.id, login=user.login, firstname=user.firstname, lastname=user.lastname, password=password)

    # Writing

    def create(self, person: Person, user: NewUser) -> User:
        """Add a user. Raises as `edit`."""
        (made,) = self.edit(person, [Create(user)])
        assert made is not None
        return made

    def update(self, person: Person, id: int, patch: UserPatch, *, match: int | None = None) -> User:
        """Change a user. Raises as `edit`."""
        (changed,) = self.edit(person, [Update(id, patch, match)])
        assert changed is not None
        return changed

    def delete(self, person: Person, id: int, *, match: int | None = None) -> None:
        """Remove a user. Raises as `edit`."""
        self.edit(person, [Delete(id, match)])

    def edit(self, person: Person, edits: Sequence[Edit], *, dry: bool = False) -> list[User | None]:
        """Do all of `edits`, in order, or none. Returns each user afterwards, None for one removed.

        What counts is the end: two users may swap logins or uids. With `dry` nothing is kept. Raises AccessError
        ("auth.denied"), InputError (`user.*`, `password.*`), BusyError (`conflict.*`, `pool.exhausted`),
        MissingError("user.unknown"), HostError("udb.key"); `where` says which edit it was, when there are several.
        """
        return [step.after.user if step.after else None for step in self._edit(person, edits, dry=dry)]

    def take(self, person: Person, plan: Callable[[list[User]], list[Planned]], *, dry: bool = False) -> Imported:
        """Import what `plan` makes of the users who are there, all of it or nothing, and tell what each line did.

        Raises as `edit`, and InputError("import.*"); `where` is the line.
        """
        person.check_writes()
        planned = plan(self.users(person))
        places = [each.place() for each in planned]
        return told(planned, self._edit(person, [each.edit for each in planned], dry=dry, places=places), dry=dry)

    def _edit(self, person: Person, edits: Sequence[Edit], *, dry: bool, places: Sequence[str] = ()) -> list[Step]:
        person.check_writes()
        wanted = {}
        for number, edit in enumerate(edits):
            password = wanted_password(edit, where=place_of(number, edits, places))
            if password is not None:
                wanted[number] = password
        hashes = {} if dry else self._hashes(person, edits, wanted)
        with self._writing() as session:
            revision, now = outbox.lock(session), self._clock()
            work = Work(
                session,
                person,
                now,
                revision,
                edits,
                seal=self.seal,
                wanted=wanted,
                hashes=hashes,
                dry=dry,
                places=places,
                foreign=self.foreign,
            )
            steps = work.settle()
            if not dry:
                write(session, person.actor, steps, work.counters, now)
        return steps

    def _hashes(self, person: Person, edits: Sequence[Edit], wanted: Mapping[int, str]) -> dict[int, str]:
        """The hashes of new passwords, made before the transaction: no other writer waits for them.

        A password that somebody has already keeps its hash.
        """
        if not wanted or self.seal is None:
            return {}
        ids = {number: edit.id for number in wanted if isinstance(edit := edits[number], Update)}
        with self.database.read() as session:
            known = load(session, set(ids.values()), person.reads)
        new = [
            number
            for number, password in wanted.items()
            if not same_password(self.seal, known.get(ids.get(number, -1)), password)
        ]
        if len(new) < _SEVERAL:
            return {number: hash_password(wanted[number]) for number in new}
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            return dict(zip(new, pool.map(hash_password, (wanted[number] for number in new)), strict=True))

    # The message of the day

    def message(self, person: Person) -> Message:
        """What seats show to who has not logged in yet. Raises AccessError("auth.denied")."""
        person.check_announces()
        with self.database.read() as session:
            return announcing.load(session)

    def announce(self, person: Person, text: str) -> Message:
        """Say another one; an empty text takes it away. Raises AccessError, InputError("message.long")."""
        person.check_announces()
        text = announcing.wanted(text)
        with self._writing() as session:
            outbox.lock(session)
            return announcing.write(session, person.actor, text, self._clock())

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction; a rule of the database that nobody foresaw is an error like others, and nothing is kept."""
        try:
            with self.database.write() as session:
                yield session
        except IntegrityError as error:
            raise BusyError("conflict.rule", f"the database refuses it: {violated(error)}") from error

    # The feeds

    def source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        """Every record of the public feed (`services.common.feed.server.Source`)."""
        return (Item(item.topic, item.key, public(item.record)) for item in self.private_source(session, topics))

    def private_source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        """Every record of the private feed."""
        if USERS in topics:
            for account in load(session, None).values():
                yield Item(USERS, str(account.user.id), account.private())
        if MESSAGE in topics and (said := announcing.record(announcing.load(session))) is not None:
            yield Item(MESSAGE, announcing.KEY, said)


def told(planned: Sequence[Planned], steps: Sequence[Step], *, dry: bool) -> Imported:
    """What the lines of an import did."""
    changes = [
        Taken(
            line=each.line,
            id=step.after.user.id,
            login=step.after.user.login,
            name=step.after.user.name,
            action=Action(change.kind.value),
            before=before,
            after=after,
        )
        for each, step in zip(planned, steps, strict=True)
        if step.after is not None and step.after is not step.before
        for change in [of_step(step).change]
        for before, after in [change.differences()]
    ]
    created = sum(change.action is Action.CREATED for change in changes)
    updated = len(changes) - created
    return Imported(created=created, updated=updated, unchanged=len(planned) - len(changes), changes=changes, dry=dry)
