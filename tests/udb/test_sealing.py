"""Passwords that can be given back: by the one key, for the one user."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import HostError, IntegrityError
from services.udb.sealing import CREDENTIAL, Seal

KEY = bytes(range(32))


@given(st.text(min_size=1, max_size=100).filter(lambda text: text.isprintable()), st.integers(0, 2**63 - 1))
def test_what_was_sealed_opens_for_its_user_alone(password: str, user: int) -> None:
    seal = Seal(KEY)
    sealed = seal.close(password, user=user)
    assert seal.open(sealed, user=user) == password
    assert password not in sealed or len(password) < 4
    with pytest.raises(IntegrityError):
        seal.open(sealed, user=user + 1)
    with pytest.raises(IntegrityError):
        Seal(bytes(32)).open(sealed, user=user)


@given(st.data())
def test_a_bit_that_was_changed_is_seen(data: st.DataObject) -> None:
    sealed = bytearray(base64.b64decode(Seal(KEY).close("secret", user=1)))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        Seal(KEY).open(base64.b64encode(sealed).decode(), user=1)


@pytest.mark.parametrize("text", ["", "x", "AQ==", "A" * 40, "é", "AQ" + "A" * 8000])
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    with pytest.raises(IntegrityError):
        Seal(KEY).open(text, user=1)


def test_it_is_aes_256_gcm_as_the_standard_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the implementation of another program: cryptography's, which administrators' machines have."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = bytes(range(100, 112))
    monkeypatch.setattr(secrets, "token_bytes", lambda size: nonce[:size])
    theirs = AESGCM(KEY).encrypt(nonce, "clé".encode(), b"backline udb password of user 7")
    assert base64.b64decode(Seal(KEY).close("clé", user=7)) == b"\x01" + nonce + theirs


def test_two_seals_of_a_password_differ() -> None:
    assert Seal(KEY).close("secret", user=1) != Seal(KEY).close("secret", user=1)


def test_the_key_is_the_units_credential(tmp_path: Path) -> None:
    assert Seal.of_this_service({}) is None
    assert Seal.of_this_service({"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    (tmp_path / CREDENTIAL).write_bytes(b"short")
    with pytest.raises(HostError, match="5 bytes"):
        Seal.of_this_service({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    (tmp_path / CREDENTIAL).write_bytes(KEY)
    found = Seal.of_this_service({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found is not None
    assert found.open(Seal(KEY).close("secret", user=1), user=1) == "secret"
