"""What a call edits, and what becomes of it: the rules of users. Reads the database, writes nothing.

What counts is the end: two users may swap logins or uids. Every refusal is one of the house's errors: `user.*` and
`password.*` for what a record cannot be, `conflict.*` for what another record has already, `pool.*` for uids.
"""

from __future__ import annotations

import pwd
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common.errors import BusyError, HostError, InputError, IntegrityError, MissingError
from services.common.ssh_keys import check_ssh_key
from services.common.users import SHELLS, UID_POOLS, UserGroup, login_problem, uid_problem, unix_name_problem
from services.common.yescrypt import hash_password
from services.udb import passwords
from services.udb.eyes import Person
from services.udb.models import UserRow
from services.udb.pools import Allocator
from services.udb.rows import Account, chunks, counters, load
from services.udb.schema import NewUser, User, UserPatch
from services.udb.sealing import Seal

_IDS = "id"
_PLAIN = ("login", "firstname", "lastname", "group", "shell", "keys", "site_id")


@dataclass(frozen=True)
class Create:
    """Make a user."""

    user: NewUser


@dataclass(frozen=True)
class Update:
    """Change a user; with `match`, only while its revision is that one."""

    id: int
    patch: UserPatch
    match: int | None = None


@dataclass(frozen=True)
class Delete:
    """Remove a user; with `match`, only while its revision is that one."""

    id: int
    match: int | None = None


Edit = Create | Update | Delete


@dataclass
class Step:
    """One edit while it is worked out: the user before and after (None: does not exist)."""

    number: int
    before: Account | None
    after: Account | None


def system_login(login: str) -> bool:
    """Whether this host has a user of that name who is not one of udb's."""
    try:
        uid = pwd.getpwnam(login).pw_uid
    except KeyError:
        return False
    return not any(uid in pool for pool in UID_POOLS.values())


def wanted_password(edit: Edit, *, where: str | None = None) -> str | None:
    """The password that an edit sets, made now where one is to be made; None where it sets none.

    Raises InputError("password.form").
    """
    if isinstance(edit, Delete):
        return None
    said: NewUser | UserPatch = edit.user if isinstance(edit, Create) else edit.patch
    if said.generate:
        if isinstance(said.password, str):
            raise InputError("password.form", "either a password, or have one made; not both", where=where)
        return passwords.generate()
    if not isinstance(said.password, str):
        return None
    if problem := passwords.problem(said.password):
        raise InputError("password.form", problem, where=where)
    return said.password


def same_password(seal: Seal | None, account: Account | None, password: str) -> bool:
    """Whether that is somebody's password already."""
    if seal is None or account is None or account.sealed is None:
        return False
    try:
        return seal.open(account.sealed, user=account.user.id) == password
    except IntegrityError:
        return False


def place_of(number: int, edits: Sequence[Edit], places: Sequence[str]) -> str | None:
    """Which edit is meant where something is refused: its place in a file, its number where there are several."""
    if places:
        return places[number]
    return f"edit {number + 1}" if len(edits) > 1 else None


