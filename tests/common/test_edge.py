"""A long body is written piece by piece, also what came before a cut, and nobody is waited for without end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from services.common import edge
from services.common.errors import UsageError

CUT: Message = {"type": "http.disconnect"}


def poured(parts: Sequence[bytes | Message], *, pause: float = 0.0, seconds: float | None = None) -> list[bytes]:
    """What is written of a body that comes in `parts`, `pause` seconds apart; the last one ends it."""
    written: list[bytes] = []
    failure: list[Exception] = []
    left = list(parts)

    async def receive() -> Message:
        await asyncio.sleep(pause)
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)} if isinstance(part, bytes) else part

    async def run() -> None:
        try:
            await edge.pour(Request({"type": "http", "method": "PUT"}, receive), written.append, seconds=seconds)
        except (UsageError, ClientDisconnect) as error:
            failure.append(error)

    asyncio.run(run())
    if failure:
        raise ExceptionGroup(b"".join(written).decode(), failure)
    return written


def test_a_body_is_written_in_pieces_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "PIECE_BYTES", 4)
    assert poured([b"one", b"two", b"three", b"x"]) == [b"onetwo", b"three", b"x"]


def test_an_empty_body_writes_nothing() -> None:
    assert poured([b""]) == []


def test_what_came_before_a_cut_is_written() -> None:
    with pytest.raises(ExceptionGroup, match="came before") as caught:
        poured([b"came before", CUT])
    assert isinstance(caught.value.exceptions[0], ClientDisconnect)


def test_silence_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "BODY_SECONDS", 0.05)
    with pytest.raises(ExceptionGroup) as caught:
        poured([b"one", b"two"], pause=1)
    assert str(caught.value.exceptions[0]).startswith("nothing came")


def test_a_body_that_drips_is_late_too() -> None:
    with pytest.raises(ExceptionGroup, match="drip") as caught:
        poured([b"drip"] * 100, pause=0.02, seconds=0.1)
    assert "took longer than 0.1 s" in str(caught.value.exceptions[0])
