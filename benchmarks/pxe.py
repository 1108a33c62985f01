"""A machine from power on to its default target: our root beside a plain NFS tree, in one lab, in turns.

The plain side is what a diskless Debian does: the very files of the version, copied out of its root.erofs, exported for
reading and writing by a second nfs-ganesha of the same root file server, and mounted as `/` over NFS 4.1 with
mount.nfs4's own options. Firmware, iPXE, kernel, command line, initrd and what it does before the root is mounted are
the same: gw's nginx adds one file to the script of that machine, a `mount-root` with another end. Its tree is used once
before it is measured, as a machine's own tree has been, so that it has its keys and its machine id.

What is measured: NFS calls by the client's own kernel (/proc/net/rpc/nfs, told by the node exporter, so a few calls for
reading that program are in them), bytes of IP by nftables on the server's NFS ports at the moment of the target, and
seconds from power on. An emulated kernel that gives up and starts again is not counted, and tried again.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from e2e import topology
from e2e.lab import Lab
from services.hall import edge

OURS, PLAIN = "ours", "plain NFS tree"
PORTS = {OURS: 2049, PLAIN: 12049}
SEAT, ROOT_SERVER, GATEWAY = "pas-r01p01", "rhfs01", "gw"
SECONDS = 600.0
EXPORTER = 9100
TRIES = 3
START = "boot || goto failed"
"""The line of netboot's script before which all has been loaded."""
TREE = "/srv/plain"
_FILES, _DISK = "/run/plain", "/run/lab/plain"
_MOUNT_ROOT = Path(__file__).resolve().parents[1] / "images/initrd/mkosi.extra/usr/lib/backline/mount-root"
_PLACE = "/usr/lib/backline/mount-root"
# What the version's mount-root does with the root, up to its end.
_ITS_END = "case $root in\n    nfs:*)\n"
_PLAIN_END = f"""\
modprobe nfsv4 || fail "the initrd has no NFS 4 client for kernel $(uname -r)"
server=${{root#nfs:}}
mkdir --parents /sysroot
mount.nfs4 "${{server%%:*}}:/plain" /sysroot -o rw,vers=4.1,port={PORTS[PLAIN]} || fail "no plain tree"
"""
# As the one of versions (docs/seats.md), but for what a tree that is written needs.
_GANESHA = f"""\
NFS_CORE_PARAM {{
    Protocols = 4;
    NFS_Port = {PORTS[PLAIN]};
    Enable_NLM = false;
    Enable_RQUOTA = false;
    allow_set_io_flusher_fail = true;
}}
NFSV4 {{ Minor_Versions = 1; Graceless = true; Only_Numeric_Owners = true; RecoveryRoot = {_FILES}/recovery; }}
EXPORT {{
    Export_Id = 1;
    Path = {TREE};
    Pseudo = /plain;
    Access_Type = RW;
    Squash = No_Root_Squash;
    SecType = sys;
    Protocols = 4;
    Transports = TCP;
    FSAL {{ Name = VFS; }}
}}
"""
_RULES = "".join(
    [
        "table inet bench {\n",
        *(f"    counter port{port} {{ }}\n" for port in PORTS.values()),
        *(
            f"    chain {hook} {{\n        type filter hook {hook} priority -400;\n"
            + "".join(f"        tcp {way}port {port} counter name port{port}\n" for port in PORTS.values())
            + "    }\n"
            for hook, way in (("input", "d"), ("output", "s"))
        ),
        "}\n",
    ]
)
_METRIC = re.compile(r'^node_nfs_requests_total\{method="(\w+)",proto="4"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Start:
    """One start of a machine: calls by their kind, bytes both ways, seconds from power on to the default target."""

    side: str
    seconds: float
    sent: int
    calls: dict[str, int]

    @property
    def operations(self) -> int:
        """All calls of the NFS client."""
        return sum(self.calls.values())

    def profile(self) -> str:
        """The calls that are most of them."""
        most = sorted(self.calls.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {count}" for name, count in most[:8])


def mount_root() -> str:
    """What the plain side has in place of the initrd's mount-root: the same up to where the root is mounted."""
    head, found, _ = _MOUNT_ROOT.read_text().partition(_ITS_END)
    assert found, f"{_MOUNT_ROOT} is not as it was"
    return head + _PLAIN_END


def with_other_root(text: str) -> str:
    """nginx's configuration of gw with one more line in the machine's script: it loads `mount_root`, too."""
    mac = topology.mac_of(SEAT, 0).replace(":", "-")
    more = f"initrd mount-root {_PLACE} mode=755 || goto failed"
    lines = ["proxy_pass http://netboot;", "sub_filter_types text/plain;", "sub_filter_once off;"]
    lines.append(f"sub_filter '{START}' '{more}\\n{START}';")
    extra = f"location = /boot/{mac} {{ {' '.join(lines)} }}\n"
    extra += f"    location = /boot/mount-root {{ alias {_FILES}/mount-root; }}\n"
    before = "location / {\n        proxy_pass http://netboot;"
    assert before in text, "gw's nginx is not configured as it was"
    return text.replace(before, f"{extra}    {before}")


@dataclass
class Bench:
    """A hall with both kinds of root, and one machine that boots now from one, now from the other."""

    lab: Lab
    edge: str
    """nginx's configuration on gw, as gw made it."""

    def start(self, side: str) -> Start:
        """Switch the machine on with the root of a side, until its default target is reached; it stays on."""
        seat = self.lab[SEAT]
        self._answer(side)
        for _ in range(TRIES):
            before = seat.starts
            self._nft("reset", "counters")
            self.lab.start([SEAT], seconds=SECONDS)
            seconds, sent = seat.seconds_to_ready, self._bytes(side)
            if seat.starts == before + 1 and seconds is not None:
                assert sent, f"it did not start from the root of {side}"
                return Start(side, seconds, sent, self._calls())
            print("  it did not start at once: not counted", file=sys.stderr)
            seat.crash()
        raise SystemExit(f"{SEAT} does not start at once, {TRIES} times: {self.lab.again(SEAT)}")

    def _calls(self) -> dict[str, int]:
        """Calls of the machine's NFS client since it was switched on, by their kind."""
        gateway = self.lab[GATEWAY]
        address = str(self.lab.machines[SEAT].ip)
        gateway.wait_until("the node exporter", lambda: self._reachable(address), seconds=SECONDS)
        url = f"http://{address}:{EXPORTER}/metrics?collect[]=nfs"
        text = gateway.http("GET", url, seconds=120).text
        return {name: int(float(count)) for name, count in _METRIC.findall(text) if float(count)}

    def stop(self, *, orderly: bool = False) -> None:
        """Switch it off: at once, or by its power button, so that everything is written."""
        seat = self.lab[SEAT]
        seat.stop(seconds=SECONDS) if orderly else seat.crash()

    def _answer(self, side: str) -> None:
        """Let gw answer the machine with the script of netboot, or with that and the other mount-root."""
        gateway = self.lab[GATEWAY]
        gateway.put(edge.CONFIGURATION, with_other_root(self.edge) if side == PLAIN else self.edge)
        gateway.succeeds("systemctl", "reload", "nginx.service")

    def _nft(self, *words: str) -> str:
        argv = ["nft", "--json", *words, "table", "inet", "bench"]
        return self.lab.sandbox.run(argv, netns=self.lab[ROOT_SERVER].netns).stdout

    def _bytes(self, side: str) -> int:
        found = [each["counter"] for each in json.loads(self._nft("list", "counters"))["nftables"] if "counter" in each]
        return next(int(one["bytes"]) for one in found if one["name"] == f"port{PORTS[side]}")

    def _reachable(self, address: str) -> bool:
        with contextlib.suppress(OSError):
            self.lab[GATEWAY].connect((address, EXPORTER), seconds=5).close()
            return True
        return False


def copy_tree(lab: Lab) -> str:
    """The files of the version on a disk of their own (nfs-ganesha exports no tmpfs); returns where it is mounted."""
    assert lab.netboot is not None
    tree, place = lab.roots.mount(lab.netboot.ref).lower, f"{_DISK}.mounted"
    script = 'truncate --size=4G "$2" && mkfs.ext4 -q -m0 "$2" && mkdir "$3" && mount -o loop "$2" "$3"'
    lab.sandbox.run(["sh", "-ec", f'{script} && cp --archive "$1/." "$3"', "sh", tree, _DISK, place])
    return place


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A hall of which gw and the root file server run, with both kinds of root."""
    wanted = topology.built_in("pxe")
    seat: topology.Node = msgspec.structs.replace(wanted.nodes[SEAT], clock_offset=0)
    wanted = msgspec.structs.replace(wanted, nodes={**wanted.nodes, SEAT: seat})
    with Lab(wanted) as lab:
        assert lab.netboot is not None
        server, gateway = lab[ROOT_SERVER], lab[GATEWAY]
        server.binds[TREE] = copy_tree(lab)
        lab.start([GATEWAY, ROOT_SERVER], seconds=SECONDS)
        lab.sandbox.run(["nft", "-f", "-"], netns=server.netns, stdin=_RULES)
        server.put(f"{_FILES}/ganesha.conf", _GANESHA)
        argv = ["systemd-run", "--quiet", "--unit=plain-nfs", "/usr/bin/ganesha.nfsd", "-F", "-L", "SYSLOG"]
        server.succeeds(*argv, "-f", f"{_FILES}/ganesha.conf", "-p", f"{_FILES}/pid", "-N", "NIV_EVENT")
        server.wait_for_port(PORTS[PLAIN])
        gateway.put(f"{_FILES}/mount-root", mount_root())
        yield Bench(lab, gateway.get(edge.CONFIGURATION).decode())


def starts(runs: int) -> Iterator[tuple[Start, Start]]:
    """Pairs of starts, ours and the plain tree's, one after the other."""
    with bench() as one:
        one.start(PLAIN)
        one.stop(orderly=True)
        for _ in range(runs):
            pair = []
            for side in PORTS:
                began = time.monotonic()
                pair.append(one.start(side))
                one.stop()
                print(f"  {side}: {pair[-1].profile()} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
            yield pair[0], pair[1]


def figures(runs: int) -> Iterator[tuple[str, float, str, str]]:
    """Rows of a table: what, figure, unit, what is to be reached."""
    for ours, plain in starts(runs):
        for start in (ours, plain):
            goal = "" if start is ours else "the other side"
            what = f"PXE boot, {start.side}"
            yield f"{what}: NFS operations", start.operations, "", goal
            yield f"{what}: NFS bytes", start.sent / 1e6, "MB", goal
            yield f"{what}: to the default target", start.seconds, "s", goal or "reported"
        yield "PXE boot: ratio of NFS operations", ours.operations / plain.operations, "", "at most 0.5"
        yield "PXE boot: ratio of NFS bytes", ours.sent / plain.sent, "", "at most 0.5"
        yield "PXE boot: ratio of seconds", ours.seconds / plain.seconds, "", "reported"
