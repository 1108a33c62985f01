"""A power cut leaves what was on the disk, not what was in memory; a node starts from what a cut left."""

from __future__ import annotations

import pytest

from e2e.lab import Lab
from e2e.power import Disk

pytestmark = [
    pytest.mark.images,
    pytest.mark.needs("loop devices"),
    pytest.mark.lan(topology="single", start=False, share=False),
]


def test_a_cut_keeps_what_was_synced_and_loses_what_was_not(lab: Lab) -> None:
    gw = lab["gw"]
    disk = Disk.of(gw, "/var/lib/backline")
    lab.start()
    steps = [
        ("written", lambda: gw.succeeds("sh", "-c", "echo one > /var/lib/backline/file")),
        ("synced", lambda: gw.succeeds("sync", "-f", "/var/lib/backline/file")),
        ("renamed", lambda: gw.succeeds("mv", "/var/lib/backline/file", "/var/lib/backline/other")),
    ]
    left = {}
    for cut in disk.after_each(steps):
        with cut.look() as folder:
            found = [path for name in ("file", "other") if (path := folder / name).is_file()]
            left[cut.after] = {path.name: path.read_text() for path in found}
    assert left["the beginning"] == {}
    assert left["synced"] == {"file": "one\n"}
    assert left["renamed"] == {"file": "one\n"}, "the rename was not synced, so the disk does not know of it"
    assert left["written"] in ({}, {"file": ""}), "an unsynced file may be there, its bytes may not"


def test_what_a_service_of_the_node_synced_is_on_its_disk(lab: Lab) -> None:
    """What runs inside, unlike a command that enters it, is filtered by nspawn."""
    gw = lab["gw"]
    disk = Disk.of(gw, "/var/lib/backline")
    lab.start()
    script = "echo one > /var/lib/backline/file && sync /var/lib/backline/file /var/lib/backline"
    gw.succeeds("systemd-run", "--quiet", "--wait", "sh", "-c", script)
    with disk.cut().look() as folder:
        assert (folder / "file").read_text() == "one\n"


def test_a_node_starts_from_what_a_cut_left(lab: Lab) -> None:
    gw = lab["gw"]
    disk = Disk.of(gw, "/var/lib/backline")
    lab.start()
    gw.succeeds("sh", "-c", "echo early > /var/lib/backline/file && sync -f /var/lib/backline")
    cut = disk.cut("early")
    gw.succeeds("sh", "-c", "echo late > /var/lib/backline/file && sync -f /var/lib/backline")
    gw.crash()
    disk.put_back(cut)
    gw.start()
    gw.wait_ready()
    assert gw.get("/var/lib/backline/file") == b"early\n"
