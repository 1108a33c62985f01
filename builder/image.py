"""From a role to a version in the store: lock → recipe → pool → tools tree → mkosi → normalise → artefacts → signature.

What is in the store already is not built again: the recipe id says so before anything is started. A build works in a
folder of its own and enters the store with one rename; interrupted at any moment, it leaves nothing that counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from builder import config, imports, lock, recipe
from builder.config import Image
from builder.imports import Imports
from builder.lock import Lock
from builder.place import Place, in_place, memory_fits, memory_needed
from builder.recipe import Recipe
from builder.sandbox import Environment
from builder.settings import Settings, source_root
from builder.store import RECIPE, SOURCE, Store
from services.common import manifest as manifests
from services.common.errors import BacklineError, HostError, InputError, MissingError, UsageError
from services.common.manifest import Manifest
from services.common.progress import Progress
from services.common.versions import Ref

if TYPE_CHECKING:
    from builder.layers import Context


@dataclass
class Shop:
    """What all verbs of a builder share: where things are, the lock, and how progress is shown."""

    settings: Settings
    root: Path
    lock_path: Path
    progress: Progress = field(default_factory=Progress)
    _lock: Lock | None = None
    _imports: Imports | None = None

    @classmethod
    def open(cls, settings: Settings, progress: Progress | None = None, *, root: Path | None = None) -> Shop:
        """The shop of this checkout, with the lock that the settings name."""
        root = root or source_root()
        path = Path(settings.lock) if settings.lock else root / lock.NAME
        return cls(settings, root, path, progress or Progress())

    @property
    def lock(self) -> Lock:
        """The lock, read once."""
        if self._lock is None:
            self._lock = lock.load(self.lock_path)
        return self._lock

    @property
    def imports(self) -> Imports:
        """What modules import, as far as it is known."""
        if self._imports is None:
            self._imports = Imports(self.settings.cache_path / imports.NAME)
        return self._imports

    @property
    def store(self) -> Store:
        """The store."""
        return Store(self.settings.store_path)


@dataclass(frozen=True)
class Built:
    """A version, and whether it had to be built."""

    ref: Ref
    path: Path
    fresh: bool


def plan(shop: Shop, role: str) -> Recipe:
    """The recipe of a role, after the checks that need no work. Raises for unknown roles, mistakes and a stale lock."""
    from builder.resolve import require_fresh

    config.require_role(shop.root, role)
    require_fresh(shop.root, shop.lock)
    return recipe.of_image(shop.root, role, shop.lock, imports=shop.imports)


def build(shop: Shop, role: str) -> Built:
    """The version of `role` that the checkout and the lock describe, built when the store has it not."""
    wanted = plan(shop, role)
    shop.imports.save()
    ref = Ref(role, recipe.version(wanted, shop.lock))
    store = shop.store
    if store.have(ref.role, ref.version):
        store.check(ref.role, ref.version)
        store.set_current(ref)
        return Built(ref, store.path(ref.role, ref.version), fresh=False)
    require_root()
    from builder.locking import exclusive

    with exclusive(shop.settings.cache_path / "build.lock", what="a build", notify=shop.progress.note):
        if not store.have(ref.role, ref.version):  # the build that we waited for may have made it
            _build(shop, wanted, ref, store)
            store.set_current(ref)
            return Built(ref, store.path(ref.role, ref.version), fresh=True)
    store.set_current(ref)
    return Built(ref, store.path(ref.role, ref.version), fresh=False)


def require_root() -> None:
    """Raises HostError("host.root"): owners and modes of an image need root."""
    if os.geteuid() != 0:
        raise HostError("host.root", "building an image needs root", hint="run it as root, or with sudo")


@contextlib.contextmanager
def frozen(shop: Shop, wanted: Recipe) -> Iterator[tuple[Shop, Path]]:
    """The checkout as it is now, in a folder that nobody edits, for a block: a shop of it, and its archive.

    A build takes minutes and reads files to its end; what is edited meanwhile is for the next one. Raises
    InputError("image.edited") when it is not any more what `wanted` was made from.
    """
    from builder import sources
    from builder.aside import Aside

    with Aside(shop.settings.cache_path / "work").folder() as folder:
        sources.pack(shop.root, shop.lock, folder / SOURCE)
        root = folder / "checkout"
        sources.unpack(folder / SOURCE, root)
        if recipe.of_image(root, wanted.role, shop.lock, imports=shop.imports).identity != wanted.identity:
            raise InputError(
                "image.edited",
                f"files of {wanted.role} were edited while it was planned",
                hint=f"`build image {wanted.role}` again",
            )
        yield Shop(shop.settings, root, shop.lock_path, shop.progress, shop.lock, shop.imports), folder / SOURCE


def _build(shop: Shop, wanted: Recipe, ref: Ref, store: Store) -> None:
    with frozen(shop, wanted) as (still, archive), store.staging() as out:
        make(still, wanted, ref, out)
        if recipe.shaping_modules() != wanted.sections["builder"]:  # not all of them are loaded when a build begins
            raise InputError("image.edited", "the builder was edited while it built", hint="the same command again")
        shutil.copyfile(archive, out / SOURCE)
        with shop.progress.step(f"{ref.role}: into the store"):
            store.add(ref.role, ref.version, out)
    try:
        sign(shop, ref)
    except (MissingError, UsageError) as error:  # the version is good; it can be signed later
        shop.progress.note(f"{ref} is not signed: {error.message} ({error.hint})")


def sign(shop: Shop, ref: Ref) -> str:
    """Sign a version with the administrator's key; returns the signer's name. Raises as `Keyring.default`."""
    from builder.keys import Keyring
    from services.common import signing

    key = Path(shop.settings.signing_key) if shop.settings.signing_key else Keyring().default()
    data = (shop.store.find(ref.role, ref.version) / manifests.NAME).read_bytes()
    name = key.name.removesuffix(".pub")
    shop.store.add_signature(ref.role, ref.version, name, signing.sign(data, key, manifests.SIGNATURE_NAMESPACE))
    return name


@contextlib.contextmanager
def workshop(
    shop: Shop, role: str, *, environment: Environment | None = None, place: Place | None = None
) -> Iterator[Context]:
    """A `builder.layers.Context` for one build of `role`: packages fetched, tools tree made, an empty working folder.

    Without a `place` it is in memory where it fits.
    """
    from builder import layers, tools
    from builder.aside import Aside
    from builder.later import Later
    from builder.pool import Pool

    pool = Pool(shop.settings.cache_path / "pool")
    fetch(shop, [role])
    tree = tools.ensure(pool, shop.lock, shop.settings.cache_path)
    logs = shop.settings.cache_path / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{role}.log"
    log.write_bytes(b"")
    aside = Aside(shop.settings.cache_path / "work")
    aside.clean()
    size = memory_needed(shop.lock, role)
    if roomy := memory_fits(2 * size):
        size *= 2
    if place is None:
        place = Place.MEMORY if memory_fits(size) else Place.DISK
    with aside.folder() as work, in_place(work, place, size=size), Later() as later:
        yield layers.Context(
            root=shop.root,
            lock=shop.lock,
            pool=pool,
            cache=shop.settings.cache_path,
            tools=tree,
            work=work,
            log=log,
            environment=environment or Environment(),
            later=later,
            roomy=roomy,
        )


def fetch(shop: Shop, roles: list[str]) -> int:
    """Fetch what `roles` (and the tools) need into the pool; returns how many files came."""
    from builder import fetch as fetching
    from builder import mirrors, tools, wheels
    from builder.pool import Pool

    pool = Pool(shop.settings.cache_path / "pool")
    trees = set(roles) | {config.TOOLS}
    images = [config.load(shop.root, role) for role in roles]
    if any(image.kernel for image in images):
        trees.add(config.INITRD)
    packages = {package.sha256: package for tree in sorted(trees) for package in shop.lock.of(tree)}
    missing = pool.missing(packages.values())
    count = 0
    if missing:
        where = mirrors.discover(shop.settings, epoch=shop.lock.epoch)
        total = sum(package.size for package in missing)
        with shop.progress.step("fetching packages", total=total, unit="B") as step:
            count = fetching.fetch_packages(pool, missing, where, advance=step.advance)
    for name in sorted({image.wheels for image in images if image.wheels}):
        locked = shop.lock.wheels_of(name)
        if any(not pool.path(wheel.sha256, ".whl").exists() for wheel in locked):
            tree = tools.ensure(pool, shop.lock, shop.settings.cache_path)
            with shop.progress.step(f"fetching wheels of {name}"):
                count += wheels.fetch(pool, locked, name=name, tree=tree, root=shop.root)
    return count


def make(
    shop: Shop,
    wanted: Recipe,
    ref: Ref,
    out: Path,
    *,
    environment: Environment | None = None,
    flat: bool = False,
    place: Place | None = None,
) -> Manifest:
    """Build a role into the folder `out`: every file of a version, the manifest last."""
    from builder import layers

    image = config.load(shop.root, ref.role)
    with workshop(shop, ref.role, environment=environment, place=place) as ctx:
        staging = ctx.later.do(stage, shop, ctx, image)
        if flat:
            with shop.progress.step(f"{ref.role}: building"):
                tree = layers.flat(ctx, image, staging.result())
        else:
            with shop.progress.step(f"{ref.role}: packages"):
                below = layers.build_layers(ctx, ref.role)
            with shop.progress.step(f"{ref.role}: our own files"):
                tree = layers.finish(ctx, image, below, staging.result())
        return finish(shop, ctx, image, wanted, ref, tree, out)


def stage(shop: Shop, ctx: Context, image: Image) -> list[Path]:
    """Our own trees for `image`, in the order in which they are copied over the packages' tree."""
    from builder import overlay, wheels

    extra = ctx.work / "extra"
    extra.mkdir(mode=0o755)
    overlay.stage_trees(shop.root, recipe.image_files(shop.root, image), extra, kind="mkosi.extra")
    overlay.stage_services(shop.root, image, extra, tree=ctx.tools, epoch=ctx.lock.epoch, imports=shop.imports)
    overlay.normalise_modes(extra)
    if image.wheels is None:
        return [extra]
    return [
        wheels.ensure(ctx.pool, ctx.lock.wheels_of(image.wheels), ctx.cache, tree=ctx.tools, epoch=ctx.lock.epoch),
        extra,
    ]


