"""A plain Debian 13 becomes iron, and a role image runs on it as a machine: upgraded, taken back, never lost.

In nested containers: the iron is a node of the lab, its machine a systemd-nspawn container of that node's systemd. The
tests are one story, in order.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.image import Shop
from builder.store import Store
from e2e import halls, topology
from e2e.iron import VERSIONS, Iron, variant
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.power import Disk
from services.hostd import machines_render

pytestmark = [
    pytest.mark.images,
    pytest.mark.needs("root", "cgroup2", "namespaces", "systemd-nspawn", "overlayfs", "loop devices"),
]
TOPOLOGY = """
name = "iron"
[segments.bench]
[nodes.iron]
role = "rhfs"
hall = false
nics = [{ segment = "bench" }]
"""
ROLE, NAME = "rhfs", "rhfs01"
NEXT, BROKEN, STUCK = "20991231.000000000002", "20991231.00000000000b", "20991231.00000000000c"
HOME = f"/var/lib/backline-machines/machines/{NAME}"
UNITS = "/usr/lib/systemd/system"
CODE = "/usr/lib/backline/app"
UNITS_HERE = "/etc/systemd/system"
OVERLAY_MAX = 20 << 20
BRIDGE = "192.168.1.200/23"
INSERT = (
    "import sqlite3; c = sqlite3.connect('/var/lib/notes.db'); c.execute('create table if not exists t (n text)'); \
c.execute('insert into t values (?)', ({!r},)); c.commit()"
)
READ = "import sqlite3; print(*[n for (n,) in sqlite3.connect('{}').execute('select n from t')])"


@pytest.fixture(scope="module")
def first(shop: Shop) -> str:
    """The version that is there at the beginning: what this checkout builds."""
    ref = Store(shop.settings.store_path).current(ROLE)
    assert ref is not None
    return ref.version


@pytest.fixture(scope="module")
def iron(labs: Labs, shop: Shop, first: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iron]:
    labs.close()
    versions = tmp_path_factory.mktemp("versions")
    store = Store(shop.settings.store_path)
    ref = store.current(ROLE)
    assert ref is not None
    broken = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo it never works; exit 3'\n"
    stuck = (
        "[Unit]\nBefore=multi-user.target\n[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\nTimeoutStartSec=1h\n"
    )
    wants = f"{UNITS}/multi-user.target.wants"
    variant(shop, ref, NEXT, versions, files={"/usr/share/next": "2\n", "/var/lib/brought/along": "new\n"})
    # The hostd in these two: one that writes other files for machines, and one that does not work.
    render = (Path(machines_render.__file__)).read_text().replace("# Made by backline", "# Made by a newer backline")
    newer = {f"{CODE}/services/newer.py": "code = 2\n", f"{CODE}/services/hostd/machines_render.py": render}
    # By its unit: bytecode of an image is used whatever the source says (unchecked-hash).
    unfit = {f"{UNITS}/backline-hostd.service": "[Service]\nType=notify\nExecStart=/bin/false\n"}
    for version, name, text, more in ((BROKEN, "broken", broken, newer), (STUCK, "stuck", stuck, unfit)):
        files = {f"{UNITS}/{name}.service": text, **more}
        links = [(f"{wants}/{name}.service", f"../{name}.service")]
        variant(shop, ref, version, versions, files=files, links=links)
    gw = store.current("gw")
    assert gw is not None
    with Lab(topology.parse(TOPOLOGY, where=Path("iron.toml")), settings=shop.settings) as lab:
        node = lab["iron"]
        node.binds[VERSIONS] = f"ro:{versions}"
        node.binds[f"{VERSIONS}-first"] = f"ro:{store.find(ref.role, ref.version)}"
        node.binds[f"{VERSIONS}-gw"] = f"ro:{store.find(gw.role, gw.version)}"
        disk = Disk.of(node, "/var/lib/backline-machines", megabytes=3072)
        lab.start()
        if lab.roots.extract:
            pytest.skip("missing capability: EROFS from a file (Linux 6.12)")
        made = Iron(node, disk)
        made.make_plain(shop, address=BRIDGE)
        yield made
        lab.check()


@pytest.fixture(scope="module")
def hall() -> str:
    """A hall whose servers are machines with their cards on the iron's bridges: br0, and br1 to the world."""
    before, hosts, rest = halls.make().text.partition("[hosts.gw]")
    rest = rest.replace("addresses =", 'bridge = "br0"\naddresses =')
    return before + hosts + rest.replace("upstream = true", 'bridge = "br1"\nupstream = true', 1)


