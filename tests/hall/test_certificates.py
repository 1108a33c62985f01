"""Certificates of the hall's CA: OpenSSL believes each for what it is meant for, and for nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.common.errors import Exit, InputError, UsageError
from services.common.main import run_module
from services.common.process import run
from services.hall import ca, certificates
from services.hall.certificates import Authority
from tests.hall.halls import hall

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def made() -> tuple[bytes, bytes]:
    return ca.make("finals", "prolo", passphrase=None)


@pytest.fixture(scope="module")
def authority(made: tuple[bytes, bytes]) -> Authority:
    return Authority.open(*made)


def verdict(tmp_path: Path, authority: bytes, pem: bytes, *options: str) -> str:
    """What openssl-verify(1), as strict as it can be, says of a certificate."""
    (tmp_path / "ca.pem").write_bytes(authority)
    (tmp_path / "leaf.pem").write_bytes(pem)
    argv: list[str | Path] = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        tmp_path / "ca.pem",
        *options,
        tmp_path / "leaf.pem",
    ]
    done = run(argv, check=False)
    return "good" if done.returncode == 0 else done.stderr


def test_a_servers_certificate_is_good_for_its_names_and_addresses(made: tuple[bytes, bytes], tmp_path: Path) -> None:
    pem = certificates.for_host(hall(), Authority.open(*made), "gw", scope=None)
    for options in (
        ["-verify_hostname", "mdb.prolo"],
        ["-verify_hostname", "depot.prolo"],
        ["-verify_ip", "192.168.1.254"],
        [],
    ):
        assert verdict(tmp_path, made[1], pem, "-purpose", "sslserver", *options) == "good"
    assert "hostname mismatch" in verdict(tmp_path, made[1], pem, "-verify_hostname", "web.prolo")
    assert "unsuitable" in verdict(tmp_path, made[1], pem, "-purpose", "sslclient")


def test_a_scopes_certificate_is_good_for_calling_only(made: tuple[bytes, bytes], tmp_path: Path) -> None:
    pem = certificates.for_host(hall(), Authority.open(*made), "rhfs01", scope="feed")
    assert verdict(tmp_path, made[1], pem, "-purpose", "sslclient") == "good"
    assert "unsuitable" in verdict(tmp_path, made[1], pem, "-purpose", "sslserver")
    subject = x509.load_pem_x509_certificate(pem).subject
    assert subject.rfc4514_string() == "OU=feed,CN=rhfs01"
    assert len(subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)) == 1


def test_the_upstream_address_is_left_out_as_the_ca_is_not_good_for_it(authority: Authority) -> None:
    found = hall(
        ('hall = "192.168.1.100"', 'hall = "192.168.1.100", world = "198.51.100.7"'),
        ("[networks.aliens]", '[networks.world]\ncidr = "198.51.100.0/24"\n\n[networks.aliens]'),
    )
    pem = certificates.for_host(found, authority, "web", scope=None)
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [IPv4Address("192.168.1.100")]


def test_a_certificate_ends_when_it_should_and_never_after_the_ca(authority: Authority) -> None:
    soon = x509.load_pem_x509_certificate(authority.issue("gw", scope="feed", days=30, now=NOW))
    assert soon.not_valid_after_utc == NOW + timedelta(days=30)
    late = x509.load_pem_x509_certificate(authority.issue("gw", scope="feed", days=36500))
    assert late.not_valid_after_utc == authority.certificate.not_valid_after_utc
    usage = soon.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_another_ca_vouches_for_nothing(authority: Authority, tmp_path: Path) -> None:
    _, other = ca.make("finals", "prolo", passphrase=None)
    assert verdict(tmp_path, other, authority.issue("gw", scope="feed")) != "good"


def test_the_cas_key_is_found_among_several_certificates(made: tuple[bytes, bytes]) -> None:
    _, other = ca.make("finals", "prolo", passphrase=None)
    assert Authority.open(made[0], other + made[1]).certificate == Authority.open(*made).certificate
    with pytest.raises(InputError, match="not that of the certificate"):
        Authority.open(made[0], other)


def test_a_locked_key_wants_its_passphrase() -> None:
    locked = ca.make("finals", "prolo", passphrase=b"correct horse")
    assert Authority.open(*locked, passphrase=b"correct horse")
    for passphrase in (None, b"wrong"):
        with pytest.raises(InputError, match="cannot be opened"):
            Authority.open(*locked, passphrase=passphrase)


def test_a_host_or_scope_that_is_none_is_refused(authority: Authority) -> None:
    with pytest.raises(UsageError, match="rhfs1 is no host") as caught:
        certificates.for_host(hall(), authority, "rhfs1", scope="feed")
    assert "rhfs01" in str(caught.value.hint)
    for scope in ("", "a,b", "CN=x", "a b", "x" * 64):
        with pytest.raises(UsageError, match="no scope"):
            certificates.for_host(hall(), authority, "gw", scope=scope)


def command(*words: str | Path) -> int:
    return run_module("services.hall.cli", "backline hall", [str(word) for word in words])


def test_the_command_writes_what_is_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse\n")
    words = [tmp_path / "hall", "--name", "finals", "--passphrase-file", phrase]
    assert run_module("services.hall.init", "backline init", [str(word) for word in words]) == 0
    capsys.readouterr()
    options: list[str | Path] = ["--hall", tmp_path / "hall/hall.toml", "--passphrase-file", phrase, "--json"]
    for more, name in (([], "backline.tls"), (["--scope", "feed"], "backline.client.feed")):
        for _ in range(2):  # a second time renews it
            assert command("certificate", "rhfs01", *more, *options) == 0
            answer = json.loads(capsys.readouterr().out)
            file = Path(answer["file"])
            assert (answer["credential"], file.name, file.stat().st_mode & 0o777) == (name, name, 0o600)
            assert b"BEGIN CERTIFICATE" in file.read_bytes()
            assert b"BEGIN PRIVATE KEY" in file.read_bytes()
    assert command("certificate", "rhfs01", "--hall", tmp_path / "hall/hall.toml", "--days", "0") == Exit.USAGE


def test_without_the_cas_key_there_is_no_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_module("services.hall.init", "backline init", [str(tmp_path / "hall"), "--name", "finals"]) == 0
    (tmp_path / ".config/backline/halls/finals/ca.key").unlink()
    assert command("certificate", "gw", "--hall", tmp_path / "hall/hall.toml") == Exit.MISSING
    assert "not here" in capsys.readouterr().err
