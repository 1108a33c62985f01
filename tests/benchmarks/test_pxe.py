"""What the start on a plain NFS tree takes from ours: netboot's script, gw's nginx, the initrd's mount-root."""

from __future__ import annotations

import subprocess

from benchmarks import pxe
from e2e import halls
from netboot import scripts
from netboot.decide import Decision, Server
from netboot.schema import Outcome
from services.hall import edge
from tests.netboot.rig import ONE, seat, version

SERVERS = (Server(1, "rhfs01", "192.168.1.1"), Server(2, "rhfs02", "192.168.1.2"))


def test_a_script_starts_the_machine_by_that_line_once_a_server() -> None:
    decision = Decision(Outcome.BOOT, "channel stable", "it points there", version(ONE), SERVERS)
    script = scripts.boot(seat(), decision, "01" * 16, scripts.Place("hall", "192.168.1.254"))
    assert script.splitlines().count(pxe.START) == len(SERVERS)
    assert script.count(pxe.START) == len(SERVERS)


def test_only_that_machine_is_answered_otherwise() -> None:
    text = edge.servers(halls.make(roles={"gw": "gw"}).data, tls=False)
    other = pxe.with_other_root(text)
    added = [line for line in other.splitlines() if line not in text.splitlines()]
    assert [line.split()[:3] for line in added] == [
        ["location", "=", "/boot/52-54-b7-95-f7-1a"],
        ["location", "=", "/boot/mount-root"],
    ]
    assert [line for line in text.splitlines() if line not in other.splitlines()] == []


def test_the_other_mount_root_is_a_script_that_fetches_credentials_and_opens_no_version() -> None:
    text = pxe.mount_root()
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    calls = text.splitlines()
    assert "    claim" in calls
    assert not {"        choose", "veritysetup open"} & set(calls)
    assert calls[-1].startswith("mount.nfs4 ")