def notes(iron: Iron) -> str:
    """What the machine's database says, as the machine reads it."""
    return iron.inside(NAME, "python3", "-c", READ.format("/var/lib/notes.db"))


def write(iron: Iron, text: str) -> None:
    iron.inside(NAME, "python3", "-c", INSERT.format(text))


def runs(iron: Iron) -> str:
    """Which version the machine itself says that it is, over the network."""
    answer = iron.node.wait_for_http("http://192.168.1.10:20210/v1/host")
    return str(answer.json()["version"])


# From a plain Debian to iron


def test_host_init_makes_a_plain_debian_iron(iron: Iron, hall: str) -> None:
    said = iron.init(f"{VERSIONS}-first", hall)
    assert "this host is iron" in said
    node = iron.node
    assert (
        node.succeeds("stat", "--format=%a %U", "/etc/credstore", "/etc/credstore/backline.hall")
        == "700 root\n600 root"
    )
    assert node.get("/etc/credstore/backline.hall").decode() == hall
    node.wait_for_unit("backline-hostd.service")
    assert node.get("/etc/credstore/backline.role") == b"iron"
    assert node.succeeds("backline", "hostd", "version").endswith("(configured)")
    assert node.succeeds("systemctl", "is-enabled", "backline-hostd-machines.service") == "enabled"


def test_a_second_host_init_has_nothing_to_do(iron: Iron, hall: str) -> None:
    assert iron.init(f"{VERSIONS}-first", hall) == "this host is iron; nothing was to do\n"


# A machine


def test_an_unsigned_version_is_refused(iron: Iron) -> None:
    assert "nobody has signed this version" in iron.refused("import", f"{VERSIONS}/{NEXT}").stderr


def test_a_machine_runs_as_hall_toml_says(iron: Iron, first: str) -> None:
    assert iron.machine("import", "--unsigned", f"{VERSIONS}-first") == f"{ROLE}@{first}"
    for version in (NEXT, BROKEN, STUCK):  # as if taken in too; the disk is small
        iron.node.succeeds("ln", "-s", f"{VERSIONS}/{version}", f"/var/lib/backline-machines/images/{ROLE}/{version}")
    iron.machine("create", NAME, "--version", first, "--memory", "2G", "--folder", "/srv/homes")
    assert runs(iron) == first
    assert iron.inside(NAME, "systemctl", "is-system-running") == "running"
    assert iron.inside(NAME, "hostname") == NAME
    assert iron.inside(NAME, "sh", "-c", "touch /srv/homes/kept && ip -brief link | grep -c host") == "2"


def test_a_machine_has_the_ids_of_the_iron(iron: Iron) -> None:
    """Shifted ids would copy the whole tree into memory."""
    assert iron.inside(NAME, "cat", "/proc/self/uid_map").split() == ["0", "0", "4294967295"]


def test_the_overlay_of_a_machine_is_small_after_boot(iron: Iron) -> None:
    used = iron.inside(NAME, "df", "--block-size=1", "--output=used", "/").split()[-1]
    assert 0 < int(used) < OVERLAY_MAX
    assert iron.inside(NAME, "stat", "--file-system", "--format=%T", "/") == "overlayfs"
    assert "overlayfs" not in iron.inside(NAME, "stat", "--file-system", "--format=%T", "/var")


def test_a_machine_is_limited(iron: Iron) -> None:
    assert iron.node.succeeds("systemctl", "show", "-P", "MemoryMax", f"systemd-nspawn@{NAME}") == str(2 << 30)


