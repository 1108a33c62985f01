"""What may be published, on both databases, with real signatures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.exc import IntegrityError as BrokenRule

from services.common import signing
from services.common.database import Database
from services.common.errors import BacklineError, MissingError
from services.common.statement import Statement
from services.depot.files import Files, Whole
from services.depot.models import PublicationRow
from services.depot.schema import NewProgress, NewPublication, Publication, State
from services.depot.store import Store
from tests.depot.rig import HALL, OLD, ONE, RECEIVERS, THREE, TWO, Image, People, image, publication, says


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def store(database: Database, tmp_path: Path, people: People) -> Store:
    """A depot that has four versions."""
    files = Files(tmp_path / "depot")
    files.prepare()
    for version in (OLD, ONE, TWO, THREE):
        enter(files, image(version))
    signers = tmp_path / "allowed_signers"
    signing.write_signers(signers, people.signers())
    made = Store(database, files, signers_file=signers, hall=HALL, receivers=RECEIVERS, clock=lambda: 1000.0)
    made.prepare()
    return made


def enter(files: Files, made: Image) -> None:
    for name, begin in (files.begin(made.ref, made.manifest, {}) or {}).items():
        with files.receive(made.ref, name, begin) as sink:
            sink.write(made.files[name][begin:])
    files.complete(made.ref)


def nobody(whole: Whole, said: Statement) -> None:
    """Nobody has to know."""


def publish(store: Store, new: NewPublication, announce: Callable[[Whole, Statement], None] = nobody) -> Publication:
    return store.publish("root", new, announce)


def refusal(store: Store, new: NewPublication) -> str:
    before = store.publications()
    with pytest.raises(BacklineError) as caught:
        publish(store, new)
    assert store.publications() == before
    return caught.value.code


def test_numbers_count_on_each_channel_by_itself(store: Store, people: People) -> None:
    assert store.channel("stable").next_sequence == 1
    first = publish(store, publication(people, says(image(ONE), 1)))
    second = publish(store, publication(people, says(image(TWO), 2)))
    other = publish(store, publication(people, says(image(ONE), 1, channel="next")))
    assert (first.id, second.id, other.id) == (1, 2, 3)
    assert (first.signed_by, first.published_by, first.at) == (["anna"], "root", 1000.0)
    found = store.channel("stable")
    assert (found.last_sequence, found.version, found.versions) == (2, TWO, {"nfsroot": TWO})
    assert [each.id for each in store.publications()] == [3, 2, 1]
    assert [each.id for each in store.publications(channel="stable", since=1)] == [2]


def test_an_old_statement_once_more_is_refused(store: Store, people: People) -> None:
    old = publication(people, says(image(ONE), 1))
    publish(store, old)
    publish(store, publication(people, says(image(TWO), 2)))
    assert publish(store, old).id == 1  # it is answered with what it became, and moves nothing
    assert store.channel("stable").version == TWO
    replayed = publication(people, says(image(ONE), 1, why="once more"))
    assert refusal(store, replayed) == "publish.sequence"


def test_a_number_cannot_be_left_out(store: Store, people: People) -> None:
    assert refusal(store, publication(people, says(image(ONE), 2))) == "publish.sequence"


def test_only_whom_hall_toml_trusts_publishes_and_only_as_long(store: Store, people: People) -> None:
    assert refusal(store, publication(people, says(image(ONE), 1), by="eve")) == "publish.signature"
    signing.write_signers(store.signers_file, [])
    assert refusal(store, publication(people, says(image(ONE), 1))) == "publish.signature"


def test_a_statement_that_was_changed_is_refused(store: Store, people: People) -> None:
    good = publication(people, says(image(ONE), 1))
    changed = msgspec.structs.replace(good, statement=good.statement.replace(ONE, TWO))
    assert refusal(store, changed) == "publish.signature"


def test_a_statement_for_another_hall_or_another_build_is_refused(store: Store, people: People) -> None:
    assert refusal(store, publication(people, says(image(ONE), 1, hall="other"))) == "publish.hall"
    built_again = image(ONE, change="not reproducible")
    assert refusal(store, publication(people, says(built_again, 1))) == "publish.manifest"
    assert refusal(store, publication(people, says(image("20261124.0123456789ab"), 1))) == "depot.unknown"


@pytest.mark.parametrize("back", [OLD, ONE])
def test_a_step_back_has_to_be_meant(store: Store, people: People, back: str) -> None:
    publish(store, publication(people, says(image(ONE), 1)))
    publish(store, publication(people, says(image(TWO), 2)))
    assert refusal(store, publication(people, says(image(back), 3))) == "publish.downgrade"
    publish(store, publication(people, says(image(back), 3, allow_downgrade=True)))
    assert store.channel("stable").version == back


def test_it_is_for_receivers_of_this_hall(store: Store, people: People) -> None:
    with pytest.raises(BacklineError, match="rhsf1 receives no versions") as caught:
        publish(store, publication(people, says(image(ONE), 1), to=["rhsf1"]))
    assert caught.value.hint == "did you mean rhfs1 or rhfs2?"
    assert publish(store, publication(people, says(image(ONE), 1), to=["rhfs2"])).receivers == ["rhfs2"]
    assert publish(store, publication(people, says(image(TWO), 2))).receivers == ["rhfs1", "rhfs2"]


def test_what_netboot_cannot_be_told_is_not_published(store: Store, people: People) -> None:
    def away(whole: Whole, said: Statement) -> None:
        raise MissingError("remote.unreachable", "netboot cannot be reached")

    new = publication(people, says(image(ONE), 1))
    with pytest.raises(MissingError):
        publish(store, new, away)
    assert store.channel("stable").last_sequence == 0
    assert publish(store, new).id == 1


def test_two_administrators_at_once_get_two_numbers(store: Store, people: People) -> None:
    wanted = [publication(people, says(image(version), 1)) for version in (ONE, TWO)]
    codes: list[str] = []

    def one(new: NewPublication) -> None:
        try:
            publish(store, new)
            codes.append("published")
        except BacklineError as error:
            codes.append(error.code)

    threads = [threading.Thread(target=one, args=(new,)) for new in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["publish.sequence", "published"]
    assert store.channel("stable").last_sequence == 1


def test_the_database_itself_has_each_number_once(store: Store, database: Database) -> None:
    values = {"channel": "stable", "sequence": 1, "role": "nfsroot", "version": ONE, "statement": "{}", "at": 0.0}
    lists = {"signatures": "[]", "to": "[]", "signed_by": "[]", "published_by": "root"}

    def twice() -> None:
        with database.write() as session:
            session.add_all([PublicationRow(**values, **lists), PublicationRow(**values, **lists)])

    with pytest.raises(BrokenRule):
        twice()


def test_the_last_word_of_a_receiver_is_remembered(store: Store, people: People) -> None:
    made = publish(store, publication(people, says(image(ONE), 1)))
    for amount, state in ((10, State.PULLING), (60, State.PULLING), (80, State.CONFIRMED)):
        store.progress(made.id, "rhfs1", NewProgress(bytes=amount, total=80, full=900, state=state))
    found = store.publication(made.id)
    assert [(each.host, each.bytes, each.full, each.state) for each in found.progress] == [
        ("rhfs1", 80, 900, State.CONFIRMED)
    ]
    assert found.revision == 3
    again = Store(store.database, store.files, signers_file=store.signers_file, hall=HALL, receivers=RECEIVERS)
    assert again.publication(made.id).progress == found.progress


def test_bytes_on_the_way_are_seen_but_not_written_down(store: Store, people: People) -> None:
    made = publish(store, publication(people, says(image(ONE), 1)))
    for amount in (10, 60):
        store.progress(made.id, "rhfs1", NewProgress(bytes=amount, total=80, full=900, state=State.PULLING))
    assert store.publication(made.id).progress[0].bytes == 60
    again = Store(store.database, store.files, signers_file=store.signers_file, hall=HALL, receivers=RECEIVERS)
    assert again.publication(made.id).progress[0].bytes == 10


def test_a_word_of_somebody_else_is_refused(store: Store, people: People) -> None:
    made = publish(store, publication(people, says(image(ONE), 1), to=["rhfs1"]))
    word = NewProgress(bytes=0, total=1, full=1, state=State.PULLING)
    for host in ("rhfs2", "p0001"):
        with pytest.raises(BacklineError, match="is not for"):
            store.progress(made.id, host, word)
    with pytest.raises(MissingError):
        store.progress(99, "rhfs1", word)
