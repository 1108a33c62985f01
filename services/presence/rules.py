"""Who is logged in where: the rules, without clock, disk or network. Pure.

A `Seat` (row) is what was admitted: one user on one boot of one machine. It is live from the login decision on, while
heartbeats of that boot name the user, and sleeps when none has come for `EXPIRY_SECONDS`. Promises:

- a user has one row, and a machine has one row; so there is one live session of each, and no ghost after a move.
- only what was admitted here is kept alive or woken by a heartbeat: a machine that just claims a user is not believed
  (docs/decisions/presence-believes-what-it-admitted.md), but for contestants in the first moments of an empty database.
- who was let in on a machine and has lost that session to another place, or to an administrator, is not forgotten:
  while heartbeats of that boot name him, they are answered that what he runs there has to end. In this life only.
- a session ends at once when its own boot's heartbeat no longer names the user, and when its machine starts anew.

`now` is the clock of whoever listens, which stands still while nobody brings heartbeats: silence of the bringer is not
silence of the machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from services.common.users import UserGroup
from services.presence.schema import Beat, End, Machine, MachineType, Reason, Session, User

EXPIRY_SECONDS = 30.0
"""How long after its last heartbeat a session counts."""
PENDING_SECONDS = 120.0
"""How long between the account stage and the first heartbeat that names the user: homes may have to move."""
ASLEEP_SECONDS = 24 * 3600.0
"""How long a sleeping row may be woken by its machine's heartbeat."""


@dataclass(frozen=True)
class Row:
    """A user who was admitted on a boot of a machine. `seen`: whether a heartbeat has named the user since."""

    login: str
    machine: int
    hostname: str
    boot: str
    since: float
    seen: bool = False
    live: bool = True

    def session(self) -> Session:
        """As others see it."""
        return Session(login=self.login, machine=self.machine, hostname=self.hostname, since=self.since)


@dataclass(frozen=True)
class Change:
    """A row before and after; None when there was none, or is none any more."""

    before: Row | None
    after: Row | None

    @property
    def login(self) -> str:
        """Whose it is."""
        row = self.after or self.before
        assert row is not None
        return row.login


@dataclass(frozen=True)
class Refusal:
    """Why not, for programs and for people."""

    reason: Reason
    message: str


@dataclass
class Heard:
    """What heartbeats changed, how many claims were not believed, by why, and who has no session any more there."""

    changes: list[Change] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    ends: list[End] = field(default_factory=list)


