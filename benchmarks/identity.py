"""Presence and single sign-on with a thousand seats, as processes of this checkout on a disk: `make bench-identity`.

Rows, each of which can be measured alone (`--row`):

- whois: what single sign-on answers nginx, as much as it can, with everybody logged in
- heartbeats: a thousand seats that beat every 15 s, as netboot passes them on; processor and memory of presence
- logins: ten users a second, both stages (password and account); then 150 users at once
- sync: 2,000 users from udb's feed until they are in force on a seat that knew none, the feed's transfer included
- map: the page of a thousand seats and when Chromium has painted it; the service while seats beat and people log in

Clients are processes of their own on the same CPUs. This measures, it does not judge.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from benchmarks import gateway
from benchmarks.asking import PASSWORD, boot, login
from benchmarks.figures import Figures
from benchmarks.rooms import rooms as measure_rooms
from services.common.tokens import CREDENTIAL, new_key
from services.common.users import UserGroup
from services.presence.client import Presence
from services.presence.schema import Beat
from services.udb.client import Udb
from services.udb.schema import ImportFormat, NewUser
from services.udb.sealing import CREDENTIAL as SEAL

SEATS = 1000
WHOIS_SECONDS = 8.0
BEAT_SECONDS = 15.0
BEATS_SECONDS = 45.0
RATE = 10.0
RATE_SECONDS = 20.0
BURST = 150
SYNCED, SYNCS = 2000, 5
UDB = """
database = "sqlite:///{where}/udb.db"
"""
PRESENCE = """
database = "sqlite:///{where}/presence.db"
mdb = "unix:{where}/mdb.sock"
udb = "unix:{where}/udb.sock"
memory = "{where}"
"""
SSO = """
mdb = "unix:{where}/mdb.sock"
presence = "unix:{where}/presence.sock"
memory = ""
"""


@dataclass
class Hall:
    """The services, and where they are."""

    where: Path
    presence: subprocess.Popen[bytes]
    sso: subprocess.Popen[bytes]

    def metric(self, service: str, name: str) -> float:
        """A number of a service's metrics."""
        transport = httpx2.HTTPTransport(uds=f"{self.where}/{service}.sock")
        with httpx2.Client(transport=transport, base_url="http://localhost") as client:
            return float(client.get("/metrics").text.partition(f"\n{name} ")[2].split()[0])


def cpu(process: subprocess.Popen[bytes]) -> float:
    """Seconds of processor time that a process has had (proc(5), stat)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: subprocess.Popen[bytes]) -> float:
    """Megabytes that a process has for itself (proc_pid_smaps(5), Pss)."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) / 1000


def until(true: Callable[[], bool]) -> None:
    """Wait for something that follows by itself."""
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("the services do not come to know each other")
        time.sleep(0.1)


@contextlib.contextmanager
def hall(seats: int) -> Iterator[Hall]:
    """mdb with so many machines, udb with as many users, presence and single sign-on, which know all of them."""
    with gateway.folder() as where, contextlib.ExitStack() as stack:
        for credential in (CREDENTIAL, SEAL):
            (where / credential).write_bytes(new_key())
        os.environ["CREDENTIALS_DIRECTORY"] = str(where)
        stack.enter_context(gateway.mdb(where))
        gateway.take(where, gateway.table(range(seats)))
        stack.enter_context(gateway.serving("udb", UDB.format(where=where), where))
        users(where, seats)
        with gateway.serving("presence", PRESENCE.format(where=where), where):
            pass  # a database that is new lets nobody begin
        presence = stack.enter_context(gateway.serving("presence", PRESENCE.format(where=where), where))
        sso = stack.enter_context(gateway.serving("sso", SSO.format(where=where), where))
        made = Hall(where, presence, sso)
        until(lambda: made.metric("presence", "backline_presence_users") == seats)
        yield made


def users(where: Path, count: int) -> None:
    """Users of udb: those who log in have a password, each with a hash of its own."""
    with Udb(f"unix:{where}/udb.sock") as udb:
        for number in range(count):
            password = PASSWORD if number < BURST + RATE * RATE_SECONDS else None
            udb.create(NewUser(login=login(number), password=password))


def beat(number: int, *, there: bool = True) -> Beat:
    """The heartbeat of a seat."""
    users = [login(number)] if there else []
    return Beat(machine=number + 1, hostname=gateway.hostname(number), boot=boot(number), users=users)


def ask(*words: object) -> dict[str, float]:
    """What `benchmarks.asking` says."""
    argv = [sys.executable, "-m", "benchmarks.asking", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout))


