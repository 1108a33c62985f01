"""Where `backline login` keeps sessions: for their user alone, for their address alone, until they end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from services.common import login, saved_sessions
from services.common.commands import place_of
from services.common.errors import MissingError, UsageError
from services.common.login import Known
from services.common.saved_sessions import Saved
from services.common.signing import new_key
from services.common.tls import TlsSettings, client_context
from tests.hall.halls import OTHER_KEY, proposal


def saved(seconds: float = 60) -> Saved:
    return Saved("session.a.b", "ada", "root", int(time.time() + seconds))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backline/sessions.json"


def test_a_session_is_found_for_its_address_however_it_is_written(file: Path) -> None:
    assert not saved_sessions.save("https://mdb.prolo", saved(), path=file)
    assert file.stat().st_mode & 0o777 == 0o600
    for url in ("https://mdb.prolo", "https://MDB.prolo/", "https://mdb.prolo:443/v1/machines"):
        assert saved_sessions.find(url, path=file) == saved_sessions.load(file)["https://mdb.prolo"]
    for url in ("http://mdb.prolo", "https://mdb.prolo:8443", "https://udb.prolo", "https://mdb.prolo.evil", "unix:/x"):
        assert saved_sessions.find(url, path=file) is None


def test_a_session_that_has_ended_is_none(file: Path) -> None:
    saved_sessions.save("https://mdb.prolo", saved(-1), path=file)
    assert saved_sessions.find("https://mdb.prolo", path=file) is None


def test_a_file_that_others_may_read_holds_nothing(file: Path) -> None:
    saved_sessions.save("https://mdb.prolo", saved(), path=file)
    file.chmod(0o640)
    assert saved_sessions.load(file) == {}


def test_what_is_forgotten_is_gone_and_the_others_stay(file: Path) -> None:
    for host in ("mdb", "udb"):
        saved_sessions.save(f"https://{host}.prolo", saved(), path=file)
    assert saved_sessions.save("https://mdb.prolo", None, path=file)
    assert not saved_sessions.save("https://mdb.prolo", None, path=file)
    assert list(saved_sessions.load(file)) == ["https://udb.prolo"]


@pytest.mark.parametrize("url", ["mdb", "http://mdb", "https://", "https://a:b@mdb", "https://mdb:port", "ssh://mdb"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        saved_sessions.address_of(url)


def test_the_hall_says_where_mdb_is_whom_to_believe_and_whose_a_key_is(tmp_path: Path) -> None:
    (tmp_path / "hall.toml").write_text(proposal())
    known = login.read_hall(tmp_path / "hall.toml")
    assert known.domain == "prolo"
    assert client_context(TlsSettings(ca=login._ca(None, known, "https://mdb.prolo", tmp_path))).get_ca_certs()
    assert [blob for _, blob in known.keys] == [OTHER_KEY.split()[1]]
    # Another domain's server is not for this hall's CA to vouch for.
    assert login._ca(None, known, "https://mdb.example.org", tmp_path) is None


def test_the_key_that_hall_toml_lists_is_the_one_that_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(MissingError, match="no Ed25519 key"), login.chosen_key(None, Known()):
        pass
    (tmp_path / ".ssh").mkdir()
    first = new_key(tmp_path / ".ssh/id_ed25519", comment="first")
    second = new_key(tmp_path / ".ssh/id_ed25519_sk", comment="second")
    for known, wanted in ((Known(), first), (Known(keys=(("ada", second.blob),)), second)):
        with login.chosen_key(None, known) as (_, public):
            assert public == wanted


def test_a_command_asks_whom_it_is_told_else_this_host_else_where_one_is_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    own = f"unix:{tmp_path}/udb.sock"
    assert place_of(None, own) == own
    for address in ("https://udb.prolo", "https://mdb.prolo"):
        saved_sessions.save(address, Saved("token", "oli", "organizer", int(time.time()) + 60))
    assert place_of(None, own) == "https://udb.prolo"
    assert place_of("https://elsewhere", own) == "https://elsewhere"
    saved_sessions.save("https://udb.other", Saved("token", "oli", "organizer", int(time.time()) + 60))
    with pytest.raises(UsageError, match="logged in at"):
        place_of(None, own)
    (tmp_path / "udb.sock").touch()
    assert place_of(None, own) == own
