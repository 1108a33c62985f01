"""Iron in a lab: a node that is made a plain Debian 13 and then a host, and versions for its machines.

The node runs a role's image without what Backline put there, and with Debian's systemd-container, which the lock has
because the tools tree is made of it. `variant` makes a version that differs from another one in a few files, as an
administrator's next version does: by mkfs.erofs of the tools tree, on an overlay.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from builder import tools
from builder.image import Shop
from builder.pool import Pool
from builder.sandbox import Environment
from builder.sandbox import Sandbox as Tools
from builder.store import Store
from e2e.node import Node
from e2e.power import Disk
from e2e.sandbox import KEEPER
from services.common import manifest as manifests
from services.common.process import Completed, run
from services.common.versions import Ref

VERSIONS = "/srv/versions"
"""Where the iron sees what an administrator would have copied there."""
HALL = "/root/hall.toml"
_NETDEV = "[NetDev]\nName={name}\nKind=bridge\n"
_NETWORK = "[Match]\nName={name}\n\n[Network]\nAddress={address}\nConfigureWithoutCarrier=yes\n"
_PLAIN = """
systemctl disable --now backline-hostd.socket backline-hostd.service backline-hall.service
systemctl stop 'backline-hostd-supervisor*.socket' backline-hostd-supervisor.service
rm -rf /usr/lib/backline /usr/bin/backline /usr/lib/systemd/system/backline-*
systemctl daemon-reload
systemctl reset-failed
"""


class Iron:
    """A node as iron. Its machines' commands, and what runs in them."""

    def __init__(self, node: Node, disk: Disk) -> None:
        """`disk` is where its machines are."""
        self.node = node
        self.disk = disk

    def take_away(self) -> None:
        """Take all that is Backline's away: what is left is a plain Debian 13."""
        self.node.succeeds("sh", "-ec", _PLAIN)

    def make_plain(self, shop: Shop, *, address: str) -> None:
        """Take Backline away, bring systemd-container and the bridges br0, with `address`, and br1."""
        self.take_away()
        package = next(each for each in shop.lock.packages if each.name == "systemd-container")
        file = Pool(shop.settings.cache_path / "pool").path(package.sha256)
        self.node.put("/run/systemd-container.deb", file.read_bytes())
        # Two libraries that only machinectl's downloads of images want are not there.
        self.node.succeeds("dpkg", "--force-depends", "--install", "/run/systemd-container.deb")
        for name, mine in (("br0", address), ("br1", "198.51.100.1/24")):
            self.node.put(f"/etc/systemd/network/20-{name}.netdev", _NETDEV.format(name=name))
            self.node.put(f"/etc/systemd/network/20-{name}.network", _NETWORK.format(name=name, address=mine))
        self.node.succeeds("networkctl", "reload")

    def init(self, version: str, hall: str, *words: str, check: bool = True) -> str:
        """`backline host init` from a version's folder, as docs/machines.md has it; returns what it said."""
        self.node.put(HALL, hall)
        script = (
            'tree=/run/trees/$(basename "$1"); mkdir -p "$tree"; '
            'mountpoint -q "$tree" || mount -o ro "$1/root.erofs" "$tree"; '
            "shift; PYTHONPATH=$tree/usr/lib/backline/app:$tree/usr/lib/backline/site "
            f'python3 -m services.common.main host init --from "$tree" --hall {HALL} "$@"'
        )
        done = self.node.run(["sh", "-ec", script, "sh", version, *words], check=check, seconds=300)
        return done.stdout + done.stderr

    def machine(self, *words: str, seconds: float = 120.0) -> str:
        """`backline machine ...`, which has to succeed."""
        return self.node.succeeds("backline", "machine", *words, seconds=seconds)

    def refused(self, *words: str, seconds: float = 120.0) -> Completed:
        """`backline machine ...`, which has to fail."""
        return self.node.fails("backline", "machine", *words, seconds=seconds)

    def pid(self, name: str) -> str:
        """The process that is a machine's systemd-nspawn: the same as long as the machine runs."""
        return self.node.succeeds("systemctl", "show", "-P", "MainPID", f"systemd-nspawn@{name}.service")

    def record(self, name: str) -> dict[str, object]:
        """A machine's record."""
        text = self.node.get(f"/var/lib/backline-machines/machines/{name}/record.json")
        found: dict[str, object] = json.loads(text)
        return found

    def inside(self, name: str, *argv: str, seconds: float = 60.0) -> str:
        """Run a program in a machine."""
        leader = self.node.succeeds("machinectl", "show", name, "--property=Leader", "--value")
        enter = ["nsenter", f"--target={leader}", "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--"]
        return self.node.succeeds(*enter, *argv, seconds=seconds)


@contextlib.contextmanager
def overlay(root: Path, work: Path) -> Iterator[Path]:
    """The tree of a root.erofs with room to write; everything is unmounted at the end."""
    lower, merged = work / "lower", work / "merged"
    for name in ("lower", "merged", "upper", "work"):
        (work / name).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        run([sys.executable, "-I", "-S", KEEPER, "--erofs", root, lower])
        stack.callback(run, ["umount", lower])
        options = f"lowerdir={lower},upperdir={work / 'upper'},workdir={work / 'work'}"
        run(["mount", "-t", "overlay", "overlay", "-o", options, merged])
        stack.callback(run, ["umount", merged])
        yield merged


def variant(
    shop: Shop, ref: Ref, version: str, target: Path, *, files: Mapping[str, str], links: Sequence[tuple[str, str]] = ()
) -> Path:
    """The folder of a new version below `target`: `ref` with `files` by path, and `links` (path, where it points)."""
    folder = target / version
    folder.mkdir(parents=True)
    store = Store(shop.settings.store_path)
    root = store.find(ref.role, ref.version) / "root.erofs"
    tree = tools.ensure(Pool(shop.settings.cache_path / "pool"), shop.lock, shop.settings.cache_path)
    work = target / f".{version}"
    with overlay(root, work) as merged:
        for name, text in files.items():
            path = merged / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, where in links:
            path = merged / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(where)
        sandbox = Tools(tools=tree, read_only={merged: "/tree"}, writable={folder: "/out"})
        sandbox.run(["mkfs.erofs", "--quiet", "/out/root.erofs", "/tree"], variables=Environment().variables(0))
    shutil.rmtree(work)
    artefacts = {"root.erofs": manifests.hash_file(folder / "root.erofs")}
    manifest = msgspec.structs.replace(store.manifest(ref.role, ref.version), version=version, artefacts=artefacts)
    (folder / manifests.NAME).write_bytes(manifests.encode(manifest))
    return folder