def test_a_document_has_an_export_served_that_ganesha_has_lost(iron: Iron) -> None:
    """In the machine, which is a root file server; its supervisor asks ganesha over D-Bus."""
    file = "/run/document.json"
    iron.inside(NAME, "sh", "-c", f"""echo '{{"exports": ["/images"]}}' > {file}""")
    iron.node.wait_until("the export", lambda: iron.inside(NAME, "backline", "host", "plan", file) == "nothing to do")
    manager = ["org.ganesha.nfsd", "/org/ganesha/nfsd/ExportMgr", "org.ganesha.nfsd.exportmgr"]
    iron.inside(NAME, "busctl", "call", *manager, "RemoveExport", "q", "1")
    assert iron.inside(NAME, "backline", "host", "plan", file) == "export /images"
    assert iron.inside(NAME, "backline", "host", "apply", file, "--why", "it was lost") == "generation 1: done"
    assert "/var/lib/backline/roots/images" in iron.inside(NAME, "busctl", "call", *manager, "ShowExports")
    assert iron.inside(NAME, "backline", "host", "plan", file) == "nothing to do"
    iron.inside(NAME, "backline", "host", "rollback", "--to", "0")


def test_what_a_machine_writes_outside_of_var_is_gone_after_a_restart(iron: Iron, first: str) -> None:
    write(iron, "one")
    before = iron.inside(NAME, "cat", "/etc/machine-id")
    iron.inside(NAME, "touch", "/etc/scribble")
    iron.machine("stop", NAME)
    assert iron.node.succeeds("machinectl", "list", "--no-legend") == ""
    iron.machine("start", NAME)
    assert iron.inside(NAME, "sh", "-c", "test ! -e /etc/scribble && ls /srv/homes") == "kept"
    assert iron.inside(NAME, "cat", "/etc/machine-id") == before
    assert notes(iron) == "one"


def test_gw_runs_beside_it_on_the_same_iron(iron: Iron) -> None:
    folder = "/var/lib/backline-machines/images/gw"
    version = iron.node.succeeds("sed", "-n", 's/^  "version": "\\(.*\\)",\\?$/\\1/p', f"{VERSIONS}-gw/manifest.json")
    iron.node.succeeds("sh", "-ec", f"mkdir -p {folder} && ln -s {VERSIONS}-gw {folder}/{version}")
    iron.machine("create", "gw")
    answer = iron.node.wait_for_http("http://192.168.1.254:20210/v1/host")
    assert (answer.json()["role"], answer.json()["version"]) == ("gw", version)
    assert iron.inside("gw", "systemctl", "--failed", "--plain", "--no-legend") == ""
    used = iron.inside("gw", "df", "--block-size=1", "--output=used", "/").split()[-1]
    assert 0 < int(used) < OVERLAY_MAX
    iron.machine("stop", "gw")
    iron.machine("rm", "gw")


def test_a_machine_can_share_an_interface_of_the_iron(iron: Iron, first: str) -> None:
    iron.machine("create", "test", "--role", ROLE, "--version", first, "--card", "macvlan:host0,52:54:00:00:00:07")
    assert "52:54:00:00:00:07" in iron.inside("test", "ip", "-brief", "link", "show", "host0")
    mounts = iron.node.succeeds("grep", "--count", "/run/backline/machines/rhfs", "/proc/mounts")
    assert mounts == "1", "both machines run from one mounted tree"
    iron.machine("stop", "test")
    iron.machine("rm", "test")


# Upgrades


def test_an_upgrade_keeps_the_database(iron: Iron, first: str) -> None:
    iron.machine("upgrade", NAME, NEXT, "--settle", "1", "--why", "newer")
    assert runs(iron) == NEXT
    assert iron.inside(NAME, "cat", "/usr/share/next", "/var/lib/brought/along") == "2\nnew"
    assert notes(iron) == "one"
    write(iron, "two")
    assert f"goes back to {first}" in iron.machine("show", NAME)


def test_a_version_with_a_unit_that_fails_is_taken_back(iron: Iron) -> None:
    said = iron.refused("upgrade", NAME, BROKEN, "--settle", "1")
    assert said.returncode == 6
    assert "broken.service" in said.stderr
    assert "it never works" in said.stderr
    assert f"{HOME}/var-3" in said.stderr, "what it wrote is kept aside and named"
    assert runs(iron) == NEXT
    assert notes(iron) == "one two"


