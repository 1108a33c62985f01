"""The service beside the real udb, both as processes: what udb knows is here, and what it forgets is gone."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.users import UserGroup
from services.identity.accounts import FILES, PASSWD, ROOT_KEYS
from services.identity.client import Identity
from services.identity.message import TEXT
from services.udb.client import Udb
from services.udb.schema import Edits, NewUser, UserPatch
from tests.common.service_rig import Service, activated
from tests.identity.people import KEY
from tests.udb import rig

IDENTITY = [sys.executable, "-m", "services.common.main", "identity", "serve"]
SECONDS = 15.0


@contextmanager
def following(folder: Path, udb: str, *, keys: bool, message: bool = False) -> Iterator[Service]:
    """An identity service over `folder`."""
    file = folder / "identity.toml"
    flags = f"keys = {str(keys).lower()}\nmessage = {str(message).lower()}\n"
    file.write_text(f'udb = "{udb}"\n{flags}folder = "{folder}/identity"\n')
    with tempfile.TemporaryDirectory(prefix="backline-identity-") as run:
        with activated(Path(run), [*IDENTITY, "--config", str(file)], env={}) as service:
            yield service


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def logins(folder: Path) -> list[str]:
    try:
        return [line.split(":")[0] for line in (folder / "identity/current" / PASSWD).read_text().splitlines()]
    except FileNotFoundError:
        return []


def test_users_come_and_go_and_keys_of_root_with_them(tmp_path: Path) -> None:
    (tmp_path / "udb").mkdir()
    with (
        rig.serving(tmp_path / "udb") as service,
        Udb(service.unix) as udb,
        following(tmp_path, service.unix, keys=True) as identity,
        Identity(identity.unix) as client,
    ):
        alice = udb.create(NewUser(login="alice", password="correct-horse"))
        rita = udb.create(NewUser(login="rita", group=UserGroup.ROOT, password="secret", keys=[KEY]))
        until(lambda: logins(tmp_path) == ["alice", "rita"])
        assert (tmp_path / "identity/current" / ROOT_KEYS).read_text() == f"{KEY} rita\n"
        until(lambda: client.status().state == "applied")
        udb.change(rita.id, UserPatch(keys=[]))
        until(lambda: (tmp_path / "identity/current" / ROOT_KEYS).read_text() == "")
        udb.delete(alice.id)
        until(lambda: logins(tmp_path) == ["rita"])
        everything = "".join((tmp_path / "identity/current" / name).read_text() for name in FILES)
        assert "$y$" not in everything
        assert client.status().left_out == []


def test_a_seat_s_feed_brings_no_keys_and_the_last_users_stay_when_udb_goes(tmp_path: Path) -> None:
    (tmp_path / "udb").mkdir()
    with tempfile.TemporaryDirectory(prefix="backline-udb-") as run:
        Path(run).chmod(0o711)
        with rig.serving(tmp_path / "udb", run=Path(run)) as service, Udb(service.unix) as udb:
            udb.edit(Edits(create=[NewUser(login=f"team{number:04}") for number in range(500)]))
            udb.create(NewUser(login="rita", group=UserGroup.ROOT, keys=[KEY]))
            with following(tmp_path, service.unix, keys=False):
                until(lambda: len(logins(tmp_path)) == 501)
                assert (tmp_path / "identity/current" / ROOT_KEYS).read_text() == ""
                address = service.unix
        with following(tmp_path, address, keys=False) as identity, Identity(identity.unix) as client:
            assert client.status().state == "pending"
            assert len(logins(tmp_path)) == 501
            with rig.serving(tmp_path / "udb", run=Path(run)) as service, Udb(service.unix) as udb:
                udb.delete(udb.user("team0000").id)
                until(lambda: len(logins(tmp_path)) == 500)


def test_a_message_of_the_day_comes_and_goes_beside_the_users(tmp_path: Path) -> None:
    (tmp_path / "udb").mkdir()
    text = tmp_path / "identity/message" / TEXT
    with (
        rig.serving(tmp_path / "udb") as service,
        Udb(service.unix) as udb,
        following(tmp_path, service.unix, keys=False, message=True),
    ):
        udb.create(NewUser(login="alice"))
        until(lambda: logins(tmp_path) == ["alice"])
        udb.announce("Lunch is at noon")
        until(lambda: text.exists() and text.read_text() == "Lunch is at noon\n")
        udb.announce("")
        until(lambda: text.read_text() == "")
        assert logins(tmp_path) == ["alice"]


def test_nobody_answers_for_an_udb_that_is_not_there(tmp_path: Path) -> None:
    with following(tmp_path, f"unix:{tmp_path}/nobody.sock", keys=False) as service, Identity(service.unix) as client:
        status = client.status()
        assert (status.state, status.users, status.generation) == ("pending", 0, None)
        assert status.problem is not None
