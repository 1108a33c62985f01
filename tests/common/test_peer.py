"""What is written in one turn of the event loop leaves as one, in order, and is never held back longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.common.peer import GATHERED, Gathering


class Wire(asyncio.Transport):
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return "close" in self.told


def turns(*steps: Callable[[Gathering], None]) -> list[bytes | str]:
    """What the wire is told by steps, each in a turn of its own."""

    async def run() -> list[bytes | str]:
        wire = Wire()
        gathering = Gathering(wire, asyncio.get_running_loop())
        for step in steps:
            step(gathering)
            wire.told.append("turn")
            await asyncio.sleep(0)
        return [told for told in wire.told if told != "turn"] if len(steps) == 1 else wire.told

    return asyncio.run(run())


def test_head_and_body_leave_as_one() -> None:
    def answer(wire: Gathering) -> None:
        for part in (b"head", b"body", b""):
            wire.write(part)

    assert turns(answer) == [b"headbody"]


def test_each_turn_sends_what_it_has() -> None:
    assert turns(lambda wire: wire.write(b"one"), lambda wire: wire.write(b"two")) == ["turn", b"one", "turn", b"two"]


def test_nothing_is_sent_for_nothing() -> None:
    assert turns(lambda wire: wire.write(b"")) == []


def test_a_long_answer_is_not_held() -> None:
    def answer(wire: Gathering) -> None:
        wire.write(b"head")
        wire.write(b"x" * GATHERED)
        wire.write(b"end")

    assert turns(answer) == [b"head" + b"x" * GATHERED, b"end"]


def test_closing_comes_after_what_was_written() -> None:
    def answer(wire: Gathering) -> None:
        wire.write(b"last")
        wire.close()
        assert wire.is_closing()

    assert turns(answer) == [b"last", "close"]
