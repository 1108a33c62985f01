"""A message of the day that an organizer sets on gw appears on seats, where who has not logged in yet reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import topology
from e2e.lab import Lab
from e2e.node import Node
from e2e.pool import Labs
from e2e.scenarios import publishing
from e2e.scenarios.logging_in import Hall

pytestmark = [pytest.mark.images, pytest.mark.full]
ALICE = "correct horse"
FOLDER = "/var/lib/backline-identity/message"


@pytest.fixture(scope="module")
def hall(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    labs.close()
    with Lab(topology.hall(seats=1), settings=labs.settings, netboot=True, name="message") as lab:
        publishing.begin(lab, tmp_path_factory.mktemp("administrator"))
        found = Hall(lab)
        found.add("alice", ALICE)
        seat = found.seat(1)
        seat.wait_until("its users", lambda: found.knows(seat, "alice"))
        seat.wait_until(
            "presence decides", lambda: found.pam("alice", seat, ALICE, "authenticate").returncode == 0, seconds=60
        )
        yield found


@pytest.fixture
def seat(hall: Hall) -> Node:
    return hall.seat(1)


def says(hall: Hall, *words: str) -> None:
    """An organizer's command on gw."""
    hall.gw.succeeds("backline", "udb", "message", *words)


def on_the_seat(seat: Node) -> str:
    return seat.succeeds("cat", f"{FOLDER}/text")


def logged_in(hall: Hall, seat: Node) -> str:
    """What somebody is shown who logs in over ssh, with a terminal."""
    argv = hall.ssh_argv("alice", seat, ALICE, ["true"])
    at = argv.index(f"alice@{seat.address}")
    return hall.gw.run([*argv[:at], "-tt", argv[at]], stdin="exit\n", seconds=60).stdout


def test_a_seat_without_a_message_has_a_greeter_s_usual_head(seat: Node) -> None:
    assert seat.succeeds("cat", "/etc/issue").startswith("\\S \\n \\l")
    assert seat.succeeds("readlink", "-f", "/etc/issue") == f"{FOLDER}/issue"
    assert on_the_seat(seat) == ""


def test_a_message_is_on_the_seat_soon_and_before_who_logs_in(hall: Hall, seat: Node) -> None:
    says(hall, "Lunch is at noon; \\l\x1b[31m")
    seat.wait_until("the message", lambda: on_the_seat(seat) == "Lunch is at noon; \\l[31m", seconds=2)
    assert "Lunch is at noon; /l[31m" in seat.succeeds("cat", "/etc/issue")
    assert "~~Lunch is at noon\\; \\\\l[31m;" in seat.succeeds("cat", f"{FOLDER}/greeter.conf")
    seat.wait_for_journal("the greeter shows it", seconds=90)  # after those who have just been let in
    assert "Lunch is at noon; \\l[31m" in logged_in(hall, seat)


def test_the_last_one_stays_while_udb_is_away_and_a_seat_that_starts_has_it_too(hall: Hall, seat: Node) -> None:
    says(hall, "Prizes at five")
    seat.wait_until("the message", lambda: on_the_seat(seat) == "Prizes at five", seconds=5)
    hall.gw.succeeds("systemctl", "stop", "backline-udb.socket", "backline-udb.service")
    try:
        seat.succeeds("systemctl", "restart", "backline-identity.service")
        assert on_the_seat(seat) == "Prizes at five"
    finally:
        hall.gw.succeeds("systemctl", "start", "backline-udb.socket", "backline-udb.service")
    seat.reboot()
    seat.wait_until("the message", lambda: on_the_seat(seat) == "Prizes at five", seconds=30)


def test_a_message_that_is_taken_away_is_gone(hall: Hall, seat: Node) -> None:
    says(hall, "--none")
    seat.wait_until("no message", lambda: on_the_seat(seat) == "", seconds=5)
    assert "Prizes" not in seat.succeeds("cat", "/etc/issue", f"{FOLDER}/greeter.conf")


def test_lightdm_s_pam_lets_in_and_says_why_not(hall: Hall, seat: Node) -> None:
    """The desktop's own file, over real PAM and presence."""
    file = Path(__file__).parents[2] / "images/nfsroot-desktop/mkosi.extra/etc/pam.d/lightdm"
    seat.put("/etc/pam.d/lightdm", file.read_bytes())
    refused = hall.pam("alice", seat, "wrong", "authenticate", service="lightdm")
    assert refused.returncode != 0
    assert "The password is wrong." in refused.stdout
    assert hall.pam("mallory", seat, "x", "authenticate", service="lightdm").returncode != 0
    done = hall.pam("alice", seat, ALICE, "authenticate", "acct_mgmt", "open_session", service="lightdm")
    assert done.returncode == 0, done
    assert "is gone when you log out" in done.stdout
