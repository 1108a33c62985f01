"""udb's store, on SQLite and on PostgreSQL: rules, who sees whom, passwords, audit, and what the feeds are told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text

from services.common.errors import AccessError, BacklineError, BusyError, MissingError
from services.common.feed.wire import Kind
from services.common.users import UID_POOLS, UserGroup
from services.common.yescrypt import hash_password, verify_password
from services.udb import edits
from services.udb import store as store_module
from services.udb.eyes import Person
from services.udb.models import UserRow, outbox
from services.udb.rows import PRIVATE, PUBLIC, public
from services.udb.schema import NewUser, UserPatch
from services.udb.sealing import Seal
from services.udb.store import Create, Delete, Edit, Store, Update
from tests.hall.halls import KEY
from tests.udb.rig import ME, ORGANIZER, new, users


def refused(call: Callable[[], object]) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        call()
    return caught.value


# Making


def test_a_user_gets_the_next_uid_of_the_groups_pool(store: Store) -> None:
    made = users(store.edit(ME, [Create(new(1)), Create(new(2)), Create(new(3, group=UserGroup.ROOT))]))
    assert [(user.id, user.uid) for user in made] == [(1, 10_000), (2, 10_001), (3, 12_000)]
    store.delete(ME, made[1].id)
    again = store.create(ME, new(4))
    assert (again.id, again.uid) == (4, 10_002), "neither an id nor a uid comes back at once"


def test_an_id_is_never_used_again_even_the_newest(store: Store) -> None:
    gone = store.create(ME, new(1))
    store.delete(ME, gone.id)
    assert store.create(ME, new(1)).id == gone.id + 1


def test_a_written_uid_is_of_the_pool_and_is_skipped(store: Store) -> None:
    assert refused(lambda: store.create(ME, new(1, uid=11_000))).code == "user.uid"
    store.create(ME, new(1, uid=10_001))
    assert [store.create(ME, new(number)).uid for number in (2, 3)] == [10_000, 10_002]


def test_a_full_pool_refuses_and_burns_nothing(store: Store) -> None:
    pool = UID_POOLS[UserGroup.ORGA]
    store.edit(ME, [Create(new(number, group=UserGroup.ORGA)) for number in range(len(pool))])
    error = refused(lambda: store.create(ME, new(1000, group=UserGroup.ORGA)))
    assert error.code == "pool.exhausted"
    assert store.create(ME, new(1000)).id == len(pool) + 1
    (orga,) = [each for each in store.pools(ME) if each.group is UserGroup.ORGA]
    assert (orga.used, orga.free) == (len(pool), 0)


@pytest.mark.parametrize("login", ["root", "www-data", "backline-udb", "Jean", "a b", "", "_x", "x" * 32, "j:0"])
def test_a_login_of_the_system_or_of_no_form_is_refused(store: Store, login: str) -> None:
    assert refused(lambda: store.create(ME, NewUser(login=login))).code == "user.login"


def test_a_login_of_this_host_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.foreign = lambda login: login == "cloudsdk"
    assert refused(lambda: store.create(ME, NewUser(login="cloudsdk"))).code == "user.login"
    assert edits.system_login("root")
    assert not edits.system_login("nobody-of-that-name")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"firstname": "a:b"}, "user.name"),
        ({"lastname": "a\x01b"}, "user.name"),
        ({"shell": "/bin/evil"}, "user.shell"),
        ({"keys": ["ssh-dss AAAA"]}, "user.key"),
        ({"keys": ['command="sh" ' + KEY]}, "user.key"),
        ({"password": "a\nb"}, "password.form"),
        ({"password": "a", "generate": True}, "password.form"),
    ],
)
def test_what_would_break_a_machine_is_refused(store: Store, fields: dict[str, object], code: str) -> None:
    assert refused(lambda: store.create(ME, new(1, **fields))).code == code
    assert store.users(ME) == []


def test_names_and_keys_have_one_form(store: Store) -> None:
    made = store.create(ME, new(1, firstname="  Jean   Paul ", keys=[f"{KEY} one", f"  {KEY} two\n"]))
    assert made.firstname == "Jean Paul"
    assert made.keys == [f"{KEY} one"]


@pytest.mark.parametrize(
    ("second", "code"),
    [({"login": "team01"}, "conflict.login"), ({"uid": 10_000}, "conflict.uid"), ({"site_id": 7}, "conflict.site_id")],
)
def test_logins_uids_and_accounts_have_one_owner(store: Store, second: dict[str, object], code: str) -> None:
    store.create(ME, new(1, site_id=7))
    error = refused(lambda: store.create(ME, new(2, **second)))
    assert error.code == code
    assert "team01" in error.message


# Changing


def test_who_changes_group_gets_a_uid_of_its_pool(store: Store) -> None:
    made = store.create(ME, new(1))
    changed = store.update(ME, made.id, UserPatch(group=UserGroup.ORGA))
    assert (changed.id, changed.uid) == (made.id, 11_000)
    assert store.update(ME, made.id, UserPatch(firstname="Zoé")).uid == 11_000


def test_two_may_swap_login_and_uid(store: Store) -> None:
    one, two = users(store.edit(ME, [Create(new(1, password="first", site_id=1)), Create(new(2, site_id=2))]))
    store.edit(
        ME,
        [
            Update(one.id, UserPatch(login=two.login, uid=two.uid, site_id=2)),
            Update(two.id, UserPatch(login=one.login, uid=one.uid, site_id=1)),
        ],
    )
    assert (store.user(ME, one.id).login, store.user(ME, one.id).uid) == ("team02", 10_001)
    assert store.user(ME, "team01").id == two.id
    assert store.show(ME, [one.id])[0].password == "first"


def test_a_change_of_nothing_is_none(store: Store) -> None:
    made = store.create(ME, new(1, password="secret"))
    same = UserPatch(login="team01", uid=10_000, password="secret", keys=[])
    assert store.update(ME, made.id, same) == made
    assert len(store.audit(ME)) == 1


def test_a_change_of_what_was_changed_meanwhile_is_refused(store: Store) -> None:
    made = store.create(ME, new(1))
    store.update(ME, made.id, UserPatch(firstname="Zoé"), match=made.revision)
    assert (
        refused(lambda: store.update(ME, made.id, UserPatch(firstname="x"), match=made.revision)).code
        == "conflict.changed"
    )
    assert refused(lambda: store.delete(ME, made.id, match=made.revision)).code == "conflict.changed"


def test_edits_are_done_all_or_not_at_all_and_dry_ones_not(store: Store) -> None:
    assert len(store.edit(ME, [Create(new(1, generate=True)), Create(new(2))], dry=True)) == 2
    error = refused(lambda: store.edit(ME, [Create(new(1)), Create(new(1))]))
    assert (error.code, error.where) == ("conflict.login", "edit 2")
    assert store.users(ME) == []
    assert store.audit(ME) == []
    assert store.create(ME, new(3)).id == 1, "nothing was given away"


def test_writers_side_by_side_get_uids_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: store.create(ME, new(number)), range(24)))
    assert len({user.uid for user in made}) == len({user.id for user in made}) == 24
    assert sorted(user.revision for user in made) == list(range(1, 25))


# Passwords


def test_a_password_is_hashed_once_a_change_and_kept_in_no_clear(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made_hashes: list[str] = []
    count = itertools.count()

    def hashing(password: str) -> str:
        next(count)
        hash = real(password)
        made_hashes.append(hash)
        return hash

    real = hash_password
    monkeypatch.setattr(store_module, "hash_password", hashing)
    monkeypatch.setattr(edits, "hash_password", hashing)
    user = store.create(ME, new(1, password="correct horse"))
    store.update(ME, user.id, UserPatch(password="correct horse", firstname="Zoé"))
    store.update(ME, user.id, UserPatch(lastname="Doe"))
    store.edit(ME, [Update(user.id, UserPatch(password="another"))], dry=True)
    assert len(made_hashes) == 1
    with store.database.read() as session:
        row = session.execute(select(UserRow.hash, UserRow.sealed)).one()
    assert row.hash == made_hashes[0]
    assert verify_password("correct horse", row.hash)
    for table in ("users", "audit", "feed_changes", "counters"):
        with store.database.read() as session:
            assert "correct horse" not in str(session.execute(text(f"SELECT * FROM {table}")).all())


def test_a_showing_is_in_the_history_before_the_password_is_told(store: Store, clock: list[float]) -> None:
    user = store.create(ME, new(1, generate=True))
    clock[0] += 60
    (shown,) = store.show(ORGANIZER, [user.id])
    assert shown.password
    assert verify_password(shown.password, _hash(store, user.id))
    (entry, _) = store.audit(ME, key=str(user.id))
    assert (entry.topic, entry.actor, entry.origin, entry.at) == ("showings", "oli", "192.168.1.8", clock[0])
    assert shown.password not in json.dumps(entry.after)
    with store.database.read() as session:
        assert outbox.position(session).revision == 1, "the feed is not told"


def test_where_nobody_has_a_password_nothing_is_shown_and_nothing_written_down(store: Store) -> None:
    user = store.create(ME, new(1))
    assert store.show(ME, [user.id])[0].password is None
    assert len(store.audit(ME)) == 1


def test_a_password_is_taken_away(store: Store) -> None:
    user = store.create(ME, new(1, password="secret"))
    assert user.password_set is not None
    changed = store.update(ME, user.id, UserPatch(password=None))
    assert changed.password_set is None
    assert _hash(store, user.id) is None
    assert store.show(ME, [user.id])[0].password is None


def test_another_key_shows_nothing_and_lets_everybody_log_in(store: Store) -> None:
    user = store.create(ME, new(1, password="secret"))
    other = Store(store.database, Seal(bytes(32)))
    error = refused(lambda: other.show(ME, [user.id]))
    assert error.code == "udb.sealed"
    assert verify_password("secret", _hash(store, user.id))
    assert [entry.topic for entry in store.audit(ME)] == ["users"], "what was not shown is not written down as shown"
    other.update(ME, user.id, UserPatch(password="new one"))
    assert other.show(ME, [user.id])[0].password == "new one"


def test_without_a_key_there_are_no_passwords(store: Store) -> None:
    bare = Store(store.database, None)
    assert refused(lambda: bare.create(ME, new(1, password="secret"))).code == "udb.key"
    bare.create(ME, new(1))


def test_many_passwords_are_made_at_once(store: Store) -> None:
    made = users(store.edit(ME, [Create(new(number, generate=True)) for number in range(20)]))
    shown = store.show(ME, [user.id for user in made], how="sheet")
    assert len({each.password for each in shown}) == 20
    assert [each.login for each in shown] == [user.login for user in made]
    assert verify_password(shown[7].password or "", _hash(store, shown[7].id))
    assert len(store.audit(ME, topic="showings")) == 20


def _hash(store: Store, id: int) -> str | None:
    with store.database.read() as session:
        return session.scalar(select(UserRow.hash).where(UserRow.id == id))


# Who sees whom


@pytest.fixture
def three(store: Store) -> dict[UserGroup, int]:
    made = store.edit(ME, [Create(new(n, group=group, generate=True)) for n, group in enumerate(UserGroup)])
    return {user.group: user.id for user in users(made)}


def test_organizers_see_contestants_and_nobody_else(store: Store, three: dict[UserGroup, int]) -> None:
    user = three[UserGroup.USER]
    assert [each.id for each in store.users(ORGANIZER)] == [user]
    assert store.user(ORGANIZER, user) == store.user(ORGANIZER, "team00")
    assert [each.group for each in store.pools(ORGANIZER)] == [UserGroup.USER]
    assert {entry.key for entry in store.audit(ORGANIZER)} == {str(user)}
    assert store.show(ORGANIZER, [user])[0].password
    for id in (three[UserGroup.ORGA], three[UserGroup.ROOT]):
        for call in (
            lambda id=id: store.user(ORGANIZER, id),
            lambda id=id: store.show(ORGANIZER, [id]),
            lambda id=id: store.show(ORGANIZER, [user, id]),
        ):
            assert refused(call).code == "user.unknown"
        assert store.users(ORGANIZER, [id]) == []
        assert store.audit(ORGANIZER, key=str(id)) == []
    assert refused(lambda: store.user(ORGANIZER, "team02")).code == "user.unknown"
    assert [entry.topic for entry in store.audit(ME, topic="showings")] == ["showings"], (
        "what was refused was not shown"
    )


def test_organizers_change_nobody(store: Store, three: dict[UserGroup, int]) -> None:
    before = store.users(ME)
    everything: list[Edit] = [
        Create(new(9)),
        *(Update(id, UserPatch(firstname="x")) for id in three.values()),
        Update(three[UserGroup.USER], UserPatch(group=UserGroup.ROOT)),
        *(Delete(id) for id in three.values()),
    ]
    for edit in everything:
        for dry in (False, True):
            with pytest.raises(AccessError):
                store.edit(ORGANIZER, [edit], dry=dry)
    assert store.users(ME) == before


def test_the_past_of_who_was_an_organizer_is_not_shown_to_organizers(store: Store, three: dict[UserGroup, int]) -> None:
    id = three[UserGroup.ORGA]
    store.show(ME, [id])
    store.update(ME, id, UserPatch(group=UserGroup.USER))
    store.update(ME, id, UserPatch(firstname="now seen"))
    assert [entry.after for entry in store.audit(ORGANIZER, key=str(id))] == [{"firstname": "now seen"}]
    assert len(store.audit(ME, key=str(id))) == 4


# History and feeds


def test_the_history_says_who_changed_what(store: Store, clock: list[float]) -> None:
    user = store.create(ME, new(1, password="a"))
    clock[0] += 1
    store.update(ME, user.id, UserPatch(lastname="Doe", password="b"))
    store.delete(ME, user.id)
    gone, changed, made = store.audit(ME, key=str(user.id))
    assert (made.actor, made.origin, made.before, made.name) == ("alice", "192.168.1.7", None, "team01")
    assert changed.before == {"lastname": "", "password_set": clock[0] - 1}
    assert changed.after == {"lastname": "Doe", "password_set": clock[0]}
    assert gone.after is None


def test_the_private_feed_verifies_and_the_public_one_tells_no_secret(store: Store) -> None:
    user = store.create(ME, new(1, password="secret", keys=[KEY], site_id=7))
    store.update(ME, user.id, UserPatch(password="other"))
    store.delete(ME, user.id)
    with store.database.read() as session:
        changes = outbox.after(session, 0, limit=10)
    assert changes is not None
    assert [change.kind for change in changes] == [Kind.CREATED, Kind.UPDATED, Kind.DELETED]
    first, second, last = (change.record for change in changes)
    assert first is not None
    assert second is not None
    assert last is None
    assert set(first) == set(PRIVATE)
    assert first["hash"] != second["hash"]
    assert verify_password("other", second["hash"])
    assert (
        set(public(second))
        == set(PUBLIC)
        == {
            "id",
            "login",
            "firstname",
            "lastname",
            "uid",
            "group",
            "shell",
            "revision",
        }
    )
    assert (first["revision"], second["revision"]) == (1, 2)


def test_both_snapshots_are_what_changes_told(store: Store) -> None:
    store.edit(ME, [Create(new(number, generate=True)) for number in range(3)])
    with store.database.read() as session:
        changes = outbox.after(session, 0, limit=10)
        whole = {item.key: item.record for item in store.private_source(session, frozenset({"users"}))}
        shown = {item.key: item.record for item in store.source(session, frozenset({"users"}))}
    assert changes is not None
    assert whole == {change.key: change.record for change in changes}
    assert shown == {key: public(record) for key, record in whole.items()}


def test_what_nobody_knows_is_told(store: Store) -> None:
    for call in (
        lambda: store.user(ME, 7),
        lambda: store.user(ME, "nobody-here"),
        lambda: store.user(ME, "a\0b"),
        lambda: store.user(ME, "team01\n"),
        lambda: store.update(ME, 7, UserPatch(firstname="x")),
        lambda: store.show(ME, [7]),
    ):
        with pytest.raises(MissingError):
            call()
    edits_: list[Edit] = [Delete(1), Delete(1)]
    store.create(ME, new(1))
    assert refused(lambda: store.edit(ME, edits_)).code == "user.twice"
    assert not isinstance(refused(lambda: store.edit(ME, edits_)), BusyError)


# The message of the day


def test_roots_and_organizers_say_the_message_of_the_day_and_the_history_says_who(
    store: Store, clock: list[float]
) -> None:
    assert (store.message(ME).text, store.message(ME).updated) == ("", None)
    assert store.announce(ORGANIZER, "Lunch\r\nat \x1b[1mnoon \n").text == "Lunch\nat [1mnoon"
    clock[0] += 60
    store.announce(ME, "Lunch at one")
    assert (store.message(ORGANIZER).text, store.message(ORGANIZER).updated) == ("Lunch at one", clock[0])
    store.announce(ME, "")
    assert store.message(ME).text == ""
    found = [(entry.actor, entry.action.value, entry.after) for entry in store.audit(ORGANIZER, topic="message")]
    assert found[:2] == [("alice", "deleted", None), ("alice", "updated", {"text": "Lunch at one"})]
    assert found[2][:2] == ("oli", "created")


def test_a_message_that_is_there_already_or_too_long_is_no_other_one(store: Store) -> None:
    store.announce(ME, "hello")
    store.announce(ORGANIZER, "hello\n")
    assert refused(lambda: store.announce(ME, "x" * 601)).code == "message.long"
    assert len(store.audit(ME, topic="message")) == 1
    assert store.message(ME).text == "hello"
    assert refused(lambda: store.announce(Person("mallory", "local"), "x")).code == "auth.denied"


def test_both_feeds_have_the_message_until_it_is_taken_away(store: Store) -> None:
    store.create(ME, new(1))
    store.announce(ME, "hello")

    def told(topics: frozenset[str]) -> list[tuple[str, str]]:
        with store.database.read() as session:
            both = [list(source(session, topics)) for source in (store.source, store.private_source)]
        assert [(item.topic, item.key) for item in both[0]] == [(item.topic, item.key) for item in both[1]]
        return [(item.topic, str(item.record.get("text", ""))) for item in both[0]]

    assert told(frozenset({"message"})) == [("message", "hello")]
    assert told(frozenset({"users", "message"})) == [("users", ""), ("message", "hello")]
    store.announce(ME, "")
    assert told(frozenset({"message"})) == []
    with store.database.read() as session:
        changes = outbox.after(session, 1, limit=10)
    assert changes is not None
    assert [(each.topic, each.kind) for each in changes] == [("message", Kind.CREATED), ("message", Kind.DELETED)]
    assert changes[0].record is not None
    assert public(changes[0].record)["text"] == "hello"
