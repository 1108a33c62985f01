"""`backline init` makes a whole hall, keeps private keys to the administrator, and never loses one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common import signing
from services.common.errors import Exit
from services.common.main import run_module
from services.hall import ca, load
from tests.hall.halls import OTHER_KEY

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="missing capability: ssh-keygen")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True)
    (path / ".ssh/id_ed25519.pub").write_text(f"{OTHER_KEY} alice@laptop\n")
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("LOGNAME", "alice")
    return path


def init(*words: str | Path) -> int:
    return run_module("services.hall.init", "backline init", [str(word) for word in words])


def snapshot(*roots: Path) -> dict[str, tuple[int, str]]:
    paths = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mode & 0o777, path.read_text()) for path in paths}


def config(home: Path) -> Path:
    return home / ".config/backline"


def test_a_new_hall_is_right_and_trusts_the_new_keys(home: Path, tmp_path: Path) -> None:
    assert init(tmp_path / "hall", "--name", "finals") == 0
    found = load.load(tmp_path / "hall/hall.toml")
    assert found.trust.ca == (config(home) / "halls/finals/ca.pem").read_text()
    signer = found.trust.signers[0].signer()
    assert (signer.name, signer.key) == ("alice", signing.read_public(config(home) / "keys/alice"))
    assert [person.keys for person in found.administrators] == [[f"{OTHER_KEY} alice@laptop"]]


def test_private_keys_are_the_administrators_alone_and_not_beside_the_hall(home: Path, tmp_path: Path) -> None:
    init(tmp_path / "hall")
    assert [path.name for path in (tmp_path / "hall").iterdir()] == ["hall.toml"]
    assert config(home).stat().st_mode & 0o777 == 0o700
    private = {path for path, (_, text) in snapshot(home, tmp_path / "hall").items() if "PRIVATE KEY" in text}
    assert private == {str(config(home) / name) for name in ("keys/alice", "halls/hall/ca.key")}
    assert all(Path(path).stat().st_mode & 0o777 == 0o600 for path in private)


def test_the_configuration_folder_is_where_xdg_says(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert init(tmp_path / "hall") == 0
    assert (tmp_path / "xdg/backline/keys/alice").exists()
    assert not config(home).exists()


def test_a_second_time_is_refused_and_changes_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "hall")
    before = snapshot(home, tmp_path / "hall")
    assert init(tmp_path / "hall") == Exit.USAGE
    assert "there is a hall here already" in capsys.readouterr().err
    assert snapshot(home, tmp_path / "hall") == before


def test_force_sets_the_hall_aside_and_keeps_every_key(home: Path, tmp_path: Path) -> None:
    init(tmp_path / "hall")
    (tmp_path / "hall/hall.toml").write_text("mine\n")
    keys = snapshot(config(home))
    for _ in range(2):
        assert init(tmp_path / "hall", "--force") == 0
    assert (tmp_path / "hall/hall.toml.1").read_text() == "mine\n"
    assert (tmp_path / "hall/hall.toml.2").exists()
    assert snapshot(config(home)) == keys


def test_keys_of_a_run_that_died_are_used(home: Path, tmp_path: Path) -> None:
    init(tmp_path / "one")
    keys = snapshot(config(home))
    assert init(tmp_path / "two") == 0
    assert snapshot(config(home)) == keys


def test_the_key_that_build_keys_chose_is_the_signer(home: Path, tmp_path: Path) -> None:
    keys = config(home) / "keys"
    for name in ("old", "new"):
        signing.new_key(keys / name, comment=name)
    assert init(tmp_path / "hall") == Exit.USAGE
    (config(home) / "default-key").write_text("new\n")
    assert init(tmp_path / "hall") == 0
    signer = load.load(tmp_path / "hall/hall.toml").trust.signers[0].signer()
    assert (signer.name, signer.key) == ("new", signing.read_public(keys / "new"))


def test_a_new_signing_key_is_trusted_by_the_builder(home: Path, tmp_path: Path) -> None:
    init(tmp_path / "hall")
    (signer,) = signing.read_signers(config(home) / "allowed_signers")
    assert (signer.name, signer.key) == ("alice", signing.read_public(config(home) / "keys/alice"))


def test_a_ca_of_another_domain_is_not_used(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path / "one")
    assert init(tmp_path / "two", "--domain", "example.org") == Exit.INPUT
    assert "for prolo, not for example.org" in capsys.readouterr().err
    assert not (tmp_path / "two/hall.toml").exists()


def test_a_hall_is_not_put_among_the_private_keys(home: Path) -> None:
    assert init(config(home) / "here") == Exit.USAGE


def test_a_folder_that_others_may_write_to_gets_no_key(home: Path, tmp_path: Path) -> None:
    config(home).mkdir(parents=True)
    config(home).chmod(0o777)
    assert init(tmp_path / "hall") == Exit.HOST
    assert not list(config(home).iterdir())


def test_without_ssh_keys_the_hall_is_right_and_the_lack_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".ssh/id_ed25519.pub").write_text("ssh-dss AAAA old\n")
    assert init(tmp_path / "hall") == 0
    said = capsys.readouterr().err
    assert "id_ed25519.pub is no key for administrators" in said
    assert "nobody can log in" in said
    assert load.load(tmp_path / "hall/hall.toml").administrators == []


def test_json_lists_what_was_made(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(tmp_path / "hall", "--json")
    made = json.loads(capsys.readouterr().out)
    assert made["hall"] == str(tmp_path / "hall/hall.toml")
    assert made["ca_new"]
    assert made["signing_key_new"]
    assert all(Path(made[what]).exists() for what in ("ca_certificate", "ca_key", "signing_key"))


@pytest.mark.parametrize("option", [("--name", "a_b"), ("--domain", "x.local"), ("--name", "../x")])
def test_impossible_names_make_nothing(home: Path, tmp_path: Path, option: tuple[str, str]) -> None:
    assert init(tmp_path / "hall", *option) == Exit.USAGE
    assert not config(home).exists()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_comment_of_an_ssh_key_is_survived(home: Path, tmp_path: Path, comment: str) -> None:
    (home / ".ssh/id_ed25519.pub").write_text(f"{OTHER_KEY} {comment}\n", newline="")
    assert init(tmp_path / "hall", "--force", "--json") == 0


# The CA, as OpenSSL sees it.

openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="missing capability: openssl")


def ssl(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *map(str, words)], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    folder = tmp_path / "ca"
    ca.keep(folder, "finals", "prolo", passphrase=None)
    return folder


def verdict(folder: Path, names: str) -> str:
    """What OpenSSL says of a server certificate for `names` that this CA signed."""
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "leaf.key"]
    done = ssl("req", "-new", *options, "-subj", "/O=x", "-out", "leaf.csr", folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "ext").write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n")
    options = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext"]
    done = ssl("x509", "-req", "-in", "leaf.csr", *options, "-out", "leaf.pem", folder=folder)
    assert done.returncode == 0, done.stderr
    done = ssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", "ca.pem", "leaf.pem", folder=folder)
    return done.stdout + done.stderr


@openssl
@pytest.mark.parametrize("names", ["DNS:mdb.prolo", "DNS:a.b.prolo,IP:192.168.1.254"])
def test_certificates_of_the_halls_names_are_good(authority: Path, names: str) -> None:
    assert "leaf.pem: OK" in verdict(authority, names)


@openssl
@pytest.mark.parametrize(
    "names", ["DNS:example.org", "DNS:mdb.prolo,DNS:example.org", "IP:198.51.100.1", "DNS:notprolo"]
)
def test_certificates_of_other_names_are_not(authority: Path, names: str) -> None:
    assert "permitted subtree violation" in verdict(authority, names)


@openssl
def test_the_ca_is_p256_for_ten_years_and_signs_servers_only(authority: Path) -> None:
    text = ssl("x509", "-in", "ca.pem", "-noout", "-text", folder=authority).stdout
    assert "prime256v1" in text
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
    years = 10 * 365 * 86400
    assert ssl("x509", "-in", "ca.pem", "-checkend", str(years - 86400), folder=authority).returncode == 0
    assert ssl("x509", "-in", "ca.pem", "-checkend", str(years + 5 * 86400), folder=authority).returncode == 1


@openssl
def test_a_passphrase_protects_the_cas_key(home: Path, tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text("correct horse\n")
    assert init(tmp_path / "hall", "--passphrase-file", tmp_path / "phrase") == 0
    folder = config(home) / "halls/hall"
    assert "ENCRYPTED" in (folder / "ca.key").read_text()
    assert ssl("pkey", "-in", "ca.key", "-passin", "pass:correct horse", "-noout", folder=folder).returncode == 0
    assert ssl("pkey", "-in", "ca.key", "-passin", "pass:wrong", "-noout", folder=folder).returncode != 0


def test_an_empty_passphrase_file_makes_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "phrase").write_text("\n")
    assert init(tmp_path / "hall", "--passphrase-file", tmp_path / "phrase") == Exit.INPUT
    assert not config(home).exists()
