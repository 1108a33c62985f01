"""Faults at random, that can be played again: a schedule follows from its seed and from what the lab consists of.

A schedule is made before anything runs, so the same seed gives the same faults whatever the lab does meanwhile. It can
be printed, read, cut short and replayed by hand: every line is a verb of `backline lan`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.errors import UsageError

if TYPE_CHECKING:
    from e2e.lab import Lab

KINDS = ("cut", "lose", "slow", "crash", "freeze", "reboot")


@dataclass(frozen=True)
class Fault:
    """One fault and its end: `kind` on `target` (an edge or a node), `amount` in the kind's own unit."""

    kind: str
    target: str
    amount: float = 0.0

    def __str__(self) -> str:
        """As `backline lan` would do it."""
        match self.kind:
            case "lose":
                return f"lose {self.target} {self.amount:g}"
            case "slow":
                return f"slow {self.target} --rate {self.amount:.0f}"
            case _:
                return f"{self.kind} {self.target}"

    def begin(self, lab: Lab) -> None:
        """Do it."""
        match self.kind:
            case "cut":
                lab.cut(self.target)
            case "lose":
                lab.lose(self.target, self.amount)
            case "slow":
                lab.slow(self.target, rate=int(self.amount))
            case "crash":
                lab[self.target].crash()
            case "freeze":
                lab[self.target].freeze()
            case "reboot":
                lab[self.target].reboot()
            case _:
                raise UsageError("lan.schedule", f"no fault {self.kind!r}", hint=f"there are: {', '.join(KINDS)}")

    def end(self, lab: Lab) -> None:
        """Undo it: everything is up again when this returns."""
        match self.kind:
            case "crash":
                lab[self.target].start()
                lab[self.target].wait_ready()
            case "freeze":
                lab[self.target].thaw()
            case "reboot":
                pass
            case _:
                lab.heal(self.target)


def make(
    seed: int, *, edges: Sequence[str], nodes: Sequence[str], count: int, kinds: Sequence[str] = KINDS
) -> list[Fault]:
    """`count` faults from `seed`. The same arguments give the same faults, on every machine and Python."""
    source = random.Random(seed)
    faults = []
    for _ in range(count):
        kind = kinds[int(source.random() * len(kinds))]
        targets = edges if kind in ("cut", "lose", "slow") else nodes
        target = targets[int(source.random() * len(targets))]
        amount = source.random()
        value = {"lose": round(10 + 80 * amount), "slow": round(1 + 20 * amount) * 1_000_000}.get(kind, 0)
        faults.append(Fault(kind, target, value))
    return faults


def parse(text: str) -> list[Fault]:
    """Faults from lines as `str` gives them; empty lines and those that begin with # are left out.

    Raises UsageError("lan.schedule").
    """
    faults = []
    for line in text.splitlines():
        words = [word for word in line.split() if word != "--rate"]
        if not words or words[0].startswith("#"):
            continue
        wanted = 3 if words[0] in ("lose", "slow") else 2
        if words[0] not in KINDS or len(words) != wanted:
            raise UsageError("lan.schedule", f"{line.strip()!r} is no fault", hint=f"there are: {', '.join(KINDS)}")
        faults.append(Fault(words[0], words[1], float(words[2]) if wanted == 3 else 0.0))
    return faults


def play(lab: Lab, faults: Sequence[Fault], invariant: Callable[[Fault], None]) -> None:
    """Begin and end each fault; `invariant` is called in between, and again (with the same fault) when it is over.

    What it raises gets the faults so far as a note, to be played again.
    """
    for number, fault in enumerate(faults, 1):
        try:
            fault.begin(lab)
            invariant(fault)
            fault.end(lab)
            invariant(fault)
        except Exception as error:
            lines = "\n".join(f"  backline lan {each}" for each in faults[:number])
            error.add_note(f"after these faults:\n{lines}")
            raise
