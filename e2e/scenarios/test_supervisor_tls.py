"""Hosts of a hall from one of them: who answers, and changes over TLS with gw's services down."""

from __future__ import annotations

import json

import pytest

from e2e.lab import Lab
from e2e.node import Node

pytestmark = [pytest.mark.lan(topology="hall", seats=0), pytest.mark.images]
DOCUMENT = '[units."clock.service"]\nrunning = true\nfile = """\n[Service]\nExecStart=/usr/bin/sleep infinity\n"""\n'
SERVICES = ("nginx", "named", "backline-mdb.socket", "backline-mdb", "backline-netboot.socket", "backline-netboot")


@pytest.fixture
def gw(lab: Lab) -> Node:
    """gw with its certificate for changing hosts where the program looks for it."""
    gw = lab["gw"]
    gw.wait_for_unit("backline-hall.service")
    lab["rhfs01"].wait_for_unit("backline-hostd-supervisor-tls.socket")
    gw.put("/etc/credstore/backline.client.host", gw.get("/run/credentials/@system/backline.client.host"), mode=0o600)
    return gw


def test_the_hall_is_listed_and_a_silent_host_is_unknown(lab: Lab, gw: Node) -> None:
    def listed() -> dict[str, tuple[str, str | None]]:
        # The proposal names servers that this lab has not: they are unknown, and the exit code says so.
        found = json.loads(gw.run(["backline", "host", "list", "--json"], check=False).stdout)["hosts"]
        return {host["name"]: (host["state"], host["version"]) for host in found}

    gw.wait_until("gw and rhfs01 are up", lambda: [listed()[name][0] for name in ("gw", "rhfs01")] == ["up", "up"])
    assert listed()["rhfs01"][1] == lab["rhfs01"].booted["version"]
    lab["rhfs01"].freeze()
    try:
        assert listed()["rhfs01"] == ("unknown", None)
        assert listed()["gw"][0] == "up"
    finally:
        lab["rhfs01"].thaw()
    gw.wait_until("rhfs01 is up again", lambda: listed()["rhfs01"][0] == "up")


def test_a_host_is_changed_from_another_one_with_gws_services_down(lab: Lab, gw: Node) -> None:
    gw.put("/root/document.toml", DOCUMENT)
    gw.succeeds("systemctl", "stop", *SERVICES)
    try:
        job = json.loads(
            gw.succeeds(
                "backline", "host", "apply", "/root/document.toml", "--host", "rhfs01", "--why", "remote", "--json"
            )
        )
        assert (job["state"], job["by"].partition(" ")[0]) == ("done", "gw")
        assert lab["rhfs01"].unit("clock.service").active == "active"
        assert "clock.service: active" in gw.succeeds("backline", "host", "show", "--host", "rhfs01")
        assert gw.succeeds("backline", "host", "journal", "clock.service", "--host", "rhfs01")
        assert json.loads(gw.succeeds("backline", "host", "rollback", "--host", "rhfs01", "--json"))["state"] == "done"
        assert lab["rhfs01"].failed_units() == []
    finally:
        gw.succeeds("systemctl", "start", *SERVICES)


def test_another_scope_changes_nothing(lab: Lab, gw: Node) -> None:
    feed = lab["rhfs01"].get("/run/credentials/@system/backline.client.feed")
    gw.put("/root/feed.pem", feed, mode=0o600)
    done = gw.fails("backline", "host", "show", "--host", "rhfs01", "--certificate", "/root/feed.pem")
    assert "rhfs01 may feed here, and this takes host" in done.stderr


def test_machines_of_another_host_are_asked_for_over_tls(lab: Lab, gw: Node) -> None:
    """rhfs01 is no iron, and says so; what an iron does by the same routes is in test_iron."""
    assert json.loads(gw.succeeds("backline", "machine", "list", "--host", "rhfs01", "--json")) == []
    refused = gw.fails("backline", "machine", "start", "rhfs01", "--host", "rhfs01")
    assert "no machines run on this host" in refused.stderr
