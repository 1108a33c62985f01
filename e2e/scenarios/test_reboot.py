"""A machine restarts, into the same version and into another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.image import Shop
from e2e import topology
from e2e.lab import Lab
from e2e.scenarios import changed

pytestmark = pytest.mark.images


@pytest.fixture(scope="module")
def other_version(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second version of nfsroot: the one that others publish."""
    return changed.build(shop, tmp_path_factory.mktemp("good") / "checkout", changed.GOOD).version


@pytest.mark.lan(topology="hall", seats=1)
def test_a_seat_reboots_into_another_version_of_nfsroot_and_back(lab: Lab, other_version: str) -> None:
    seat = lab["pas-r01p01"]
    first = seat.booted["version"]
    seat.fails("cat", f"/{changed.FILE}")
    seat.put("/root/written", "gone after a restart")
    seat.reboot(other_version)
    assert seat.succeeds("cat", f"/{changed.FILE}") == "the new version"
    assert seat.booted["version"] == other_version
    seat.fails("cat", "/root/written")
    seat.reboot(first)
    assert seat.booted["version"] == first
    seat.fails("cat", f"/{changed.FILE}")


@pytest.mark.lan(topology="hall", seats=1)
def test_a_server_that_restarts_keeps_what_it_wrote(lab: Lab) -> None:
    web = lab["web"]
    web.put("/var/lib/kept", "kept")
    starts = web.starts
    web.reboot()
    assert web.starts == starts + 1
    assert web.get("/var/lib/kept") == b"kept"


@pytest.mark.lan(topology="hall", seats=1)
def test_a_machine_that_restarts_by_itself_is_powered_on_again(lab: Lab) -> None:
    web = lab["web"]
    starts = web.starts
    web.run(["systemctl", "--no-block", "reboot"])
    web.wait_until("its next start", lambda: web.starts == starts + 1 and web.ready)


def test_names_of_any_length_work(shop: Shop) -> None:
    name = "a-name-of-sixty-three-characters-which-is-all-that-dns-allows-x"
    assert len(name) == 63
    nic = topology.Nic(segment="a-switch-with-a-name-that-is-longer-than-an-interface-may-have")
    node = topology.Node(role="rhfs", hall=False, nics=[nic, nic])
    wanted = topology.Topology(name="long", segments={nic.segment: topology.Segment()}, nodes={name: node})
    with Lab(wanted, settings=shop.settings) as lab:
        lab.start()
        assert lab[name].succeeds("hostname") == name
        assert lab[name].succeeds("ls", "/sys/class/net").split() == ["host0", "host1", "lo"]


@pytest.mark.lan(topology="single", share=False, extract=True)
def test_a_kernel_that_mounts_no_erofs_gets_the_extracted_tree_of_the_same_version(lab: Lab) -> None:
    gw = lab["gw"]
    mounted = lab.roots.mount(lab.roots.find("gw", gw.booted["version"]))
    assert mounted.extracted
    assert Path(mounted.lower, "usr/lib/os-release").exists()
    assert gw.succeeds("systemctl", "is-system-running") == "running"