def whois(figures: Figures, made: Hall, seats: int) -> None:
    """Everybody is logged in; nginx asks for all of them."""
    with Presence(f"unix:{made.where}/presence.sock") as client:
        client.heartbeats([beat(number) for number in range(seats)])
    until(lambda: ask("whois", 0.2, made.where / "sso.sock", seats)["known"] > 0)
    began = cpu(made.sso)
    found = ask("whois", WHOIS_SECONDS, made.where / "sso.sock", seats)
    if found["known"] != found["answered"]:
        raise SystemExit(f"{found['known']} of {found['answered']} were known")
    spent = cpu(made.sso) - began
    figures.add("whois, answers a second of a core", found["answered"] / spent, "/s", "at least 5,000")
    figures.add("whois, answers a second, with the client on the same CPUs", found["per_second"], "/s")
    figures.add("whois, p99", found["p99"] * 1000, "ms", "under 2")
    figures.add("sso, memory", memory(made.sso), "MB")


def heartbeats(figures: Figures, made: Hall, seats: int) -> None:
    """Everybody is logged in and stays; a batch a second, as netboot sends them."""
    with Presence(f"unix:{made.where}/presence.sock") as client:
        client.heartbeats([beat(number) for number in range(seats)])
        began, at = cpu(made.presence), time.monotonic()
        number = passed = 0
        while (now := time.monotonic()) - at < BEATS_SECONDS:
            due = int((now - at + 1) * seats / BEAT_SECONDS)
            client.heartbeats([beat((number + each) % seats) for each in range(due - passed)])
            number, passed = (number + due - passed) % seats, due
            time.sleep(max(0.0, 1.0 - (time.monotonic() - now)))
        seconds = time.monotonic() - at
        if len(client.sessions().sessions) != seats:
            raise SystemExit("sessions were lost")
    goal = "under 10"
    figures.add(f"{seats} seats' heartbeats, of a core", (cpu(made.presence) - began) / seconds * 100, "%", goal)
    figures.add(f"{seats} seats' heartbeats, memory of presence", memory(made.presence), "MB", "under 100")


def logins(figures: Figures, made: Hall, seats: int) -> None:
    """Nobody is logged in at first."""
    with Presence(f"unix:{made.where}/presence.sock") as client:
        client.heartbeats([beat(number, there=False) for number in range(seats)])
    socket, key = made.where / "presence.sock", made.where / CREDENTIAL
    steady = ask("logins", RATE, RATE_SECONDS, socket, key, 0)
    burst = ask("burst", BURST, socket, key, int(RATE * RATE_SECONDS))
    if steady["wrong"] or burst["wrong"]:
        raise SystemExit(f"logins were refused: {steady['example']} {burst['example']}")
    figures.add("login, both stages, 10 a second, p95", steady["p95"] * 1000, "ms", "under 300")
    figures.add("150 logins at once, until all are decided", burst["took"], "s", "under 10")


def sync(figures: Figures, made: Hall, _: int) -> None:
    """A seat that starts, some times; the worst of them counts, as the hall waits for it."""
    with Udb(f"unix:{made.where}/udb.sock", seconds=120) as udb:
        missing = SYNCED - udb.users(limit=1).total  # a pool has a thousand uids: the others are organizers
        names = "\n".join(f"more{number}" for number in range(missing)).encode()
        if missing > 0:
            udb.take(names, ImportFormat.LOGINS, group=UserGroup.ORGA, generate=False)
    found = []
    for turn in range(SYNCS):
        argv = [sys.executable, "-m", "benchmarks.syncing", f"unix:{made.where}/udb.sock"]
        argv += [str(made.where / f"identity-{turn}"), str(SYNCED)]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout))
    seconds = sorted(each["seconds"] for each in found)
    figures.add(f"full sync of {SYNCED} users on a seat, median", statistics.median(seconds) * 1000, "ms", "under 150")
    figures.add(f"full sync of {SYNCED} users on a seat, worst", seconds[-1] * 1000, "ms")
    figures.add(
        f"full sync of {SYNCED} users on a seat, memory", max(each["memory"] for each in found), "MB", "under 45"
    )


def rooms(figures: Figures, made: Hall, seats: int) -> None:
    """Nobody is logged in at first."""
    measure_rooms(
        figures,
        made.where,
        seats,
        beat=lambda number, taken: beat(number, there=number < taken),
        cpu=cpu,
        memory=memory,
    )


ROWS: dict[str, Callable[[Figures, Hall, int], None]] = {
    "whois": whois,
    "heartbeats": heartbeats,
    "logins": logins,
    "sync": sync,
    "map": rooms,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.identity", description=__doc__.partition("\n")[0])
    parser.add_argument("--row", action="append", choices=sorted(ROWS), help="only this one; may be given again")
    parser.add_argument("--seats", type=int, default=SEATS)
    options = parser.parse_args(argv)
    gateway.allow_files()
    figures = Figures()
    with hall(options.seats) as made:
        for name, row in ROWS.items():
            if not options.row or name in options.row:
                row(figures, made, options.seats)
    figures.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
