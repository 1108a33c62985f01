"""What a change of who sits where costs the firewall, with a thousand seats: plan, check by nft, and the kernel.

In a network namespace of its own, with this host's nft and kernel: `python -m benchmarks.firewall`. A turn is what the
service does from a change of a feed until the kernel has it; the last good sets are on disk (fsync) when it ends.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.figures import Figures
from services.common.feed.wire import Record
from services.common.process import run
from services.firewall.apply import Applier
from services.firewall.nft import Nft
from services.firewall.plan import Bounds, plan
from services.firewall.schema import Settings

INSIDE = "--in-namespace"


def measure(figures: Figures, seats: int, turns: int, folder: str) -> None:
    """One seat after the other is left, and all of them at once."""
    settings = Settings(networks=["10.1.0.0/16"], folder=folder)
    applier = Applier(settings, Bounds.of(settings), Nft())
    applier.start()
    machines: dict[str, Record] = {
        str(id): {"id": id, "hostname": f"s{id}", "ip": f"10.1.{id // 250}.{id % 250 + 1}", "type": "user"}
        for id in range(1, seats + 1)
    }
    users: dict[str, Record] = {
        str(id): {"id": id, "login": f"u{id}", "group": "user"} for id in range(1, 2 * seats + 1)
    }
    sessions: dict[str, Record] = {f"u{id}": {"login": f"u{id}", "machine": id} for id in range(1, seats + 1)}

    def turn(what: str, there: dict[str, Record], goal: str = "") -> None:
        began = time.perf_counter()
        made = plan(applier.bounds, machines, users, there)
        planned = time.perf_counter()
        assert applier.apply(made.sets)
        ended = time.perf_counter()
        figures.add(f"{what}: plan", 1000 * (planned - began), "ms")
        figures.add(f"{what}: plan, nft and kernel", 1000 * (ended - began), "ms", goal)

    for number in range(1, turns + 1):
        turn(f"all of {seats} seats lose access or get it", {} if number % 2 == 0 else sessions)
    if turns % 2 == 0:
        applier.apply(plan(applier.bounds, machines, users, sessions).sets)
    for number in range(1, turns + 1):
        there = {login: record for login, record in sessions.items() if login != f"u{number}"}
        turn(f"one of {seats} seats changes", there, "< 100 ms")
    assert applier.look()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="figures of the firewall")
    parser.add_argument("--seats", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not arguments.in_namespace:
        again = [
            sys.executable,
            "-m",
            "benchmarks.firewall",
            f"--seats={arguments.seats}",
            f"--turns={arguments.turns}",
        ]
        run(["unshare", "--net", *again, INSIDE], stdout=None, stderr=None)
        return 0
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="backline-firewall-") as folder:
        measure(figures, arguments.seats, arguments.turns, folder)
    figures.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
