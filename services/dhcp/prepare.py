"""Before Kea starts: see to it that there is a configuration which it accepts, on the cards that this machine has.

It is made from what was in force last, so a restart gives the same answers; where that is nothing, or Kea refuses it,
from the one before; else from hall.toml alone, which knows the networks and the aliens. mdb is not asked: it may start
later, and what it says is applied to the Kea that runs.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from services.dhcp import cards
from services.dhcp.apply import usable
from services.dhcp.generations import Generation, Generations, Inputs
from services.dhcp.kea import Checker, Offline, Refused
from services.dhcp.machines import Machine, choose
from services.dhcp.schema import Settings

logger = logging.getLogger(__name__)

SECONDS = 60.0


def prepare(settings: Settings, *, seconds: float = SECONDS, program: str = "kea-dhcp4") -> Generation:
    """Find the cards, and make `current` a configuration that Kea accepts. Raises HostError("dhcp.cards"), Refused."""
    found = cards.find(settings, deadline=time.monotonic() + seconds)
    with tempfile.TemporaryDirectory(prefix="backline-dhcp-") as folder:
        return make(settings, found, Offline(Path(folder), program))


def make(settings: Settings, found: dict[int, str], checker: Checker) -> Generation:
    """`prepare`, once the cards are known."""
    generations = Generations(settings.state)
    with generations.lock():
        return _make(generations, settings, found, checker)


def _make(generations: Generations, settings: Settings, found: dict[int, str], checker: Checker) -> Generation:
    problem: Refused | None = None
    for what, before, machines in _candidates(generations):
        try:
            configuration, choice = usable(checker, settings, choose(settings, machines), found)
        except Refused as error:
            logger.error("Kea refuses %s: %s", what, error)
            problem = error
            continue
        logger.info("Kea starts with %s", what)
        if before is not None and before.configuration() == configuration:
            generations.point(before)
            return before
        inputs = before.inputs() if before is not None else None
        new = Inputs(
            cards=found,
            machines=choice.machines,
            left_out=list(choice.left_out),
            position=inputs.position if inputs else None,
            made=time.time(),
        )
        generation = generations.adopt(generations.stage(configuration, new))
        generations.point(generation)
        generations.tidy()
        return generation
    assert problem is not None
    raise problem


def _candidates(generations: Generations) -> Iterator[tuple[str, Generation | None, list[Machine]]]:
    current, proved = generations.current(), generations.proved()
    for what, generation in (("what was in force", current), ("what it took last", proved)):
        inputs = generation.inputs() if generation is not None else None
        if generation is not None and inputs is not None and (what == "what was in force" or generation != current):
            yield what, generation, inputs.machines
    yield "hall.toml alone", None, []