class Work:
    """The edits of one call: read what they touch, work out what it becomes, and find what does not fit.

    `wanted` are the passwords that edits set, `hashes` their hashes where they are known, both by the edit's number.
    """

    def __init__(
        self,
        session: Session,
        person: Person,
        now: float,
        revision: int,
        edits: Sequence[Edit],
        *,
        seal: Seal | None,
        wanted: Mapping[int, str],
        hashes: Mapping[int, str],
        dry: bool = False,
        places: Sequence[str] = (),
        foreign: Callable[[str], bool] = system_login,
    ) -> None:
        self.session = session
        self.person = person
        self.now = now
        self.revision = revision
        self.seal = seal
        self.wanted = wanted
        self.hashes = hashes
        self.dry = dry
        self.places = places
        self.foreign = foreign
        self.steps: list[Step] = []
        self.counters = counters(session)
        self._edits = edits
        self._uids: dict[int, int | None] = {}

    def settle(self) -> list[Step]:
        """Work all of it out; `counters` then are as they have to be afterwards."""
        ids = [edit.id for edit in self._edits if not isinstance(edit, Create)]
        if doubled := [id for id, count in Counter(ids).items() if count > 1]:
            raise InputError("user.twice", f"user {doubled[0]} is edited twice in one call")
        known = load(self.session, ids, self.person.reads)
        for number, edit in enumerate(self._edits):
            self.steps.append(self._step(number, edit, known))
        self._give_uids()
        self._unique()
        revision = self.revision
        for step in self.steps:
            if step.after is not step.before:
                revision += 1
                if step.after is not None:
                    step.after = replace(step.after, user=msgspec.structs.replace(step.after.user, revision=revision))
        return self.steps

    def _step(self, number: int, edit: Edit, known: Mapping[int, Account]) -> Step:
        if isinstance(edit, Create):
            return self._made(number, edit.user)
        before = known.get(edit.id)
        if before is None:
            raise MissingError("user.unknown", f"there is no user {edit.id}", where=self._where(number))
        self.person.check_writes(before.user.group)
        if edit.match is not None and edit.match != before.user.revision:
            raise BusyError(
                "conflict.changed",
                f"{before.user.login} was changed meanwhile: at revision {before.user.revision}, not {edit.match}",
                hint="look at it again, then decide",
                where=self._where(number),
            )
        if isinstance(edit, Delete):
            return Step(number, before, None)
        patch = {name: value for name in _PLAIN if (value := getattr(edit.patch, name)) is not msgspec.UNSET}
        patch = self._checked(number, patch, before.user)
        group = patch.get("group", before.user.group)
        self.person.check_writes(group)
        if edit.patch.uid is not msgspec.UNSET:
            if edit.patch.uid != before.user.uid:
                self._uids[number] = edit.patch.uid
        elif group is not before.user.group:
            self._uids[number] = None
        after = replace(before, user=msgspec.structs.replace(before.user, **patch))
        after = self._with_password(number, after, before, forget=edit.patch.password is None)
        if after == before and number not in self._uids:
            return Step(number, before, before)
        return Step(number, before, replace(after, user=msgspec.structs.replace(after.user, updated=self.now)))

    def _made(self, number: int, new: NewUser) -> Step:
        self.person.check_writes(new.group)
        self._uids[number] = new.uid
        self.counters[_IDS] = id = self.counters.get(_IDS, 0) + 1
        values = self._checked(number, {name: getattr(new, name) for name in _PLAIN}, None)
        user = User(id=id, uid=0, revision=0, **values, password_set=None, created=self.now, updated=self.now)
        return Step(number, None, self._with_password(number, Account(user, None, None), None))

    def _with_password(self, number: int, after: Account, before: Account | None, *, forget: bool = False) -> Account:
        """With the password that the edit sets: hashed and sealed anew only where it is another one."""
        password = self.wanted.get(number)
        if password is None:
            if not forget or before is None or before.hash is None:
                return after
            return Account(msgspec.structs.replace(after.user, password_set=None), None, None)
        if same_password(self.seal, before, password):
            return after
        if self.seal is None:
            raise HostError(
                "udb.key",
                "there is no key to seal passwords with, so udb keeps none",
                hint="start backline-udb-key.service on gw, which makes one, then udb again",
            )
        user = msgspec.structs.replace(after.user, password_set=self.now)
        if self.dry:
            return Account(user, None, None)
        hash = self.hashes.get(number) or hash_password(password)
        return Account(user, hash, self.seal.close(password, user=user.id))

    def _checked(self, number: int, values: dict[str, Any], before: User | None) -> dict[str, Any]:
        """The values in their one form. Raises InputError: `user.login`, `user.name`, `user.shell`, `user.key`."""
        where = self._where(number)
        login = values.get("login")
        if login is not None and (before is None or login != before.login):
            if problem := login_problem(login):
                raise InputError("user.login", problem, where=where)
            if self.foreign(login):
                raise InputError("user.login", f"{login!r} is a system user of this host", where=where)
        for key in ("firstname", "lastname"):
            if key in values:
                values[key] = " ".join(values[key].split())
                if problem := unix_name_problem(values[key]):
                    raise InputError("user.name", problem, where=where)
        if "shell" in values and values["shell"] not in SHELLS:
            hint = f"shells: {', '.join(SHELLS)}"
            raise InputError("user.shell", f"{values['shell']!r} is no shell of the images", hint=hint, where=where)
        if "keys" in values:
            keys: dict[str, str] = {}
            for line in values["keys"]:
                try:
                    checked = check_ssh_key(line)
                except ValueError as error:
                    raise InputError("user.key", str(error), where=where) from error
                keys.setdefault(checked.split()[1], checked)
            values["keys"] = list(keys.values())
        return values

    def _give_uids(self) -> None:
        """Give every user who needs one a uid of the group's pool, the written ones first."""
        moving = [step for step in self.steps if step.number in self._uids]
        if not moving:
            return
        leaving = {step.before.user.uid for step in self.steps if step.before and (step in moving or not step.after)}
        taken = set(self.session.scalars(select(UserRow.uid))) - leaving
        for step in moving:
            uid = self._uids[step.number]
            if uid is not None:
                assert step.after is not None
                if problem := uid_problem(uid, step.after.user.group):
                    raise InputError("user.uid", problem, where=self._where(step.number))
                self._set_uid(step, uid)
                taken.add(uid)
        allocators: dict[UserGroup, Allocator] = {}
        for step in moving:
            if self._uids[step.number] is None:
                assert step.after is not None
                group = step.after.user.group
                if group not in allocators:
                    allocators[group] = Allocator(group, taken, self.counters.get(group.value))
                self._set_uid(step, allocators[group].next())
        for group, allocator in allocators.items():
            assert allocator.last is not None
            self.counters[group.value] = allocator.last

    def _set_uid(self, step: Step, uid: int) -> None:
        assert step.after is not None
        step.after = replace(step.after, user=msgspec.structs.replace(step.after.user, uid=uid))

    def _unique(self) -> None:
        """Every login, uid and account of the website has one owner afterwards. Raises BusyError("conflict.*")."""
        touched = {step.before.user.id for step in self.steps if step.before}
        for name, column, what in (
            ("login", UserRow.login, "the login"),
            ("uid", UserRow.uid, "uid"),
            ("site_id", UserRow.site_id, "the website's account"),
        ):
            owners: dict[Any, Step] = {}
            for step in self.steps:
                if step.after is None or step.after is step.before:
                    continue
                value = getattr(step.after.user, name)
                if value is None:
                    continue
                first = owners.setdefault(value, step)
                if first is not step:
                    assert first.after is not None
                    both = f"{first.after.user.login} and {step.after.user.login}"
                    where = self._where(step.number)
                    raise BusyError(f"conflict.{name}", f"{what} {value} would belong to both {both}", where=where)
            for part in chunks(list(owners)):
                query = select(column, UserRow.id, UserRow.login).where(column.in_(part))
                for value, id, login in self.session.execute(query):
                    if id not in touched:
                        where = self._where(owners[value].number)
                        raise BusyError(f"conflict.{name}", f"{what} {value} belongs to {login}", where=where)

    def _where(self, number: int) -> str | None:
        return place_of(number, self._edits, self.places)
