"""Password hashes: what is one, whose it is, and what is never let in."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.common.errors import InputError
from services.common.yescrypt import hash_password, is_hash, verify_password

# Made by perl's crypt() with libxcrypt 4.4.38.
KNOWN = "$y$j9T$hxZtyDmRd3Q0LyEGVfPsG/$FwARiFtj4aMiKpJbqqt7S3LrJmqAoY7T/n31kQhCvHA"


def test_hashes_of_other_programs_count() -> None:
    assert verify_password("correct horse battery", KNOWN)


def test_a_hash_is_of_its_password_alone() -> None:
    hash = hash_password("correct horse")
    assert is_hash(hash)
    assert verify_password("correct horse", hash)
    assert not verify_password("correct hors", hash)
    assert not verify_password("", hash)


def test_two_hashes_of_a_password_differ() -> None:
    assert hash_password("a") != hash_password("a")


@pytest.mark.parametrize("hash", [None, "", "!", "*", "!" + "$y$j9T$a$b", "$6$salt$hash", "$y$j9T$é", "x" * 500])
def test_nobody_logs_in_where_there_is_no_hash(hash: str | None) -> None:
    assert not verify_password("anything", hash)


def test_no_hash_takes_as_long_as_a_hash() -> None:
    hash = hash_password("secret")

    def seconds(hash: str | None) -> float:
        times = []
        for _ in range(5):
            begun = time.thread_time()
            verify_password("wrong", hash)
            times.append(time.thread_time() - begun)
        return min(times)

    assert 0.5 < seconds(None) / seconds(hash) < 2


@pytest.mark.parametrize(
    ("password", "why"), [("", "empty"), ("a\0b", "zero"), ("é" * 256, "512 bytes"), ("\ud800", "Unicode")]
)
def test_what_is_no_password_is_refused_in_words(password: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        hash_password(password)
    assert not verify_password(password, hash_password("a"))


@given(st.text(min_size=1, max_size=100))
@example("a" * 511)
@settings(max_examples=15, deadline=None)
def test_any_text_can_be_a_password(text: str) -> None:
    try:
        hash = hash_password(text)
    except InputError:
        assert "\0" in text or len(text.encode(errors="replace")) > 511
    else:
        assert verify_password(text, hash)
        assert not verify_password(text + "x", hash)


def test_threads_hash_side_by_side() -> None:
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda word=str(number): found.append(verify_password(word, hash_password(word))))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == [True] * 8
