"""A machine whose root is not what it should be, first in a block that is needed at once, then in one needed later.

It learns from its switch where it is (LLDP). Each start takes a minute or two, emulated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from builder.image import Shop
from builder.store import Store
from e2e import tampered
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.scenarios.conftest import ROLES
from e2e.scenarios.registering import Story, begin, hall, register_by_lldp
from netboot.schema import Stage
from services.mdb.schema import MachineType

EXPORTER = "prometheus-node-exporter"

pytestmark = [pytest.mark.needs("QEMU", "tun", "UEFI firmware for QEMU"), pytest.mark.images]


@dataclass
class Damaged(Story):
    """A story whose root.erofs can be changed."""

    root: Path = Path()
    refused: int = 0
    """Where the journal was when it was refused."""


@pytest.fixture(scope="module")
def damaged(labs: Labs, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaged]:
    labs.close()
    store = tmp_path_factory.mktemp("damaged")
    store.chmod(0o755)  # root file servers see it, and their nginx is no root
    assert labs.settings is not None
    root, _ = tampered.copy(Store(labs.settings.store_path), ROLES, store, role="nfsroot")
    later = tampered.places_of(shop, root, f"/usr/bin/{EXPORTER}")
    settings = msgspec.structs.replace(labs.settings, store=str(store))
    with Lab(hall("uefi"), settings=settings) as lab:
        story = begin(lab)
        # They read all of it when they start, and do not offer what is damaged; this is what happens to it later.
        for server in ("rhfs01", "rhfs23"):
            lab[server].wait_for_journal(r"^nfsroot/\S+ is whole$")
        tampered.flip(root, [tampered.SUPERBLOCK])
        register_by_lldp(story)
        begun = Damaged(lab, story.mark, root)
        begun.said(r"Why: +no root for this seat")
        begun.refused = lab.journal.mark()
        # The next start gets a little further.
        tampered.flip(root, [tampered.SUPERBLOCK, *later])
        story.seat.allowed_failures.add(f"{EXPORTER}.service")
        yield begun


def test_its_switch_says_where_a_machine_is(damaged: Damaged) -> None:
    found = damaged.machine()
    assert (found.room, found.rfs, found.hfs, found.type) == ("room-1", 1, 0, MachineType.USER)


def test_a_damaged_root_is_refused_and_the_screen_says_why(damaged: Damaged) -> None:
    line = damaged.said(r"Why: +no root for this seat: ", seconds=5).message
    assert any(f"{address}:" in line for address in ("192.168.1.10", "192.168.1.11", "192.168.1.12"))
    assert "root.erofs does not have the root hash of this version" in line


def test_netboot_has_its_log_from_the_initrd(damaged: Damaged) -> None:
    log = next(log for log in damaged.logs() if log.reason.startswith("no root for this seat: "))
    assert "backline-root.service" in log.text
    why = log.text.splitlines()[0]
    assert [address for address in ("192.168.1.10", "192.168.1.11", "192.168.1.12") if f"{address}:" not in why] == []
    (boot,) = [boot for boot in damaged.boots() if boot.id == log.boot]
    assert boot.stage is Stage.FAILED


def test_it_starts_again_half_a_minute_later(damaged: Damaged) -> None:
    shown = damaged.said(r"Why: +no root for this seat", seconds=5)
    again = damaged.said(r"^restarts$", seconds=90, since=damaged.refused)
    assert 25 < again.time - shown.time < 90


def test_a_block_that_is_damaged_later_stops_the_seat_and_says_so(damaged: Damaged) -> None:
    damaged.said("Switching root", since=damaged.refused)
    damaged.said("backline: This seat cannot go on: the root file system is damaged", since=damaged.refused)
    shown = time.time()
    damaged.said("restarts in 30 seconds", seconds=10, since=damaged.refused)
    reset = damaged.said("sysrq: Resetting", seconds=120, since=damaged.refused)
    assert reset.time - shown < 90
    damaged.seat.crash()


def test_netboot_knows_of_the_block(damaged: Damaged) -> None:
    log = next(log for log in damaged.logs() if "the root file system is damaged" in log.reason)
    assert "data block" in log.reason
    assert log.boot == damaged.boots()[0].id