def test_a_version_that_never_comes_up_is_taken_back_in_time(iron: Iron) -> None:
    began = time.monotonic()
    said = iron.refused("upgrade", NAME, STUCK, "--gate", "10")
    assert "its default target was not reached in time" in said.stderr
    assert time.monotonic() - began < 90
    assert runs(iron) == NEXT
    assert notes(iron) == "one two"


def test_revert_goes_back_with_the_var_of_then_and_names_what_was_written_since(iron: Iron, first: str) -> None:
    write(iron, "three")
    iron.machine("revert", NAME, "--why", "does not please")
    assert runs(iron) == first
    assert notes(iron) == "one"
    shown = iron.machine("show", NAME)
    assert f"{HOME}/var-2: what {NEXT} wrote until it was taken back" in shown
    assert "does not please" in shown
    assert iron.node.succeeds("python3", "-c", READ.format(f"{HOME}/var-2/lib/notes.db")) == "one two three"


# Whoever dies


@contextlib.contextmanager
def upgrading(iron: Iron, *words: str) -> Iterator[None]:
    """Begin an upgrade; the block runs when the new version is there and its gate still open."""

    def tried() -> bool:
        change = iron.record(NAME).get("change")
        return isinstance(change, dict) and change.get("step") == "tried"

    with iron.node.run_in_background(["backline", "machine", "upgrade", NAME, NEXT, *words]):
        iron.node.wait_until("the new version to be tried", tried, seconds=60)
        iron.node.wait_for_unit(f"systemd-nspawn@{NAME}.service")
        yield


def settled(iron: Iron) -> bool:
    return "change" not in iron.record(NAME)


def test_killed_amid_an_upgrade_it_goes_on_by_itself(iron: Iron) -> None:
    unit = f"backline-hostd-machine@{NAME}.service"
    with upgrading(iron, "--settle", "10"):
        iron.node.succeeds("systemctl", "kill", "--kill-whom=all", "--signal=KILL", unit)
        iron.node.wait_until("the upgrade to be over", lambda: settled(iron), seconds=60)
    assert runs(iron) == NEXT
    assert notes(iron) == "one"


def test_an_upgrade_can_be_taken_back_before_it_is_committed(iron: Iron, first: str) -> None:
    iron.machine("revert", NAME)
    with upgrading(iron, "--settle", "600"):
        iron.machine("revert", NAME, "--why", "changed my mind")
    assert runs(iron) == first
    assert "changed my mind" in iron.machine("show", NAME)


def test_hostd_itself_is_replaced_amid_an_upgrade(iron: Iron) -> None:
    hall = iron.node.get("/etc/credstore/backline.hall").decode()
    with upgrading(iron, "--settle", "10"):
        assert "hostd in /usr/lib/backline" in iron.init(f"{VERSIONS}/{BROKEN}", hall)
        assert iron.node.succeeds("ls", f"{CODE}/services/newer.py")
        iron.node.wait_until("the upgrade to be over", lambda: settled(iron), seconds=60)
    assert runs(iron) == NEXT
    iron.machine("revert", NAME)


def test_hostd_is_replaced_and_a_broken_one_goes_back_while_machines_run(iron: Iron, first: str) -> None:
    hall = iron.node.get("/etc/credstore/backline.hall").decode()
    pid = iron.pid(NAME)
    said = iron.init(f"{VERSIONS}/{STUCK}", hall, check=False)
    assert "does not work here, and the one before runs again" in said
    assert iron.node.succeeds("ls", f"{CODE}/services/newer.py"), "that of before"
    assert iron.node.succeeds("backline", "hostd", "version").endswith("(configured)")
    assert "hostd in /usr/lib/backline" in iron.init(f"{VERSIONS}-first", hall)
    iron.node.fails("ls", f"{CODE}/services/newer.py")
    files = iron.node.succeeds("sh", "-c", f"ls {UNITS_HERE}/backline-hostd*").split()
    iron.node.succeeds("systemd-analyze", "verify", "--man=no", *files)
    assert (iron.pid(NAME), runs(iron)) == (pid, first), "the machine has not noticed anything"


