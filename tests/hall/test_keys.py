"""What is taken for a public key, a CA certificate, a secret."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from services.hall import keys
from tests.hall.halls import certificate


def test_a_ca_certificate_is_taken_in_its_plain_form() -> None:
    assert keys.check_ca(f"\n\n{certificate()}\n") == certificate()


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        ("", "no PEM certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "only certificates"),
    ],
)
def test_what_is_no_ca_certificate_is_refused_with_a_reason(pem: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keys.check_ca(pem)


def test_text_around_a_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        keys.check_ca(f"hello\n{certificate()}")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="missing capability: openssl")
def test_a_certificate_that_is_no_ca_is_refused(tmp_path: Path) -> None:
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
    ]
    argv += ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "/dev/null", "-out", str(tmp_path / "c.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    with pytest.raises(ValueError, match="not that of a CA"):
        keys.check_ca((tmp_path / "c.pem").read_text())


@pytest.mark.parametrize(
    "name", ["password", "root_password", "secret", "api_token", "psk", "private_key", "passphrase"]
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert keys.names_secret(name)


@pytest.mark.parametrize("name", ["name", "keys", "time_zone", "compass", "pinning", "key", "ca"])
def test_other_names_are_no_secrets(name: str) -> None:
    assert not keys.names_secret(name)
