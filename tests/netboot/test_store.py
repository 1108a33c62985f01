"""netboot's store, on SQLite and on PostgreSQL: versions, holdings, pointers, boots and their credentials."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from netboot.boots import BOOTS_KEPT, CLAIM_SECONDS, LOGS_KEPT, Answered, Asked, Boots
from netboot.leases import LEASE_SECONDS
from netboot.machines import Machines
from netboot.models import Base, outbox
from netboot.schema import Action, Extension, Move, NewPin, NewPointer, Outcome, PinKind, Report, Rollback, Stage
from netboot.store import Actor, Store
from services.common.database import Database
from services.common.errors import BacklineError
from tests.netboot.rig import ONE, TWO, machines, new_version, seat

ME = Actor("alice")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFB0G8KSd8wG1C4mKE5l+4WnGnxCXXNhypDtLBYLbq4e"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO8cjqJUN5feN4a+kYZ++bXFgB8e2dHAKUUImmcRYf6Y"


def refused(call: Callable[[], object]) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        call()
    return caught.value


def publish(store: Store, id: str = ONE, *, rfs: tuple[int, ...] = (1,)) -> None:
    store.add_version(ME, new_version(id))
    for number in rfs:
        store.hold(number, id)


def pointed(store: Store, name: str = "stable") -> tuple[str | None, str | None, bool]:
    (found,) = [each for each in store.channels() if each.name == name]
    return found.current, found.previous, found.committed


@pytest.fixture
def both(store: Store) -> Store:
    """Two versions on rfs1, and channel stable points to the first."""
    publish(store, ONE)
    publish(store, TWO)
    store.switch_channel(ME, "stable", NewPointer(version=ONE))
    return store


def boot(boots: Boots, number: int = 1) -> Answered:
    (answer,) = boots.answer([Asked(seat(number), f"192.168.0.{number}")])
    return answer


def test_the_migrations_make_the_tables_of_the_models(store: Store, database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": Base.metadata})
        found = [change for change in compare_metadata(context, Base.metadata) if "alembic_version" not in str(change)]
    assert found == []


# Versions


def test_a_version_never_changes(store: Store) -> None:
    made = store.add_version(ME, new_version())
    assert store.add_version(ME, new_version()) == made
    assert refused(lambda: store.add_version(ME, new_version(root_hash="cd" * 32))).code == "conflict.version"
    assert refused(lambda: store.add_version(ME, new_version(TWO, options="x ${y}"))).code == "version.options"


def test_nothing_points_to_a_version_that_netboot_does_not_know(store: Store) -> None:
    for call in (
        lambda: store.hold(1, ONE),
        lambda: store.switch_channel(ME, "stable", NewPointer(version=ONE)),
        lambda: store.pin(ME, PinKind.ROOM, "alt", NewPin(version=ONE)),
        lambda: store.remove_version(ONE),
    ):
        assert refused(call).code == "version.unknown"


def test_a_version_in_use_is_not_forgotten_and_its_users_are_named(
    both: Store, boots: Boots, clock: list[float]
) -> None:
    both.pin(ME, PinKind.ROOM, "alt", NewPin(version=ONE))
    boot(boots)
    message = refused(lambda: both.remove_version(ONE)).message
    for user in ("channel stable", "pin of room alt", "held by rfs1", "booted by pas-r01p01"):
        assert user in message
    both.unpin(PinKind.ROOM, "alt")
    both.switch_channel(ME, "stable", NewPointer(version=TWO))
    both.switch_channel(ME, "stable", NewPointer(version=ONE))
    both.switch_channel(ME, "stable", NewPointer(version=TWO))
    both.release(1, ONE)
    assert refused(lambda: both.remove_version(ONE)).message.count(",") == 1
    clock[0] += LEASE_SECONDS + 1
    assert refused(lambda: both.remove_version(ONE)).message == f"{ONE} is in use: channel stable"


def test_a_version_that_nobody_uses_is_forgotten(store: Store) -> None:
    publish(store)
    store.release(1, ONE)
    store.remove_version(ONE)
    assert store.versions() == []
    assert refused(lambda: store.release(1, ONE)).code == "holding.unknown"


# The pointer


def test_a_pointer_moves_at_once_and_keeps_its_history(both: Store) -> None:
    moved = both.switch_channel(ME, "stable", NewPointer(version=TWO, why="new compilers"))
    assert (moved.effective, moved.generation, pointed(both)) == (TWO, 2, (TWO, ONE, True))
    newest, first = both.channel_history("stable")
    assert (newest.action, newest.by, newest.why, newest.current) == (Action.SET, "alice", "new compilers", TWO)
    assert (first.current, first.previous) == (ONE, None)


def test_a_pointer_that_is_committed_in_time_stays(both: Store, clock: list[float]) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60))
    clock[0] += 59
    both.commit_channel(ME, "stable", Move(why="all seats are well"))
    clock[0] += 3600
    assert both.revert_due() == []
    assert both.channels()[0].effective == TWO


def test_a_pointer_that_is_not_committed_is_back_before_anybody_notices(both: Store, clock: list[float]) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60))
    clock[0] += 60
    assert both.channels()[0].effective == ONE
    assert refused(lambda: both.commit_channel(ME, "stable", Move())).code == "conflict.channel"
    assert both.revert_due() == ["stable"]
    assert pointed(both) == (ONE, None, True)
    assert (both.channel_history("stable")[0].action, both.revert_due()) == (Action.EXPIRED, [])


def test_a_restart_takes_back_what_is_not_committed(both: Store, database: Database, clock: list[float]) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=3600))
    again = Store(database, machines(), clock=lambda: clock[0])
    again.prepare()
    assert pointed(again) == (ONE, None, True)
    newest = again.channel_history("stable")[0]
    assert (newest.action, newest.why) == (Action.RESTARTED, "netboot was restarted before it was committed")


def test_what_counts_as_previous_was_committed(both: Store, clock: list[float]) -> None:
    publish(both, "20261123.aaaaaaaaaaaa")
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60))
    both.switch_channel(ME, "stable", NewPointer(version="20261123.aaaaaaaaaaaa", commit_within=60))
    assert pointed(both)[1] == ONE
    clock[0] += 60
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60))
    assert pointed(both) == (TWO, ONE, False)


def test_what_is_committed_already_is_not_to_be_committed_again(both: Store, clock: list[float]) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO))
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60))
    clock[0] += 3600
    assert both.channels()[0].effective == TWO


def test_going_back_by_hand_works_once(both: Store) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO))
    both.rollback_channel(ME, "stable", Rollback(why="no sound"))
    assert pointed(both) == (ONE, None, True)
    assert refused(lambda: both.rollback_channel(ME, "stable", Rollback())).code == "conflict.channel"


def test_who_saw_an_older_generation_moves_nothing(both: Store) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO, generation=1))
    assert refused(lambda: both.switch_channel(ME, "stable", NewPointer(version=ONE, generation=1))).code == (
        "conflict.generation"
    )
    assert refused(lambda: both.rollback_channel(ME, "stable", Rollback(generation=1))).code == "conflict.generation"


# Boots


def test_a_boot_is_on_record_before_it_is_answered(both: Store, boots: Boots) -> None:
    answer = boot(boots)
    found = boots.one(answer.boot)
    assert (found.hostname, found.version, found.rfs, found.rule) == ("pas-r01p01", ONE, 1, "channel stable")
    assert (found.outcome, found.servers, found.address) == (Outcome.BOOT, ["192.168.1.1"], "192.168.0.1")


def test_a_refusal_is_on_record_as_well(store: Store, boots: Boots) -> None:
    answer = boot(boots)
    found = boots.one(answer.boot)
    assert (found.outcome, found.version, found.detail) == (Outcome.NO_VERSION, None, "there is no channel stable")


def test_what_is_changed_counts_for_the_next_boot(both: Store, boots: Boots, database: Database) -> None:
    assert boots.one(boot(boots).boot).version == ONE
    other = Store(database, machines(seat()))  # another process of the same database
    other.switch_channel(ME, "stable", NewPointer(version=TWO))
    assert boots.one(boot(boots).boot).version == TWO
    other.release(1, TWO)
    assert boots.one(boot(boots).boot).outcome is Outcome.NOT_HELD


def test_boots_while_a_pointer_moves_are_each_one_version_and_in_its_order(both: Store, boots: Boots) -> None:
    """Whoever asks after a move was answered gets the new version, and nobody anything in between."""

    def move(_: int) -> None:
        for id in (TWO, ONE) * 5:
            both.switch_channel(ME, "stable", NewPointer(version=id))

    def ask(number: int) -> list[tuple[str | None, str]]:
        return [
            (answer.decision.version.version if answer.decision.version else None, answer.boot)
            for _ in range(10)
            for answer in boots.answer([Asked(seat(number), "")] * random.randint(1, 3))
        ]

    with ThreadPoolExecutor(4) as pool:
        moving = pool.submit(move, 0)
        asked = [line for lines in pool.map(ask, (1, 2, 1)) for line in lines]
        moving.result()
    assert {version for version, _ in asked} <= {ONE, TWO}
    recorded = {each.id: each for each in boots.recent(limit=1000)}
    assert all(recorded[id].version == version for version, id in asked)
    assert boots.one(boot(boots).boot).version == ONE


def test_old_boots_of_a_machine_go(both: Store, boots: Boots, clock: list[float]) -> None:
    first = boot(boots, 2)
    boots.log(first.boot, "192.168.0.2", b"no cable")
    for _ in range(BOOTS_KEPT + 5):
        clock[0] += 1
        last = boot(boots, 1)
    assert boots.prune() == 5
    assert len(boots.recent(limit=1000)) == BOOTS_KEPT + 1
    assert boots.one(first.boot).stage is Stage.FAILED
    assert boots.one(last.boot).machine == 1


# Credentials


def test_credentials_are_given_once(both: Store, boots: Boots, clock: list[float]) -> None:
    id = boot(boots).boot
    clock[0] += 5
    claimed = boots.claim(id, "192.168.0.1")
    assert (claimed.claimed_at, claimed.claimed_from) == (clock[0], "192.168.0.1")
    assert refused(lambda: boots.claim(id, "192.168.0.1")).code == "boot.claimed"
    assert boots.one(id).refused_claims == 1


def test_only_the_machines_own_address_gets_them(both: Store, boots: Boots) -> None:
    id = boot(boots).boot
    for origin in ("192.168.0.2", "local", ""):
        assert refused(lambda origin=origin: boots.claim(id, origin)).code == "boot.address"  # type: ignore[misc]
    assert boots.one(id).refused_claims == 3
    assert boots.claim(id, "192.168.0.1").claimed_at is not None


def test_the_address_is_mdbs_and_not_that_of_whoever_asked_for_the_script(both: Store, boots: Boots) -> None:
    (answer,) = boots.answer([Asked(seat(1), "192.168.0.66")])
    assert refused(lambda: boots.claim(answer.boot, "192.168.0.66")).code == "boot.address"


def test_they_are_given_for_two_minutes(both: Store, boots: Boots, clock: list[float]) -> None:
    early, late = boot(boots).boot, boot(boots).boot
    clock[0] += CLAIM_SECONDS
    boots.claim(early, "192.168.0.1")
    clock[0] += 0.1
    assert refused(lambda: boots.claim(late, "192.168.0.1")).code == "boot.late"


def test_a_hall_of_slow_machines_gives_them_longer(both: Store, clock: list[float]) -> None:
    patient = Boots(both, claim_seconds=900)
    id = boot(patient).boot
    clock[0] += CLAIM_SECONDS + 1
    assert patient.claim(id, "192.168.0.1").claimed_at is not None


def test_a_refused_boot_has_none(store: Store, boots: Boots) -> None:
    id = boot(boots).boot
    assert refused(lambda: boots.claim(id, "192.168.0.1")).code == "boot.unknown"
    assert refused(lambda: boots.claim("0" * 32, "192.168.0.1")).code == "boot.unknown"


def test_of_many_claims_at_once_one_is_answered(both: Store, boots: Boots) -> None:
    id = boot(boots).boot

    def claim(_: int) -> str:
        try:
            boots.claim(id, "192.168.0.1")
        except BacklineError as error:
            return error.code
        return "given"

    with ThreadPoolExecutor(8) as pool:
        answers = Counter(pool.map(claim, range(16)))
    assert answers == {"given": 1, "boot.claimed": 15}
    assert boots.one(id).refused_claims == 15


# What becomes of a boot


def test_host_keys_stand_under_every_name_of_a_machine(both: Store, boots: Boots) -> None:
    first, second = boot(boots).boot, boot(boots, 2).boot
    boots.report(first, Report(stage=Stage.SYSTEM, detail="running", ssh_host_key=f"{KEY} root@seat"))
    boots.report(second, Report(stage=Stage.SYSTEM, ssh_host_key=OTHER_KEY))
    one, two = boots.known_hosts("prolo").splitlines()
    assert one == f"pas-r01p01,pas-r01p01.prolo,192.168.0.1 {KEY}"
    assert two == f"pas-r01p02,pas-r01p02.prolo,192.168.0.2 {OTHER_KEY}"


def test_a_key_of_an_older_boot_does_not_come_back(both: Store, boots: Boots, clock: list[float]) -> None:
    old = boot(boots).boot
    clock[0] += 1
    new = boot(boots).boot
    boots.report(new, Report(stage=Stage.SYSTEM, ssh_host_key=KEY))
    boots.report(old, Report(stage=Stage.SYSTEM, ssh_host_key=OTHER_KEY))
    assert boots.known_hosts("").split(" ", 1)[1].strip() == KEY


@pytest.mark.parametrize("key", ["", "ssh-ed25519 x", f"{KEY}\n@cert-authority * {OTHER_KEY}", "* ssh-ed25519 AAAA"])
def test_what_is_no_host_key_is_refused(both: Store, boots: Boots, key: str) -> None:
    id = boot(boots).boot
    assert refused(lambda: boots.report(id, Report(stage=Stage.SYSTEM, ssh_host_key=key))).code == "report.key"
    assert boots.known_hosts("") == ""


def test_the_log_of_a_failed_boot_is_kept_with_its_reason(both: Store, boots: Boots) -> None:
    id = boot(boots).boot
    boots.log(id, "192.168.0.1", b"no address from DHCP\x00\nline \xff two\n")
    (log,) = boots.logs(machine=1)
    assert (log.reason, log.text) == ("no address from DHCP", "no address from DHCP\nline � two\n")
    found = boots.one(id)
    assert (found.stage, found.stage_detail) == (Stage.FAILED, "no address from DHCP")
    for _ in range(LOGS_KEPT - 1):
        boots.log(id, "192.168.0.1", b"again")
    assert refused(lambda: boots.log(id, "192.168.0.1", b"again")).code == "rate.boot"


# The feed


def test_the_feed_tells_of_boots_and_never_of_their_ids(both: Store, boots: Boots, database: Database) -> None:
    answer = boot(boots)
    boots.report(answer.boot, Report(stage=Stage.SYSTEM))
    with database.read() as session:
        changes = outbox.after(session, 0, limit=10)
        (item,) = boots.source(session, frozenset({"boots"}))
    assert changes is not None
    assert [change.record["stage"] for change in changes if change.record] == [None, "system"]
    assert item.record == changes[-1].record
    assert all(answer.boot not in str(change.record) for change in changes)


def test_a_new_store_without_machines_answers_nobody(database: Database) -> None:
    store = Store(database, Machines())
    store.prepare()
    assert (store.versions(), store.channels(), Boots(store).recent()) == ([], [], [])


# Trials of some machines, and quarantine


def decided(boots: Boots, number: int = 1) -> tuple[Outcome, str | None]:
    decision = boot(boots, number).decision
    return decision.outcome, decision.version.version if decision.version and decision.boots else None


def test_a_trial_is_for_its_machines_and_the_others_get_what_was_before(both: Store, clock: list[float]) -> None:
    boots = Boots(both)
    moved = both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60, only=[2]))
    assert moved.only == [2]
    assert (decided(boots, 1), decided(boots, 2)) == ((Outcome.BOOT, ONE), (Outcome.BOOT, TWO))
    both.extend_channel(ME, "stable", Extension(commit_within=60, only=[1, 2]))
    assert decided(boots, 1) == (Outcome.BOOT, TWO)
    both.commit_channel(ME, "stable", Move())
    (channel,) = both.channels()
    assert (channel.current, channel.only, channel.committed) == (TWO, None, True)
    clock[0] += 3600
    assert decided(boots, 1) == (Outcome.BOOT, TWO)


def test_a_trial_that_nobody_extends_ends_for_all_of_its_machines(both: Store, clock: list[float]) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60, only=[2]))
    clock[0] += 59
    both.extend_channel(ME, "stable", Extension(commit_within=60, only=[2]))
    clock[0] += 59
    assert decided(Boots(both), 2) == (Outcome.BOOT, TWO)
    clock[0] += 1
    assert decided(Boots(both), 2) == (Outcome.BOOT, ONE)
    assert refused(lambda: both.extend_channel(ME, "stable", Extension(commit_within=60))).code == "conflict.channel"
    assert both.revert_due() == ["stable"]
    assert both.channel_history("stable")[0].action is Action.EXPIRED


def test_what_is_for_some_machines_has_to_be_committed(both: Store) -> None:
    assert refused(lambda: both.switch_channel(ME, "stable", NewPointer(version=TWO, only=[1]))).code == "channel.only"


def test_a_version_in_quarantine_is_not_offered_and_not_switched_to(both: Store) -> None:
    boots = Boots(both)
    both.switch_channel(ME, "stable", NewPointer(version=TWO))
    both.quarantine(ME, TWO, "no sound")
    assert decided(boots) == (Outcome.BOOT, ONE)
    both.rollback_channel(ME, "stable", Rollback())
    assert refused(lambda: both.switch_channel(ME, "stable", NewPointer(version=TWO))).code == "conflict.quarantine"
    both.pin(ME, PinKind.ROOM, "pasteur", NewPin(version=TWO))
    assert decided(boots)[0] is Outcome.NO_VERSION
    both.unpin(PinKind.ROOM, "pasteur")
    both.switch_channel(ME, "stable", NewPointer(version=TWO, lift_quarantine=True))
    assert both.quarantines() == []
    assert decided(boots) == (Outcome.BOOT, TWO)


def test_a_rollback_can_put_the_version_into_quarantine_in_the_same_step(both: Store) -> None:
    both.switch_channel(ME, "stable", NewPointer(version=TWO, commit_within=60))
    both.rollback_channel(ME, "stable", Rollback(why="a unit fails", quarantine=True))
    assert [(each.version, each.why) for each in both.quarantines()] == [(TWO, "a unit fails")]
    assert pointed(both) == (ONE, None, True)
    both.lift_quarantine(TWO)
    assert refused(lambda: both.lift_quarantine(TWO)).code == "quarantine.unknown"


def test_only_the_pin_of_a_machine_boots_a_version_in_quarantine(database: Database, clock: list[float]) -> None:
    store = Store(database, machines(seat(1, pinned=ONE)), clock=lambda: clock[0])
    store.prepare()
    publish(store)
    store.quarantine(ME, ONE, "")
    (answer,) = Boots(store).answer([Asked(seat(1, pinned=ONE), "192.168.0.1")])
    assert answer.decision.outcome is Outcome.BOOT


def test_a_version_in_quarantine_can_be_forgotten(store: Store) -> None:
    store.add_version(ME, new_version())
    store.quarantine(ME, ONE, "broken")
    store.remove_version(ONE)
    assert store.quarantines() == []
