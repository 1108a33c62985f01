"""Tokens: whatever is changed in one, it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import AccessError, HostError
from services.common.tokens import CREDENTIAL, Claims, Kind, Tokens, new_key

TOKENS = Tokens(bytes(32), clock=lambda: 1000.0)
TOKEN = TOKENS.for_machine("p0001", machine=7, boot="ab", seconds=60)


def test_a_token_gives_back_what_went_in() -> None:
    kind, claims = TOKENS.read(TOKEN, Kind.SESSION, Kind.MACHINE)
    assert (kind, claims.name, claims.machine, claims.boot) == (Kind.MACHINE, "p0001", 7, "ab")
    assert (claims.scopes, claims.expires) == (("feed", "heartbeat", "login"), 1060)


def test_two_tokens_of_the_same_claims_differ() -> None:
    assert TOKENS.mint(Kind.SESSION, Claims(name="a"), seconds=1) != TOKENS.mint(
        Kind.SESSION, Claims(name="a"), seconds=1
    )


def test_a_token_is_good_until_its_last_second() -> None:
    Tokens(bytes(32), clock=lambda: 1059.9).read(TOKEN, Kind.MACHINE)
    with pytest.raises(AccessError, match="ended 0 s ago"):
        Tokens(bytes(32), clock=lambda: 1060.0).read(TOKEN, Kind.MACHINE)


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii", categories=["L", "N"]) | st.sampled_from("._-"))
def test_a_token_with_one_other_character_is_refused(place: int, letter: str) -> None:
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    if changed == TOKEN:
        return
    with pytest.raises(AccessError) as caught:
        TOKENS.read(changed, *Kind)
    assert caught.value.code in ("auth.foreign", "auth.malformed")


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(AccessError):
        TOKENS.read(text, *Kind)


@given(st.binary(min_size=32, max_size=32))
def test_another_key_reads_nothing(key: bytes) -> None:
    if key == bytes(32):
        return
    with pytest.raises(AccessError) as caught:
        Tokens(key, clock=lambda: 1000.0).read(TOKEN, *Kind)
    assert caught.value.code == "auth.foreign"


def test_the_key_is_a_credential(tmp_path: Path) -> None:
    assert Tokens.of_this_service({}) is None
    assert Tokens.of_this_service({"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None
    (tmp_path / CREDENTIAL).write_bytes(new_key())
    assert Tokens.of_this_service({"CREDENTIALS_DIRECTORY": str(tmp_path)}) is not None
    (tmp_path / CREDENTIAL).write_bytes(b"short")
    with pytest.raises(HostError, match="has 5 bytes, not 32"):
        Tokens.of_this_service({"CREDENTIALS_DIRECTORY": str(tmp_path)})
