"""The roots of a lab's nodes: `root.erofs` of a version from the store, read-only, with an overlay of the node's own
on top.

What a node writes stays in the lab's own tmpfs and never reaches the store. On kernels that cannot mount EROFS from a
file (before Linux 6.12) the tree of the same version is extracted once into the cache, and that is said.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from builder import cache as trees
from builder.settings import Settings
from builder.store import Store
from e2e.sandbox import KEEPER, Sandbox
from services.common.errors import HostError, MissingError
from services.common.progress import Progress
from services.common.versions import Ref

EXTRACTED = "extracted"


@dataclass(frozen=True)
class Mounted:
    """A version's tree inside the lab: `lower` is its path there."""

    ref: Ref
    lower: str
    extracted: bool


class Roots:
    """Mounts versions and overlays in the lab's sandbox."""

    def __init__(
        self, sandbox: Sandbox, settings: Settings, *, extract: bool = False, progress: Progress | None = None
    ) -> None:
        """`extract` forces what is done where the kernel cannot mount EROFS from a file."""
        self.sandbox = sandbox
        self.settings = settings
        self.store = Store(settings.store_path)
        self.extract = extract
        self.progress = progress or Progress(quiet=True)
        self._mounted: dict[Ref, Mounted] = {}

    def find(self, role: str, version: str = "") -> Ref:
        """The version to run: an exact one, or the newest of the role. Raises MissingError("lan.version")."""
        if version:
            return self.store.resolve(version, role=role)
        current = self.store.current(role)
        if current is not None and self.store.have(current.role, current.version):
            return current
        of_role = [stored for stored in self.store.listing().versions if stored.role == role]
        if not of_role:
            raise MissingError(
                "lan.version", f"the store has no version of {role}", hint=f"`build image {role}` makes one"
            )
        return max(of_role, key=lambda stored: stored.added).ref

    def mount(self, ref: Ref) -> Mounted:
        """The tree of a version, mounted once a lab."""
        if ref in self._mounted:
            return self._mounted[ref]
        folder = self.store.find(ref.role, ref.version)
        lower = f"/run/lab/roots/{ref.role}-{ref.version}"
        self.sandbox.run(["mkdir", "-p", lower])
        if not self.extract:
            argv: list[str | Path] = [sys.executable, "-I", "-S", KEEPER, "--erofs", folder / "root.erofs", lower]
            done = self.sandbox.run(argv, check=False)
            if done.returncode != 0:
                self.progress.note(f"this kernel cannot mount EROFS from a file: {done.stderr.strip()}")
                self.extract = True
        if self.extract:
            lower = str(self._extract(ref, folder))
        self._mounted[ref] = Mounted(ref, lower, self.extract)
        return self._mounted[ref]

    def overlay(self, mounted: Mounted, home: str) -> str:
        """An overlay on a version's tree in the node's own folder `home` (a path inside); returns where it is."""
        script = (
            'cd "$1" && mkdir -p data work root && '
            'mount -t overlay backline -o "lowerdir=$2,upperdir=$1/data,workdir=$1/work" root'
        )
        self.sandbox.run(["sh", "-ec", script, "sh", home, mounted.lower])
        return f"{home}/root"

    def detach(self, home: str) -> None:
        """Undo `overlay`; what the node wrote stays for its next start."""
        self.sandbox.run(["umount", f"{home}/root"], check=False)

    def drop(self, home: str, *, keep_var: bool) -> None:
        """Undo `overlay`; what the node wrote goes too, but for /var where it is a server's."""
        script = 'cd "$1" && { umount root 2>&- || :; } && rm -rf work'
        script += (
            " && find data -mindepth 1 -maxdepth 1 ! -name var -exec rm -rf {} +" if keep_var else " && rm -rf data"
        )
        self.sandbox.run(["sh", "-ec", script, "sh", home])

    def _extract(self, ref: Ref, folder: Path) -> Path:
        """The tree of a version in the cache, extracted by the tools tree's fsck.erofs."""
        from builder import tools
        from builder.image import Shop
        from builder.pool import Pool
        from builder.sandbox import Environment
        from builder.sandbox import Sandbox as Tools

        cache = self.settings.cache_path
        target = cache / EXTRACTED / f"{ref.role}-{ref.version}"
        if trees.usable(target):
            return target
        shop = Shop.open(self.settings, self.progress)
        tree = tools.ensure(Pool(cache / "pool"), shop.lock, cache)
        aside = target.with_name(f".{target.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        where = Tools(tools=tree, read_only={folder: "/version"}, writable={aside: "/out"})
        with self.progress.step(f"extracting {ref} into the cache"):
            argv = ["fsck.erofs", "--extract=/out/tree", "--overwrite", "--preserve", "/version/root.erofs"]
            where.run(argv, variables=Environment().variables(0))
        if not (aside / "tree").is_dir():
            raise HostError("lan.extract", f"fsck.erofs extracted nothing of {ref}")
        trees.keep(aside / "tree", target)
        shutil.rmtree(aside, ignore_errors=True)
        return target
