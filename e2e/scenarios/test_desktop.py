"""The desktop's seat, nfsroot-desktop, in a machine of its own with a screen: lightdm's greeter, and a login at it.

`BACKLINE_SCREENSHOTS=1 pytest e2e/scenarios/test_desktop.py` writes docs/screenshots/desktop-*.png again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from builder import image
from builder.image import Shop
from e2e import halls, topology
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.scenarios.at_the_screen import LOOK, Seat

ROLE, NAME, PASSWORD = "nfsroot-desktop", "pas-r01p01", "secret0"
SAID = "Welcome to the finals.\nLunch is at noon, in room B; bring your badge."
SCREENSHOTS = Path(__file__).parents[2] / "docs/screenshots"
BLANK = 12_000
"""Bytes: a picture of fewer shows nothing yet."""
TOLD = re.compile(
    "Continue authentication.*Prompt greeter with 1 message.*Authenticate result for user alice: Auth", re.DOTALL
)
"""In lightdm's log: between password and refusal, the greeter was handed a line to show."""
LAYOUTS = (1173, 18)
FIRST, SECOND = (1173, 52), (1173, 79)
"""Where the greeter's layouts are on the screen, under a message of two lines."""

pytestmark = [pytest.mark.needs("QEMU", "tun"), pytest.mark.images, pytest.mark.full]


@pytest.fixture(scope="module")
def seat(labs: Labs, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seat]:
    """A seat whose desktop has started, in a hall with two keyboard layouts.

    The usual one is none that an X server has by itself, and types as a US keyboard.
    """
    image.build(shop, ROLE)
    labs.close()
    wanted = topology.built_in("pxe")
    node: topology.Node = msgspec.structs.replace(
        wanted.nodes[NAME], role=ROLE, screen=True, memory=3072, clock_offset=0
    )
    wanted = msgspec.structs.replace(wanted, nodes={**wanted.nodes, NAME: node})
    made = halls.make(roles={"gw": "gw", "rhfs01": "rhfs"})
    changed = halls.parse(made.text.replace('keyboard = "us"', 'keyboard = "us(altgr-intl),fr"'), Path("hall.toml"))
    hall = replace(made, text=changed.text, data=changed.data)
    with Lab(wanted, settings=labs.settings, hall=hall, name="desktop") as lab:
        lab.start(seconds=1200)
        yield Seat.of(lab, NAME, tmp_path_factory.mktemp("administrator"))


def still(seat: Seat) -> bytes:
    """A picture of a screen that shows something, and the same one at the next look."""
    last = b""

    def same() -> bool:
        nonlocal last
        before, last = last, seat.node.picture()
        return last == before and len(last) > BLANK

    seat.wait("its screen stands still", same)
    return last


def keep(name: str, picture: bytes, folder: Path) -> None:
    place = SCREENSHOTS if os.environ.get("BACKLINE_SCREENSHOTS") else folder
    (place / name).write_bytes(picture)


def test_its_greeter_shows_the_message_of_the_day(seat: Seat, tmp_path: Path) -> None:
    with seat.hall.udb() as udb:
        udb.announce(SAID)
    seat.hall.add("alice", PASSWORD)
    seat.wait(
        "the message is there", lambda: "Lunch" in seat.root("cat /var/lib/backline-identity/message/greeter.conf")
    )
    seat.wait("she is known", lambda: "alice" in seat.root("getent passwd alice"))
    seat.lab.journal.pause(LOOK)
    seat.wait("a greeter is there", lambda: seat.runs("lightdm-gtk-greeter"), seconds=600)
    still(seat)


def test_it_has_sessions_and_layouts_to_choose_from(seat: Seat, tmp_path: Path) -> None:
    sessions = seat.root("ls /usr/share/xsessions").split()
    assert {"i3.desktop", "xfce.desktop"} <= set(sessions)
    assert seat.layout() == ["us", "altgr-intl"]
    seat.click(*LAYOUTS)
    seat.lab.journal.pause(LOOK)
    keep("desktop-layouts.png", still(seat), tmp_path)
    seat.click(*SECOND)
    seat.wait("it is another layout", lambda: seat.layout() == ["fr"])
    seat.click(*LAYOUTS)
    seat.lab.journal.pause(LOOK)
    seat.click(*FIRST)
    seat.wait("it is the usual layout again", lambda: seat.layout() == ["us", "altgr-intl"])


def test_a_user_is_told_why_not_then_is_in(seat: Seat, tmp_path: Path) -> None:
    seat.node.type("alice\n")
    seat.lab.journal.pause(LOOK)
    seat.node.type("wrong\n")
    seat.wait("she was refused", lambda: "The password is wrong" in seat.root("journalctl -t backline-seat-login"))
    seat.lab.journal.pause(4 * LOOK)  # no look meanwhile: it has to draw that
    keep("desktop-refused.png", still(seat), tmp_path)
    log = seat.root("cat /var/log/lightdm/lightdm.log")
    assert TOLD.search(log)
    seat.node.type(f"{PASSWORD}\n")
    seat.wait("she is in", lambda: seat.seated("alice"))
    assert seat.hall.where() == {"alice": NAME}
    seat.wait("her desktop is there", lambda: seat.runs("xfce4-session"), seconds=600)
    assert "tmpfs" in seat.root("findmnt --noheadings --output FSTYPE /home/alice")


def test_a_greeter_that_is_killed_leaves_nobody(seat: Seat) -> None:
    seat.node.allowed_failures.add("lightdm.service")  # for the moment until systemd starts it anew
    seat.root("pkill -KILL -x lightdm")
    seat.wait("nobody is left", seat.nobody_is_left)
    seat.wait("a greeter is there again", lambda: seat.runs("lightdm-gtk-greeter"), seconds=600)