class Hall:
    """Rows by user and by machine. For one thread at a time."""

    def __init__(self, rows: Iterable[Row] = (), *, now: float = 0.0) -> None:
        self._rows: dict[str, Row] = {}
        self._at: dict[int, str] = {}
        self._heard: dict[str, float] = {}
        self._begun: dict[str, float] = {}
        self._lost: dict[int, tuple[str, set[str]]] = {}
        """By machine: a boot of it, and who was let in there and has lost that session."""
        for row in rows:
            self._put(row, now)
            self._begun[row.login] = now

    # Looking

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))

    def find(self, login: str) -> Row | None:
        """The row of a user, live or asleep."""
        return self._rows.get(login)

    def live(self, login: str) -> Row | None:
        """The session of a user."""
        row = self._rows.get(login)
        return row if row is not None and row.live else None

    def at(self, machine: int) -> Row | None:
        """The session on a machine."""
        login = self._at.get(machine)
        return self.live(login) if login is not None else None

    def sessions(self) -> list[Session]:
        """Every session, in the order of logins."""
        return [row.session() for _, row in sorted(self._rows.items()) if row.live]

    def has(self, login: str, machine: int, boot: str) -> bool:
        """Whether a user was admitted on this boot, and has not left."""
        row = self._rows.get(login)
        return row is not None and (row.machine, row.boot) == (machine, boot)

    # Deciding

    def place(self, user: User, machine: Machine, *, early: bool = False) -> Refusal | None:
        """Why a user whose password is right cannot begin a session on a machine; None when nothing is against it."""
        if user.group is UserGroup.USER and machine.type is not MachineType.USER:
            told = f"{user.login} may log in at contestants' seats only, and {machine.hostname} is none."
            return Refusal(Reason.GROUP, told)
        own = self.live(user.login)
        if own is not None and own.machine == machine.id:
            return None
        if early:
            told = "The hall has just been started and does not know yet who is where. Try again in half a minute."
            return Refusal(Reason.EARLY, told)
        if own is not None:
            told = f"{user.login} is already logged in at {own.hostname}. Log out there first."
            return Refusal(Reason.ELSEWHERE, told)
        other = self.at(machine.id)
        if other is not None:
            return Refusal(Reason.BUSY, f"{machine.hostname} is in use by {other.login}.")
        return None

    def admit(self, user: User, machine: Machine, boot: str, *, now: float, at: float) -> list[Change]:
        """Begin a session that `place` has nothing against, or go on with it. `at` is the time for people."""
        row = self._rows.get(user.login)
        if row is not None and row.live and (row.machine, row.boot) == (machine.id, boot):
            self._heard[user.login] = self._begun[user.login] = now
            return []
        changes = []
        sleeper = self._at.get(machine.id)
        if sleeper is not None and sleeper != user.login:
            changes += self.end(sleeper, lost=True)
        if row is not None and (row.machine, row.boot) != (machine.id, boot):
            self._lose(row)
        if (there := self._lost.get(machine.id)) is not None:
            there[1].discard(user.login)
        fresh = Row(user.login, machine.id, machine.hostname, boot, at)
        changes.append(self._put(fresh, now))
        self._begun[user.login] = now
        return changes

    def end(self, login: str, *, machine: int | None = None, lost: bool = False) -> list[Change]:
        """End what a user has, if it is on `machine`; wherever it is without that. `lost`: he may not know it yet."""
        row = self._rows.get(login)
        if row is None or machine not in (None, row.machine):
            return []
        if lost:
            self._lose(row)
        del self._rows[login]
        self._heard.pop(login, None)
        self._begun.pop(login, None)
        if self._at.get(row.machine) == login:
            del self._at[row.machine]
        return [Change(row, None)]

    def _lose(self, row: Row) -> None:
        boot, logins = self._lost.get(row.machine, ("", set()))
        self._lost[row.machine] = (row.boot, {row.login} | (logins if boot == row.boot else set()))

    # Listening

    def hear(
        self,
        beats: Iterable[Beat],
        *,
        now: float,
        at: float,
        users: Collection[User] | None = None,
        early: bool = False,
        trusted: bool = False,
    ) -> Heard:
        """Take heartbeats. `users` are those that udb knows of the ones named; claims of others are passed over.

        `trusted`: they are believed whatever they claim, as the fake presence of developers is, and move users.
        """
        known = {user.login: user for user in users or ()}
        heard = Heard()
        for beat in beats:
            self._hear(beat, heard, known, now=now, at=at, early=early, trusted=trusted)
        return heard

    def _hear(
        self,
        beat: Beat,
        heard: Heard,
        known: dict[str, User],
        *,
        now: float,
        at: float,
        early: bool,
        trusted: bool,
    ) -> None:
        holder = self._at.get(beat.machine)
        row = self._rows[holder] if holder is not None else None
        if row is not None and row.boot != beat.boot:
            heard.changes += self.end(row.login)  # the machine was started anew
            row = None
        if beat.users is None:
            if row is not None and row.live:
                self._heard[row.login] = now
            return
        if (lost := self._lost.get(beat.machine)) is not None:
            still = lost[1].intersection(beat.users) if lost[0] == beat.boot else set()
            heard.ends += [End(machine=beat.machine, boot=beat.boot, login=login) for login in sorted(still)]
            if still:
                self._lost[beat.machine] = (beat.boot, still)
            else:
                del self._lost[beat.machine]
        if row is not None and row.login not in beat.users:
            begun = self._begun.get(row.login, now)
            if row.seen or now - begun >= PENDING_SECONDS:
                heard.changes += self.end(row.login)
                row = None
            elif row.live:
                self._heard[row.login] = now
        elif row is not None:
            self._heard[row.login] = now
            awake = replace(row, seen=True, live=True, hostname=beat.hostname or row.hostname)
            if awake != row:
                heard.changes.append(self._put(awake, now))
                row = awake
        for login in dict.fromkeys(beat.users):
            user = known.get(login)
            if user is None or (row is not None and row.login == login):
                continue
            if row is not None:
                heard.refused["busy"] += 1
                continue
            if not trusted and not (early and user.group is UserGroup.USER):
                heard.refused["unproven"] += 1
                continue
            if not trusted and self.live(login) is not None:
                heard.refused["elsewhere"] += 1
                continue
            row = Row(login, beat.machine, beat.hostname, beat.boot, at, seen=True)
            heard.changes.append(self._put(row, now))
            self._begun[login] = now

    def expire(self, *, now: float) -> list[Change]:
        """Let sessions sleep that no heartbeat has kept, and forget those that have slept for a day."""
        changes: list[Change] = []
        for row in list(self._rows.values()):
            silent = now - self._heard.get(row.login, now)
            if row.live and silent > EXPIRY_SECONDS:
                changes.append(self._change(replace(row, live=False)))
            elif not row.live and silent > ASLEEP_SECONDS:
                changes += self.end(row.login)
        return changes

    def _put(self, row: Row, now: float) -> Change:
        change = self._change(row)
        self._heard[row.login] = now
        return change

    def _change(self, row: Row) -> Change:
        before = self._rows.get(row.login)
        if before is not None and before.machine != row.machine and self._at.get(before.machine) == row.login:
            del self._at[before.machine]
        self._rows[row.login] = row
        self._at[row.machine] = row.login
        return Change(before, row)


class Listening:
    """A clock that stands still while nobody brings heartbeats, but for `PATIENCE_SECONDS`."""

    PATIENCE_SECONDS = 10.0

    def __init__(self, now: float) -> None:
        self._passed = 0.0
        self._last = now
        self.heard = False
        """Whether somebody has brought any, in this life."""

    def bring(self, now: float) -> None:
        """Heartbeats, or the word that there were none, come at `now` of a clock that never stands still."""
        self._passed = self.at(now)
        self._last = now
        self.heard = True

    def at(self, now: float) -> float:
        """What this clock shows at `now`."""
        return self._passed + min(max(now - self._last, 0.0), self.PATIENCE_SECONDS)

    def silence(self, now: float) -> float:
        """Seconds since somebody brought any, or since the begin."""
        return now - self._last
