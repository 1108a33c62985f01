"""The power of a whole machine is cut amid publishing, switching, collecting and upgrading; it starts again, and all
that it said was done is there, and nothing is half there.

A machine in QEMU with the kernel and initrd of nfsroot, the trees of gw and rhfs, and an ext4 on a disk; in it,
`tests.power_guest`. SIGKILL to QEMU takes its memory, its page cache with it, as a cut does; what it has written to the
file of its disk stays. It confirms the crash table (docs/crash-table.md) with a kernel that dies, once an operation.
"""

from __future__ import annotations

import json
import os
import queue
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import image
from builder.image import Shop
from docs.generate import ROOT
from e2e.qemu import EMULATED
from services.common.process import run
from tests.hostd.machines_rig import NEW, OLD

pytestmark = [pytest.mark.full, pytest.mark.images, pytest.mark.needs("root", "QEMU")]

OPERATIONS = ("publish", "switch", "collect", "upgrade")
BOOT_SECONDS = 900.0
"""Until a machine has found what is there: two services start, on a processor that is emulated and shared."""
STEP_SECONDS = 300.0
STARTS = 8
"""How often it is started at most: a cut that comes when its operation is over confirms nothing, and is done again."""

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin
set -e
mkdir -p /proc /sys /dev /modules /gw
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev || true
for module in virtio_pci virtio_blk erofs; do modprobe $module; done
mount -t erofs -o ro /dev/vda /modules
modprobe -d /modules ext4
mount -t erofs -o ro /dev/vdb /gw
mount -t erofs -o ro /dev/vdc /gw/mnt
mount -t ext4 -o noauto_da_alloc /dev/vdd /gw/srv
mount --bind /checkout /gw/opt
mount -t tmpfs tmp /gw/tmp
mount -t tmpfs run /gw/run
for folder in proc sys dev; do mount --bind /$folder /gw/$folder; done
export PYTHONPATH=/usr/lib/backline/app:/usr/lib/backline/site:/opt PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
chroot /gw /usr/bin/python3 -m tests.power_guest /srv/state </dev/null >/dev/ttyS0 2>&1
sleep 1000
"""


def archive(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive, as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    made = bytearray()
    entries = {**files, "TRAILER!!!": (0, b"")}
    for number, (name, (mode, data)) in enumerate(entries.items(), 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        made += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        made += b"\0" * (-len(made) % 4) + data
        made += b"\0" * (-len(made) % 4)
    return bytes(made)


def checkout() -> dict[str, tuple[int, bytes]]:
    """The tests, which the guest's program is one of, and what they need of the builder."""
    files: dict[str, tuple[int, bytes]] = {"checkout": (0o40755, b""), "power-init": (0o100755, INIT.encode())}
    for top in ("tests", "builder"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for parent in reversed(path.relative_to(ROOT).parents[:-1]):
                files.setdefault(f"checkout/{parent}", (0o40755, b""))
            files[f"checkout/{path.relative_to(ROOT)}"] = (0o100644, path.read_bytes())
    return files


class Machine:
    """A machine from power on to power off: what it says, line by line."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("wb") as log, self.process.stdout as console:
            for line in console:
                log.write(line)
                log.flush()
                self.lines.put(line.decode(errors="replace").strip())
        self.lines.put(None)

    def until(self, pattern: str, seconds: float) -> re.Match[str]:
        """The next line that matches. Raises AssertionError with the console's end when it does not come."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None or line == "wrong":
                time.sleep(2)
                raise AssertionError(f"no {pattern}: {self.log.read_text(errors='replace')[-4000:]}")
            if found := re.fullmatch(pattern, line):
                return found

    def rest(self) -> Iterator[str]:
        """What was said before it died."""
        while (line := self.lines.get()) is not None:
            yield line

    def cut(self) -> None:
        """Pull the plug."""
        self.process.kill()
        self.process.wait()
        self.thread.join()


@pytest.fixture(scope="module")
def argv(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """QEMU's command line; its disk is empty."""
    folder = tmp_path_factory.mktemp("machine")
    places = {}
    for role in ("nfsroot", "gw", "rhfs"):
        places[role] = image.build(shop, role).path
    initrd = folder / "initrd"
    initrd.write_bytes(archive(checkout()))
    with initrd.open("ab") as file, (places["nfsroot"] / "initrd").open("rb") as seats:
        shutil.copyfileobj(seats, file)
    disk = folder / "disk.ext4"
    run(["truncate", "--size=512M", disk])
    run(["mkfs.ext4", "-q", "-m0", disk])
    made = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none"]
    made += [*EMULATED, "-m", "1536", "-serial", "stdio", "-no-reboot"]
    made += ["-kernel", str(places["nfsroot"] / "vmlinuz"), "-initrd", str(initrd)]
    made += ["-append", "console=ttyS0 rdinit=/power-init panic=-1 quiet mitigations=off"]
    drives = [f"file={places[role]}/root.erofs,readonly=on" for role in ("nfsroot", "gw", "rhfs")]
    for drive in (*drives, f"file={disk}"):
        made += ["-drive", f"{drive},if=virtio,format=raw"]
    return made


def check(found: dict[str, object], done: dict[str, int], under_way: str | None) -> None:
    """What a start found is what was done before the cut, or one operation more: that which was under way."""
    both = {name: {number} | ({number + 1} if name == under_way else set()) for name, number in done.items()}
    assert found["published"] in both["publish"]
    assert found["switched"] in both["switch"]
    versions = {number: NEW if number % 2 else OLD for number in (done["upgrade"], done["upgrade"] + 1)}
    assert found["upgraded"] in [versions[number] for number in both["upgrade"]]
    held = found["held"]
    assert isinstance(held, list)
    assert max(held, default=0) in both["publish"], "what was published was pulled and confirmed"
    current = done["switch"]
    assert current == 0 or current in held, "what a channel points to is never let go of"


def test_what_was_done_is_there_and_nothing_is_half_there(argv: list[str], tmp_path: Path) -> None:
    seed = int(os.environ.get("BACKLINE_SEED", time.time_ns() % 2**32))
    moments = random.Random(seed)
    print(f"BACKLINE_SEED={seed}")
    done = dict.fromkeys(OPERATIONS, 0)
    under_way: str | None = None
    left = list(OPERATIONS)
    for number in range(STARTS):
        machine = Machine(argv, tmp_path / f"console-{number}")
        try:
            found = json.loads(machine.until(r"found (.*)", BOOT_SECONDS)[1])
            print(f"after a cut amid {under_way}: {found}; done was {done}")
            check(found, done, under_way)
            # What was under way is done now, or is begun again by the round that comes.
            done |= {"publish": found["published"], "switch": found["published"], "collect": 0}
            done["upgrade"] = int(found["upgraded"] == NEW)
            if not left:
                return
            took = work(machine, done, left[0])
            time.sleep(took * moments.uniform(0.0, 0.6))
        finally:
            machine.cut()
        under_way = left[0]
        for line in machine.rest():
            word, operation, _ = line.split() if line.startswith(("begin", "done")) else ("", "", "")
            if word == "begin":
                under_way = operation
            elif word == "done":
                under_way = None
                done[operation] += 1
        if under_way in left:
            left.remove(under_way)
    raise AssertionError(f"the power was not cut amid {', '.join(left)}: they were over too soon")


def work(machine: Machine, done: dict[str, int], target: str) -> float:
    """Let it do a round, and the next one until `target` has begun; returns how long that took in the first, in s."""
    took = 0.0
    for operation in OPERATIONS:
        machine.until(f"begin {operation} .*", STEP_SECONDS)
        began = time.monotonic()
        machine.until(f"done {operation} .*", STEP_SECONDS)
        done[operation] += 1
        took = time.monotonic() - began if operation == target else took
    for operation in OPERATIONS[: OPERATIONS.index(target)]:
        machine.until(f"done {operation} .*", STEP_SECONDS)
        done[operation] += 1
    machine.until(f"begin {target} .*", STEP_SECONDS)
    return took
