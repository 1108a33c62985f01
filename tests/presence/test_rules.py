"""Presence's rules: each by itself, and all of them against a model of a hall of people."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.common.users import UserGroup
from services.presence.rules import (
    ASLEEP_SECONDS,
    EXPIRY_SECONDS,
    PENDING_SECONDS,
    Change,
    Hall,
    Listening,
    Row,
)
from services.presence.schema import Beat, Machine, MachineType, Reason, User

ALICE = User(login="alice", uid=10_000, group=UserGroup.USER)
BOB = User(login="bob", uid=10_001, group=UserGroup.USER)
OTTO = User(login="otto", uid=11_000, group=UserGroup.ORGA)
USERS = (ALICE, BOB, OTTO)


def machine(number: int, type: MachineType = MachineType.USER) -> Machine:
    return Machine(id=number, hostname=f"p{number}", ip=f"192.168.0.{number}", type=type)


ONE, TWO, DESK = machine(1), machine(2), machine(3, MachineType.ORGA)


def boot(number: int, start: int = 0) -> str:
    return f"{number:016x}{start:016x}"


def beat(on: Machine, *users: str, start: int = 0) -> Beat:
    return Beat(machine=on.id, hostname=on.hostname, boot=boot(on.id, start), users=list(users))


def sure(hall: Hall, user: User, on: Machine, *, now: float = 0.0, start: int = 0) -> list[Change]:
    """Log in where nothing is against it."""
    assert hall.place(user, on) is None
    return hall.admit(user, on, boot(on.id, start), now=now, at=1000 + now)


def where(hall: Hall) -> dict[str, str]:
    return {each.login: each.hostname for each in hall.sessions()}


def why(hall: Hall, user: User, on: Machine, *, early: bool = False) -> Reason | None:
    refusal = hall.place(user, on, early=early)
    return None if refusal is None else refusal.reason


def test_a_user_has_one_session_and_hears_where_it_is() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    refusal = hall.place(ALICE, TWO)
    assert refusal is not None
    assert refusal.reason is Reason.ELSEWHERE
    assert "already logged in at p1" in refusal.message
    assert why(hall, ALICE, ONE) is None


def test_a_machine_has_one_user() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    refusal = hall.place(BOB, ONE)
    assert refusal is not None
    assert (refusal.reason, refusal.message) == (Reason.BUSY, "p1 is in use by alice.")


def test_contestants_log_in_at_seats_only() -> None:
    assert why(Hall(), ALICE, DESK) is Reason.GROUP
    assert why(Hall(), OTTO, DESK) is None
    assert why(Hall(), OTTO, ONE) is None


def test_an_empty_database_lets_nobody_begin_but_those_go_on_whom_a_heartbeat_has_named() -> None:
    hall = Hall()
    assert why(hall, ALICE, ONE, early=True) is Reason.EARLY
    hall.hear([beat(ONE, "alice")], now=1, at=1, users=USERS, early=True)
    assert where(hall) == {"alice": "p1"}
    assert why(hall, ALICE, ONE, early=True) is None


def test_an_organizer_is_not_believed_from_a_heartbeat_not_even_then() -> None:
    hall = Hall()
    heard = hall.hear([beat(ONE, "otto")], now=1, at=1, users=USERS, early=True)
    assert (where(hall), heard.refused) == ({}, {"unproven": 1})


def test_a_machine_that_claims_a_user_is_not_believed() -> None:
    hall = Hall()
    heard = hall.hear([beat(ONE, "alice")], now=1, at=1, users=USERS)
    assert (where(hall), heard.changes, heard.refused) == ({}, [], {"unproven": 1})
    sure(hall, BOB, ONE)
    assert hall.hear([beat(ONE, "bob", "alice")], now=1, at=1, users=USERS).refused == {"busy": 1}
    assert where(hall) == {"bob": "p1"}


def test_who_is_no_user_of_udb_is_passed_over() -> None:
    assert not Hall().hear([beat(ONE, "root", "nobody-knows")], now=1, at=1, users=[]).refused


def test_a_session_expires_when_its_machine_is_silent_and_the_user_may_go_elsewhere() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.hear([beat(ONE, "alice")], now=5, at=5, users=USERS)
    assert hall.expire(now=5 + EXPIRY_SECONDS) == []
    (change,) = hall.expire(now=5.1 + EXPIRY_SECONDS)
    assert change.after is not None
    assert not change.after.live
    assert where(hall) == {}
    sure(hall, ALICE, TWO, now=40)
    assert where(hall) == {"alice": "p2"}
    assert hall.at(ONE.id) is None


def test_a_session_that_expired_is_back_with_the_heartbeat_of_the_same_boot() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.expire(now=100)
    hall.hear([beat(ONE, "alice")], now=101, at=101, users=USERS)
    assert where(hall) == {"alice": "p1"}


def test_a_session_that_expired_does_not_come_back_after_the_user_went_elsewhere() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.expire(now=100)
    sure(hall, ALICE, TWO, now=100)
    assert hall.hear([beat(ONE, "alice")], now=101, at=101, users=USERS).refused == {"unproven": 1}
    hall.end("alice")
    hall.hear([beat(ONE, "alice")], now=102, at=102, users=USERS)
    assert where(hall) == {}


def ends(hall: Hall, *beats: Beat) -> list[tuple[str, int, str]]:
    """Who has to end what, as these heartbeats are answered."""
    heard = hall.hear(beats, now=101, at=101, users=USERS)
    return [(each.login, each.machine, each.boot) for each in heard.ends]


def test_who_went_elsewhere_has_to_end_what_a_machine_still_names_him_for() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.expire(now=100)
    sure(hall, ALICE, TWO, now=100)
    told = [("alice", ONE.id, boot(ONE.id))]
    assert ends(hall, beat(TWO, "alice")) == []
    assert ends(hall, beat(ONE, "alice", "bob")) == told
    assert ends(hall, beat(ONE, "alice")) == told  # until it is so
    assert ends(hall, beat(ONE)) == []
    assert ends(hall, beat(ONE, "alice")) == []
    assert where(hall) == {"alice": "p2"}


def test_who_was_never_let_in_on_that_boot_has_nothing_to_end() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.expire(now=100)
    sure(hall, ALICE, TWO, now=100)
    assert ends(hall, beat(ONE, "alice", start=1)) == []
    assert ends(hall, beat(DESK, "alice")) == []


def test_whom_an_administrator_ends_or_somebody_else_follows_has_to_end_it_too() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.end("alice", lost=True)
    sure(hall, BOB, ONE)
    hall.expire(now=100)
    sure(hall, ALICE, ONE, now=100)
    assert ends(hall, beat(ONE, "alice", "bob")) == [("bob", ONE.id, boot(ONE.id))]
    assert where(hall) == {"alice": "p1"}


def test_who_sleeps_on_a_machine_is_gone_when_somebody_else_logs_in_there() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.expire(now=100)
    sure(hall, BOB, ONE, now=100)
    hall.hear([beat(ONE, "alice", "bob")], now=101, at=101, users=USERS)
    assert where(hall) == {"bob": "p1"}


def test_a_heartbeat_that_names_the_user_no_more_ends_the_session_at_once() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.hear([beat(ONE, "alice")], now=1, at=1, users=USERS)
    hall.hear([beat(ONE)], now=2, at=2, users=USERS)
    assert where(hall) == {}


def test_a_heartbeat_from_before_the_login_does_not_end_it_while_the_home_is_made() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    for now in range(15, int(PENDING_SECONDS), 15):
        hall.hear([beat(ONE)], now=now, at=now, users=USERS)
        hall.expire(now=now)
        assert where(hall) == {"alice": "p1"}
    hall.hear([beat(ONE)], now=PENDING_SECONDS, at=0, users=USERS)
    assert where(hall) == {}


def test_a_heartbeat_from_before_the_logout_brings_no_ghost() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.hear([beat(ONE, "alice")], now=1, at=1, users=USERS)
    hall.end("alice", machine=ONE.id)
    hall.hear([beat(ONE, "alice")], now=2, at=2, users=USERS)
    assert where(hall) == {}
    assert why(hall, ALICE, TWO) is None


def test_a_machine_says_of_others_nothing() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    assert hall.end("alice", machine=TWO.id) == []
    assert where(hall) == {"alice": "p1"}


def test_a_machine_that_starts_anew_has_nobody() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    hall.hear([beat(ONE, "alice", start=1)], now=1, at=1, users=USERS)
    assert where(hall) == {}
    assert why(hall, ALICE, TWO) is None


def test_a_machine_that_cannot_tell_keeps_its_session_awake() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    unclear = Beat(machine=1, hostname="p1", boot=boot(1), users=None)
    hall.hear([unclear], now=25, at=25, users=USERS)
    assert hall.expire(now=50) == []


def test_three_sessions_of_one_user_are_one() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    assert hall.admit(ALICE, ONE, boot(1), now=1, at=1) == []
    hall.hear([beat(ONE, "alice", "alice")], now=2, at=2, users=USERS)
    assert [each.since for each in hall.sessions()] == [1000]


def test_a_machine_that_was_renamed_has_its_new_name() -> None:
    hall = Hall()
    sure(hall, ALICE, ONE)
    new = Beat(machine=1, hostname="window", boot=boot(1), users=["alice"])
    hall.hear([new], now=1, at=1, users=USERS)
    assert where(hall) == {"alice": "window"}


def test_a_developers_claim_is_believed_and_moves_without_a_ghost() -> None:
    hall = Hall()
    hall.hear([beat(ONE, "otto")], now=1, at=1, users=USERS, trusted=True)
    hall.hear([beat(TWO, "otto")], now=2, at=2, users=USERS, trusted=True)
    assert where(hall) == {"otto": "p2"}
    assert hall.at(ONE.id) is None
    assert why(hall, ALICE, ONE) is None


def test_what_sleeps_for_a_day_is_forgotten() -> None:
    hall = Hall([Row("alice", 1, "p1", boot(1), 0.0)], now=0)
    hall.expire(now=EXPIRY_SECONDS + 1)
    assert hall.find("alice") is not None
    hall.expire(now=ASLEEP_SECONDS + 1)
    assert hall.find("alice") is None


def test_while_nobody_brings_heartbeats_no_session_expires() -> None:
    clock = Listening(0)
    clock.bring(100)
    assert clock.at(100) == Listening.PATIENCE_SECONDS
    assert clock.at(104) == pytest.approx(Listening.PATIENCE_SECONDS + 4)
    assert clock.at(100_000) == 2 * Listening.PATIENCE_SECONDS
    clock.bring(100_000)
    assert clock.at(100_001) == pytest.approx(2 * Listening.PATIENCE_SECONDS + 1)
    assert clock.silence(100_005) == 5


@dataclass
class Truth:
    """A machine as it really is: its start, and who works there, by who came first. `off`: it has crashed."""

    start: int = 0
    there: list[str] = field(default_factory=list)
    coming: list[str] = field(default_factory=list)
    off: bool = False


LOGINS = st.sampled_from(USERS)
MACHINES = st.sampled_from((ONE, TWO, DESK))


class People(RuleBasedStateMachine):
    """People who come, go, crash their machines and pull cables; heartbeats may be lost, presence may be restarted.

    The model knows only what was answered to whom, and what each machine said last: who was let in and has not been
    seen to leave, and since when each machine is silent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.hall = Hall()
        self.machines = {each.id: Truth() for each in (ONE, TWO, DESK)}
        self.let_in: dict[str, tuple[int, int]] = {}  # who was let in where, and has not left
        self.heard: dict[str, float] = {}
        self.named: set[str] = set()
        self.begun: dict[str, float] = {}
        self.rows: dict[str, Row] = {}

    def keep(self, changes: list[Change]) -> None:
        """What a disk would have."""
        for change in changes:
            assert self.rows.get(change.login) == change.before
            if change.after is None:
                del self.rows[change.login]
            else:
                self.rows[change.login] = change.after

    def is_live(self, login: str) -> bool:
        return login in self.let_in and self.now - self.heard[login] <= EXPIRY_SECONDS

    def forget(self, login: str) -> None:
        self.let_in.pop(login, None)
        self.named.discard(login)

    @rule(user=LOGINS, on=MACHINES, slow=st.booleans())
    def log_in(self, user: User, on: Machine, slow: bool) -> None:
        """`slow`: the home has to come first, so no heartbeat names the user for a while."""
        truth = self.machines[on.id]
        if truth.off:
            return
        self.keep(self.hall.expire(now=self.now))
        live = {login: at for login, at in self.let_in.items() if self.is_live(login)}
        expected = None
        if user.group is UserGroup.USER and on.type is not MachineType.USER:
            expected = Reason.GROUP
        elif user.login in live and live[user.login][0] != on.id:
            expected = Reason.ELSEWHERE
        elif user.login not in live and any(at[0] == on.id for at in live.values()):
            expected = Reason.BUSY
        assert why(self.hall, user, on) is expected
        if expected is not None:
            return
        self.keep(self.hall.admit(user, on, boot(on.id, truth.start), now=self.now, at=self.now))
        again = self.let_in.get(user.login) == (on.id, truth.start) and user.login in live
        for other in [login for login, at in self.let_in.items() if at[0] == on.id and login != user.login]:
            self.forget(other)
        if not again:
            self.named.discard(user.login)
        self.let_in[user.login] = (on.id, truth.start)
        self.heard[user.login] = self.begun[user.login] = self.now
        if user.login not in truth.there:
            (truth.coming if slow else truth.there).append(user.login)

    @rule(on=MACHINES)
    def home_comes(self, on: Machine) -> None:
        truth = self.machines[on.id]
        truth.there += [login for login in truth.coming if login not in truth.there]
        truth.coming.clear()

    @rule(on=MACHINES, told=st.booleans())
    def leave(self, on: Machine, told: bool) -> None:
        truth = self.machines[on.id]
        if not truth.there:
            return
        login = truth.there.pop()
        if told:
            self.keep(self.hall.end(login, machine=on.id))
            if self.let_in.get(login, (0, 0))[0] == on.id:
                self.forget(login)

    @rule(on=MACHINES)
    def crash(self, on: Machine) -> None:
        self.machines[on.id].off = True

    @rule(on=MACHINES)
    def start(self, on: Machine) -> None:
        truth = self.machines[on.id]
        self.machines[on.id] = Truth(truth.start + 1)

    @rule(which=st.sets(MACHINES), liar=st.booleans())
    def beats(self, which: set[Machine], liar: bool) -> None:
        batch = []
        for on in sorted(which, key=lambda each: each.id):
            truth = self.machines[on.id]
            if truth.off:
                continue
            users = [*truth.there, *([each.login for each in USERS] if liar else [])]
            batch.append(beat(on, *users, start=truth.start))
            for login, (at, start) in list(self.let_in.items()):
                if at != on.id:
                    continue
                if start != truth.start:
                    self.forget(login)
                elif login in users:
                    self.named.add(login)
                    self.heard[login] = self.now
                elif login in self.named or self.now - self.begun[login] >= PENDING_SECONDS:
                    self.forget(login)
                elif self.is_live(login):
                    self.heard[login] = self.now
        heard = self.hall.hear(batch, now=self.now, at=self.now, users=USERS)
        self.keep(heard.changes)
        for end in heard.ends:  # never of a session that was let in and goes on
            assert not self.hall.has(end.login, end.machine, end.boot)
            assert self.let_in.get(end.login) != (end.machine, self.machines[end.machine].start)

    @rule(seconds=st.sampled_from([1.0, 14.0, 16.0, 31.0, 130.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.keep(self.hall.expire(now=self.now))

    @precondition(lambda self: self.rows)
    @rule()
    def restart(self) -> None:
        """Presence is killed and begins with what the disk has: nobody is lost, and all have their time anew."""
        asleep = {login for login in self.let_in if not self.is_live(login)}
        self.hall = Hall(self.rows.values(), now=self.now)
        for login in self.let_in:
            self.begun[login] = self.now
            if login not in asleep:
                self.heard[login] = self.now

    @invariant()
    def sessions_are_those_that_were_let_in_and_have_not_left(self) -> None:
        live = {row.login: row.machine for row in self.hall if row.live}
        assert live == {login: at[0] for login, at in self.let_in.items() if self.is_live(login)}

    @invariant()
    def a_machine_has_one_user(self) -> None:
        machines = [row.machine for row in self.hall]
        assert len(machines) == len(set(machines))
        for row in self.hall:
            if row.live:
                assert self.hall.at(row.machine) == row
        for number in self.machines:
            there = self.hall.at(number)
            assert there is None or there.machine == number

    @invariant()
    def the_disk_has_what_memory_has(self) -> None:
        assert {row.login: row for row in self.hall} == self.rows


TestPeople = People.TestCase
TestPeople.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
