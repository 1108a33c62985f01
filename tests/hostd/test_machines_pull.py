"""The iron pulls versions of servers from a depot: what was signed and nothing else, going on where it was cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common import signing
from services.common.codec import encode_json
from services.common.depot import DepotFiles
from services.common.errors import BacklineError, HostError, IntegrityError, MissingError
from services.common.statement import Publication
from services.common.versions import Ref
from services.hostd.machines_images import Images
from services.hostd.machines_pull import Puller
from tests.roots.rig import HALL, Hall, hall, noise

ROLE = "rhfs"


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Hall]:
    with hall(tmp_path) as made:
        (made.server.root / "v1").mkdir()
        publish(made)
        yield made


def publish(depot: Hall, *publications: Publication) -> None:
    text = json.dumps({"publications": [json.loads(encode_json(each)) for each in reversed(publications)]})
    (depot.server.root / "v1/publications").write_text(text)


def images(depot: Hall) -> Images:
    return Images(depot.place / "images")


def pull(depot: Hall, version: str = "", *, hall: str = HALL, reserve: int = 0, pieces: list[int] | None = None) -> Ref:
    with DepotFiles(depot.server.url) as files:
        puller = Puller(images(depot), files, signers=[depot.signer], hall=hall, reserve=reserve)
        found = puller.find(ROLE, version, channel="stable")
        puller.pull(found, (pieces if pieces is not None else []).append)
    return found.ref


def refused(depot: Hall, version: str = "", **how: object) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        pull(depot, version, **how)  # type: ignore[arg-type]
    assert images(depot).versions(ROLE) == []
    return caught.value


def test_the_newest_version_comes_as_it_was_signed(depot: Hall) -> None:
    old, new = depot.version(role=ROLE), depot.version(role=ROLE, date="20260201")
    seat = depot.version()
    publish(
        depot,
        depot.publication(old, id=1, sequence=1),
        depot.publication(new, id=2, sequence=2),
        depot.publication(seat, id=3, sequence=3),
    )
    assert pull(depot) == new
    folder = images(depot).base / ROLE / new.version
    assert (folder / "root.erofs").read_bytes() == depot.file(new, "root.erofs").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "publication.json", "root.erofs"]
    assert images(depot).versions(ROLE) == [new.version]
    assert pull(depot, old.version) == old, "one that is named may be older"
    assert images(depot).find(ROLE) == new.version


def test_what_was_cut_off_goes_on_and_no_byte_comes_twice(depot: Hall) -> None:
    ref = depot.version(role=ROLE)
    publish(depot, depot.publication(ref))
    depot.server.cut = 300_000
    pieces: list[int] = []
    pull(depot, pieces=pieces)
    assert sum(pieces) == 2_000_000
    assert len(depot.server.paths("root.erofs")) > 5


def test_a_pull_that_died_is_gone_on_with_by_the_next_one(depot: Hall) -> None:
    ref = depot.version(role=ROLE)
    publish(depot, depot.publication(ref))

    class Died(Exception):
        pass

    def dies(count: int) -> None:
        if sum(came) > 500_000:
            raise Died
        came.append(count)

    came: list[int] = []
    with DepotFiles(depot.server.url) as files:
        puller = Puller(images(depot), files, signers=[depot.signer], hall=HALL, reserve=0)
        with pytest.raises(Died):
            puller.pull(puller.find(ROLE, "", channel="stable"), dies)
    assert images(depot).versions(ROLE) == []
    assert depot.server.offsets == []
    assert pull(depot) == ref
    (offset,) = depot.server.offsets
    assert offset > 300_000, "what had come is not fetched again"


def test_what_a_dead_pull_left_damaged_is_fetched_again(depot: Hall) -> None:
    ref = depot.version(role=ROLE)
    publish(depot, depot.publication(ref))
    part = images(depot).base / ROLE / f".pull-{ref.version}" / "root.erofs.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(noise(99, 1000))
    assert pull(depot) == ref


@pytest.mark.parametrize("name", ["root.erofs", "manifest.json"])
def test_what_was_changed_on_the_way_is_refused(depot: Hall, name: str) -> None:
    publish(depot, depot.publication(depot.version(role=ROLE)))
    depot.server.change = lambda path, content: content[:-1] + b"x" if path.endswith(name) else content
    error = refused(depot)
    assert error.code == ("machine.artefact" if name == "root.erofs" else "publish.manifest")


def test_what_nobody_of_the_hall_has_signed_is_refused(depot: Hall, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    signing.new_key(stranger, comment="mallory")
    publish(depot, depot.publication(depot.version(role=ROLE), key=stranger))
    assert refused(depot).code == "publish.signature"


def test_a_statement_of_another_hall_is_refused(depot: Hall) -> None:
    publish(depot, depot.publication(depot.version(role=ROLE)))
    assert refused(depot, hall="curie").code == "publish.hall"


def test_an_old_statement_is_not_taken_once_more(depot: Hall) -> None:
    old, new = depot.version(role=ROLE), depot.version(role=ROLE)
    publications = depot.publication(old, id=1, sequence=1), depot.publication(new, id=2, sequence=2)
    publish(depot, *publications)
    pull(depot)
    publish(depot, publications[0])
    with pytest.raises(IntegrityError, match="number 1 of channel stable"):
        pull(depot)
    assert images(depot).versions(ROLE) == [new.version]
    publish(depot, *publications)
    assert pull(depot) == new, "the last one may be asked for again"


def test_a_newer_one_that_is_no_good_does_not_hide_a_good_one(depot: Hall, tmp_path: Path) -> None:
    good, bad = depot.version(role=ROLE), depot.version(role=ROLE)
    stranger = tmp_path / "stranger"
    signing.new_key(stranger, comment="mallory")
    publish(depot, depot.publication(good, id=1, sequence=1), depot.publication(bad, id=2, sequence=2, key=stranger))
    assert pull(depot) == good


def test_what_was_not_published_and_what_has_no_room_is_said(depot: Hall) -> None:
    with pytest.raises(MissingError, match="a version of rhfs was not published on channel stable"):
        pull(depot)
    publish(depot, depot.publication(depot.version(role=ROLE)))
    with pytest.raises(HostError, match="stay free"):
        pull(depot, reserve=1 << 60)