def finish(shop: Shop, ctx: Context, image: Image, wanted: Recipe, ref: Ref, tree_path: Path, out: Path) -> Manifest:
    """Normalise a tree, prove it, and write every file of the version into `out`."""
    from builder import artefacts, cache, ids, initrd, layers, normalise, sbom
    from builder import tree as trees

    epoch, environment = ctx.lock.epoch, ctx.environment
    with shop.progress.step(f"{ref.role}: normalising"):
        normalise.normalise(tree_path, epoch=epoch)
        normalise.assert_clean(tree_path)
        present = {package.name for package in ctx.lock.of(ref.role)} | set(image.services)
        ids.check(tree_path, ids.select(ids.load(shop.root), present), layers.masters(ctx.tools))
        count = prove_packages(ctx.lock, ref.role, tree_path)
        with ctx.log.open("a") as log:
            log.write(f"{count} packages installed in {ref.role}, all of them and no others from the lock, by hash\n")
    scanner = normalise.SecretScanner()
    with shop.progress.step(f"{ref.role}: artefacts"), ThreadPoolExecutor(max_workers=1) as executor:
        ctx.later.do(cache.flush, ctx.cache)
        compressing = executor.submit(
            artefacts.make_erofs,
            ctx.tools,
            tree_path,
            out,
            wanted,
            seat=image.kernel,
            epoch=epoch,
            environment=environment,
        )
        listing = trees.render(trees.scan(tree_path, inspect=scanner.inspect))
        scanner.check(tree_path)
        (out / "tree").write_bytes(listing)
        artefacts.compress(ctx.tools, out, "tree", epoch=epoch, environment=environment)
        kernel = initrd.make(ctx, image, tree_path, out) if image.kernel else None
        compressing.result()
        ctx.later.wait()
        root_hash = artefacts.make_verity(ctx.tools, out, wanted, epoch=epoch, environment=environment)
    (out / RECIPE).write_bytes(wanted.data)
    manifest = Manifest(
        role=ref.role,
        version=ref.version,
        recipe_id=wanted.identity,
        tree_id=trees.tree_id(listing),
        root_hash=root_hash,
        epoch=epoch,
        kernel=kernel,
        artefacts={},
        packages=[
            manifests.Package(
                name=package.name,
                version=package.version,
                architecture=package.architecture,
                sha256=package.sha256,
                source=package.source,
                source_version=package.source_version,
            )
            for package in ctx.lock.of(ref.role)
        ],
        wheels=[
            manifests.Wheel(name=wheel.name, version=wheel.version, file=wheel.file, sha256=wheel.sha256)
            for wheel in ctx.lock.wheels_of(image.wheels or "")
        ],
    )
    bill = sbom.render(
        role=ref.role,
        version=ref.version,
        recipe_id=wanted.identity,
        epoch=epoch,
        packages=manifest.packages,
        wheels=manifest.wheels,
    )
    (out / manifests.SBOM).write_bytes(bill)
    names = sorted(path.name for path in out.iterdir() if path.name not in (RECIPE, manifests.NAME))
    manifest = msgspec.structs.replace(manifest, artefacts={name: manifests.hash_file(out / name) for name in names})
    (out / manifests.NAME).write_bytes(manifests.encode(manifest))
    shutil.rmtree(tree_path)
    return manifest


def prove_packages(locked: Lock, role: str, tree: Path) -> int:
    """The number of packages in the tree. Raises BacklineError("image.packages") unless they are just those locked."""
    import re

    status = (tree / "var/lib/dpkg/status").read_text()
    found = set()
    for block in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", block, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found.add((fields["Package"], fields["Version"], fields["Architecture"]))
    expected = {(package.name, package.version, package.architecture) for package in locked.of(role)}
    if found != expected:
        extra = [f"+{name} {version}" for name, version, _ in sorted(found - expected)]
        missing = [f"-{name} {version}" for name, version, _ in sorted(expected - found)]
        raise BacklineError(
            "image.packages",
            f"the image does not hold exactly the locked packages: {' '.join([*extra, *missing])}",
            hint="this is a mistake in the builder: apt installed other packages than it resolved",
        )
    return len(found)
