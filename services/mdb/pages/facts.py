"""What other services know of a machine: its lease, what it boots and why.

They are asked when a page is made, each with little time: a page never waits for a service that does not answer, it
says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from services.common.errors import BacklineError
from services.mdb.schema import Machine

SECONDS = 4.0  # netboot itself gives DHCP three


class Mark(Enum):
    """What a fact means."""

    PLAIN = ""
    GOOD = "good"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fact:
    """One thing that is known: when it happened, or until when it holds, in seconds since the epoch."""

    title: str
    text: str
    mark: Mark = Mark.PLAIN
    more: Sequence[str] = ()
    at: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class Known:
    """What a service knows: a sentence that sums it up, or none, and the facts."""

    facts: Sequence[Fact]
    verdict: str = ""


@dataclass(frozen=True)
class Answer:
    """What one service said; `problem` says why it said nothing."""

    title: str
    known: Known = field(default_factory=lambda: Known(()))
    problem: str = ""


class Source(Protocol):
    """A service that may know something of a machine."""

    name: str
    title: str

    async def of(self, machine: Machine) -> Known:
        """Raises BacklineError when it cannot be asked."""
        ...


async def ask(sources: Sequence[Source], machine: Machine, *, seconds: float = SECONDS) -> list[Answer]:
    """All sources at once; never raises for one that fails."""
    return list(await asyncio.gather(*(_ask(source, source.of, machine, seconds) for source in sources)))


async def _ask(source: Source, of: Callable[[Machine], Awaitable[Known]], machine: Machine, seconds: float) -> Answer:
    try:
        async with asyncio.timeout(seconds):
            return Answer(source.title, await of(machine))
    except BacklineError as error:
        return Answer(source.title, problem=error.message)
    except TimeoutError:
        return Answer(source.title, problem=f"{source.name} did not answer in time")
