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
from services.common.feed.client import Key
from services.common.feed.mirror import Mirror
from services.common.feed.wire import Record
from services.common.process import run
from services.firewall.apply import Applier
from services.firewall.nft import Nft
from services.firewall.plan import Bounds, Machine, Session, User, plan
from services.firewall.schema import Settings

INSIDE = "--in-namespace"


def measure(figures: Figures, seats: int, turns: int, folder: str) -> None:
    """One seat after the other is left, and all of them at once."""
    settings = Settings(networks=["10.1.0.0/16"], folder=folder)
    applier = Applier(settings, Bounds.of(settings), Nft())
    applier.start()
    machines = Mirror.at("unix:/nowhere", "machines", Machine)
    machines.take(
        {
            ("machines", str(id)): {
                "id": id, "hostname": f"s{id}", "ip": f"10.1.{id // 250}.{id % 250 + 1}", "type": "user"
            }
            for id in range(1, seats + 1)
        }
    )  # fmt: skip
    users = Mirror.at("unix:/nowhere", "users", User)
    users.take({("users", str(id)): {"id": id, "login": f"u{id}", "group": "user"} for id in range(1, 2 * seats + 1)})
    everybody: dict[Key, Record] = {
        ("sessions", f"u{id}"): {"login": f"u{id}", "machine": id} for id in range(1, seats + 1)
    }
    sessions = Mirror.at("unix:/nowhere", "sessions", Session)

    def turn(what: str, there: dict[Key, Record], goal: str = "") -> None:
        began = time.perf_counter()
        sessions.take(there)
        made = plan(applier.bounds, machines, users, sessions)
        planned = time.perf_counter()
        assert applier.apply(made.sets)
        ended = time.perf_counter()
        figures.add(f"{what}: plan", 1000 * (planned - began), "ms")
        figures.add(f"{what}: plan, nft and kernel", 1000 * (ended - began), "ms", goal)

    for number in range(1, turns + 1):
        turn(f"all of {seats} seats lose access or get it", {} if number % 2 == 0 else everybody)
    if turns % 2 == 0:
        sessions.take(everybody)
        applier.apply(plan(applier.bounds, machines, users, sessions).sets)
    for number in range(1, turns + 1):
        there = {key: record for key, record in everybody.items() if key[1] != f"u{number}"}
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
