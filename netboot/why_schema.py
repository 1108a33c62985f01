"""What `backline why` answers."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from netboot.schema import Outcome


class Finding(Enum):
    """What a step of the walk came to."""

    GOOD = "good"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


class RuleAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that might have chosen the version."""

    rule: str
    version: str | None
    won: bool
    because: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the walk."""

    step: str
    finding: Finding
    text: str
    rules: list[RuleAnswer] = []
    more: list[str] = []


class WhyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine would be answered now, by which rule, and every step on the way there."""

    host: str
    machine: int | None
    outcome: Outcome
    version: str | None
    rule: str
    verdict: Annotated[str, Meta(description="The answer in one line.")]
    steps: list[Step]