# By document


def document(iron: Iron, version: str, **more: object) -> str:
    """A document with the machine as it is, but for its version; returns the name of its file."""
    machine = iron.record(NAME)["machine"]
    assert isinstance(machine, dict)
    wish = {key: machine[key] for key in ("role", "network", "resources", "folders") if key in machine}
    path = "/root/document.json"
    iron.node.put(path, json.dumps({"machines": {NAME: {**wish, "version": version, **more}}}))
    return path


def test_a_document_upgrades_a_machine_and_its_rollback_takes_it_back(iron: Iron, first: str) -> None:
    file = document(iron, NEXT, resources={"memory": "1G"})
    assert iron.node.succeeds("backline", "host", "plan", file).splitlines() == [
        f"change limits of machine {NAME}",
        f"upgrade machine {NAME} to {NEXT}",
    ]
    said = iron.node.succeeds("backline", "host", "apply", file, "--why", "newer", seconds=120)
    assert said == "generation 1: done"
    assert runs(iron) == NEXT
    assert iron.node.succeeds("systemctl", "show", "-P", "MemoryMax", f"systemd-nspawn@{NAME}") == str(1 << 30)
    assert iron.node.succeeds("backline", "host", "plan", file) == "nothing to do"
    assert iron.node.succeeds("backline", "host", "rollback", seconds=120) == "generation 2: done"
    assert runs(iron) == first
    pid = iron.pid(NAME)
    assert iron.node.succeeds("backline", "host", "apply", document(iron, first), "--why", "x") == "generation 3: done"
    assert iron.pid(NAME) == pid, "nothing was to do but to remember it"


@pytest.mark.full
def test_a_version_that_fails_its_gate_takes_the_generation_back(iron: Iron, first: str) -> None:
    file = document(iron, BROKEN)
    said = iron.node.fails("backline", "host", "apply", file, "--why", "worse", seconds=120)
    assert "reverted" in said.stdout
    assert "broken.service" in said.stderr
    assert runs(iron) == first


def test_limits_change_while_a_machine_runs(iron: Iron, first: str) -> None:
    file = document(iron, first, resources={"memory": "3G", "tasks": 5000})
    iron.node.succeeds("backline", "host", "apply", file, "--why", "more room")
    assert iron.node.succeeds("systemctl", "show", "-P", "MemoryMax", f"systemd-nspawn@{NAME}") == str(3 << 30)


def test_an_upgrade_through_the_supervisor_is_a_job(iron: Iron, first: str) -> None:
    where = ["--address", "unix:/run/backline/supervisor.sock"]
    said = iron.machine("upgrade", NAME, NEXT, *where)
    assert said == f"{NAME}: {ROLE} {NEXT}, active"
    assert iron.machine("revert", NAME, *where) == f"{NAME}: {ROLE} {first}, active"
    iron.node.succeeds("backline", "host", "rollback", "--to", "0", seconds=120)


def test_a_power_cut_of_the_iron_amid_an_upgrade_takes_it_back_and_nobody_is_asked(iron: Iron, first: str) -> None:
    write(iron, "four")
    with upgrading(iron, "--settle", "600"):
        cut = iron.disk.cut("the new version is tried")
        iron.node.crash()
    iron.disk.put_back(cut)
    iron.node.start()
    iron.node.wait_ready()
    iron.node.wait_until("the machine to be settled", lambda: settled(iron), seconds=60)
    assert runs(iron) == first
    assert notes(iron) == "one four"
    assert "the iron was started again before the new version was committed" in iron.machine("show", NAME)


def test_a_machine_is_removed_only_when_it_is_stopped(iron: Iron) -> None:
    assert "runs" in iron.refused("rm", NAME).stderr
    iron.machine("stop", NAME)
    assert "/var/lib/backline-machines/removed/rhfs01-1" in iron.machine("rm", NAME)
    assert iron.machine("list") == ""
    assert "erofs" not in iron.node.succeeds("sh", "-c", "grep /run/backline/machines /proc/mounts || true")
