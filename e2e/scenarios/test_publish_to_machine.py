"""A machine with a kernel of its own and twenty NFS clients read without an error while versions come, go and change.

The machine reads its root all the time: over NFS, through dm-verity, with its caches dropped; the clients
(libnfs) read whole files of the version that it runs. Meanwhile versions are published, the channel is switched and
rolled back, and what nobody uses is collected. Then the machine boots the new version, and the one before again. Three
boots, which take some minutes each where the processor is emulated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from builder.image import Shop
from e2e import small, topology
from e2e.lab import Lab
from e2e.node import Node
from e2e.pool import Labs
from e2e.scenarios import changed, publishing
from e2e.scenarios.conftest import ROLES
from e2e.scenarios.publishing import Story
from services.common.identity import command_line
from services.common.versions import Ref
from services.depot.schema import State

SEAT = "pas-r01p02"
SECONDS = 900.0
READERS = 20
NEXT = ("--channel", "next")
# Files of the root are read anew, one after the other, until it is told to stop; whatever fails is named.
_READ = """
reads=0
while :; do
    echo 3 > /proc/sys/vm/drop_caches
    for file in /usr/bin/[a-d]* /usr/lib/systemd/system/*; do
        [ ! -e /run/stop ] || { echo "$reads reads"; exit; }
        [ -f "$file" ] || continue
        reads=$((reads + 1))
        cat "$file" > /dev/null || echo "failed: $file"
    done
done
"""

pytestmark = [pytest.mark.full, pytest.mark.needs("libnfs", "QEMU", "tun"), pytest.mark.images]


@dataclass
class Machine:
    """The machine that boots from the network, and how it is reached."""

    story: Story
    node: Node
    key: Path

    @property
    def address(self) -> str:
        return str(self.story.lab.machines[SEAT].ip)

    def ssh(self, *words: str) -> list[str]:
        """What runs a program there as root, with the administrator's key, from another machine of the hall."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"]
        argv = ["ssh", "-i", str(self.key), *(word for each in options for word in ("-o", each))]
        return self.story.lab.sandbox.inside([*argv, f"root@{self.address}", *words], netns=self.story.lab["web"].netns)

    def run(self, *words: str, stdin: str | None = None) -> str:
        done = subprocess.run(self.ssh(*words), input=stdin, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def version(self) -> str:
        """What it runs, as it says itself."""
        return command_line(self.run("cat", "/proc/cmdline"))["backline.version"]

    def restart(self) -> None:
        """Restart it, and wait until it is up again."""
        starts = self.node.starts
        subprocess.run(self.ssh("systemctl", "reboot"), check=False, timeout=120, capture_output=True)
        self.node.wait_until("its restart", lambda: self.node.starts > starts, seconds=180)
        self.node.wait_ready(seconds=SECONDS)


@pytest.fixture(scope="module")
def new(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return changed.build(shop, tmp_path_factory.mktemp("good") / "checkout", changed.GOOD)


@pytest.fixture(scope="module")
def machine(labs: Labs, shop: Shop, new: Ref, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    labs.close()
    before = [ref for role in ROLES if (ref := shop.store.current(role)) is not None]
    store = changed.store(shop.store, before, tmp_path_factory.mktemp("store"))
    changed.add(shop.store, new, store)
    settings = msgspec.structs.replace(shop.settings, store=str(store.root))
    wanted = topology.hall(seats=0)
    seat = topology.Node(role="nfsroot", backend="qemu", seat=True, off=True, nics=[topology.Nic(segment="room-1")])
    wanted = msgspec.structs.replace(wanted, nodes={**wanted.nodes, SEAT: seat})
    with Lab(wanted, settings=settings, netboot=True, name="machine") as lab:
        place = tmp_path_factory.mktemp("administrator")
        story = publishing.begin(lab, place)
        lab.power_on([lab[SEAT]])
        lab[SEAT].wait_ready(seconds=SECONDS)
        yield Machine(story, lab[SEAT], lab.hall.key_in(place))
        lab.check()


@contextlib.contextmanager
def reading(machine: Machine, path: str) -> Iterator[None]:
    """The machine and the readers read for a block; none of them may have missed anything at its end."""
    story = machine.story
    stop = story.place / "stop"
    stop.unlink(missing_ok=True)
    machine.run("rm", "-f", "/run/stop")
    whole = f"{publishing.sha256(story.nfs('nfs-cat', publishing.RHFS, path))}  -"
    command = " ".join(story.nfs("nfs-cat", publishing.RHFS, path))
    script = f'n=0; while [ ! -e {stop} ]; do {command} | sha256sum; n=$((n+1)); done; echo "$n times"'
    seat = subprocess.Popen(machine.ssh("sh", "-s"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert seat.stdin is not None
    seat.stdin.write(_READ)
    seat.stdin.flush()
    readers = [subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(READERS)]
    try:
        yield
    finally:
        stop.touch()
        machine.run("touch", "/run/stop")
        outputs = [reader.communicate(timeout=300)[0].splitlines() for reader in readers]
        said = seat.communicate(timeout=600)[0].splitlines()
    assert {line for output in outputs for line in output[:-1]} == {whole}
    assert sum(len(output) - 1 for output in outputs) >= READERS
    assert [line for line in said if line.startswith("failed:")] == []
    assert int(said[-1].removesuffix(" reads")) >= 20  # each without caches, by an emulated processor
    by_clients = sum(len(output) - 1 for output in outputs)
    story.lab.journal.note("step", f"{by_clients} reads by NFS clients, and {said[-1]} of the machine's root")


def test_nobody_who_reads_notices_a_publication_a_switch_a_rollback_or_a_collection(machine: Machine, new: Ref) -> None:
    story = machine.story
    assert story.lab.netboot is not None
    old = story.lab.netboot.ref
    assert machine.version() == old.version
    with reading(machine, f"{story.lab.netboot.path}/vmlinuz"):
        first = story.small(small.noise(71, 8_000_000))
        assert story.publish(first, *NEXT, "--no-switch")["sequence"] == 1
        story.publish(story.small(small.noise(72, 8_000_000)), *NEXT, "--no-switch")
        assert story.publish(new)["switched"]
        assert story.pulled()[0] is State.CONFIRMED
        rollback, switch = ("backline", "root", "rollback"), ("backline", "root", "switch", new.version)
        for words, version in ((rollback, old), (switch, new), (rollback, old), (switch, new)):
            story.administrator.run(*words)
            assert story.points("stable") == version.version
        gone = json.loads(story.lab["rhfs01"].succeeds("backline", "root", "gc", "--keep", "0", "--json"))
        assert gone["removed"] == [str(first)]
    assert machine.version() == old.version


def test_it_boots_the_new_version_when_it_starts_next_and_reads_it(machine: Machine, new: Ref) -> None:
    machine.restart()
    assert (machine.version(), machine.run("cat", f"/{changed.FILE}")) == (new.version, "the new version")
    digest = machine.run("sha256sum", "/usr/bin/bash").split()[0]
    assert len(digest) == len(hashlib.sha256().hexdigest())


def test_after_a_rollback_it_boots_the_one_before_again(machine: Machine, new: Ref) -> None:
    story = machine.story
    assert story.lab.netboot is not None
    story.administrator.run("backline", "root", "rollback", "--why", "no sound")
    assert machine.version() == new.version
    machine.restart()
    assert machine.version() == story.lab.netboot.ref.version
