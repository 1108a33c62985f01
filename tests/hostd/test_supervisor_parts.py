"""The supervisor's TLS: the hall's CA from where this host has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e import halls
from services.hall import certificates
from services.hostd.supervisor_parts import CREDENTIAL, tls_of_this_host


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with a certificate of a hall; its hall.toml."""
    made = halls.make()
    assert made.authority is not None
    (tmp_path / CREDENTIAL).write_bytes(certificates.for_host(made.data, made.authority, "rhfs01", scope=None))
    (tmp_path / "backline.hall").write_text(made.text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path / "backline.hall"


def test_iron_believes_the_ca_of_the_hall_toml_that_host_init_was_given(hall: Path, tmp_path: Path) -> None:
    context = tls_of_this_host(tmp_path / "none.pem", hall=hall)
    assert context is not None
    assert len(context.get_ca_certs()) == 1


def test_without_a_hall_or_a_certificate_there_is_no_tls(hall: Path, tmp_path: Path) -> None:
    assert tls_of_this_host(tmp_path / "none.pem", hall=tmp_path / "none") is None
    (tmp_path / CREDENTIAL).unlink()
    assert tls_of_this_host(tmp_path / "none.pem", hall=hall) is None
