"""Every wait ends when what was awaited comes, and says so when it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e.lab import Lab
from e2e.node import Node, WaitFailed

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
Wait = Callable[[Node, float], object]
SYSTEMD = "org.freedesktop.systemd1"
LISTEN = "import socket, time; one = socket.socket({family}); one.bind({address}); one.listen(); time.sleep(600)"
# What comes, and the wait for it.
WAITS: dict[str, tuple[list[str], Wait]] = {
    "a port": (
        ["python3", "-c", LISTEN.format(family="socket.AF_INET", address="('127.0.0.1', 4711)")],
        lambda node, seconds: node.wait_for_port(4711, seconds=seconds),
    ),
    "a socket": (
        ["python3", "-c", LISTEN.format(family="socket.AF_UNIX", address="'/run/later.sock'")],
        lambda node, seconds: node.wait_for_socket("/run/later.sock", seconds=seconds),
    ),
    "a file": (
        ["sh", "-c", "touch /run/later.file; exec sleep 600"],
        lambda node, seconds: node.wait_for_file("/run/later.file", seconds=seconds),
    ),
    "a property on the bus": (
        ["sleep", "600"],
        lambda node, seconds: node.wait_for_property(
            SYSTEMD,
            "/org/freedesktop/systemd1/unit/later_2eservice",
            f"{SYSTEMD}.Unit",
            "ActiveState",
            "active",
            seconds=seconds,
        ),
    ),
    "a unit": (["sleep", "600"], lambda node, seconds: node.wait_for_unit("later.service", seconds=seconds)),
    "a message": (
        ["sh", "-c", "echo the floor is wet; exec sleep 600"],
        lambda node, seconds: node.wait_for_journal("the floor is wet", unit="later.service", seconds=seconds),
    ),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_ends_with_what_comes_later(lab: Lab, what: str) -> None:
    web = lab["web"]
    argv, wait = WAITS[what]
    with pytest.raises(WaitFailed, match=r"did not come within 0\.3 s"):
        wait(web, 0.3)
    lab.kept = False  # whoever waited wanted that
    try:
        web.succeeds(
            "systemd-run", "--collect", "--on-active=1s", "--timer-property=AccuracySec=1ms", "--unit=later", *argv
        )
        wait(web, 30)
    finally:
        web.run(["systemctl", "stop", "later.timer", "later.service"], check=False)
        web.run(["rm", "-f", "/run/later.sock", "/run/later.file"], check=False)
