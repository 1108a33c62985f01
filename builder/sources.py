"""What a version was made of: our own files, the lock and the builder itself, in one archive beside the version.

With it and the pool a version can be built again whatever became of the checkout: edited, moved on, or gone. The
archive lies beside the version as signatures do: it is no artefact, and neither signed nor compared, for the recipe has
the hash of everything in it that shapes bytes. Those are compared before anything of it runs.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from builder import config, lock
from builder.diff import read_recipe
from builder.image import Shop
from builder.lock import Lock
from builder.recipe import describe_file
from builder.store import SOURCE, Store
from services.common import process
from services.common.errors import InputError, IntegrityError
from services.common.versions import Ref

FOLDERS = ("images", "mkosi.conf", "mkosi.conf.d", "pyproject.toml", "requirements", "services", "units", *config.ROOMS)
_PROGRAM = "import sys; from services.common.main import build; sys.exit(build(sys.argv[1:]))"
_HINT = "check out the commit that made it"


def pack(root: Path, locked: Lock, target: Path) -> None:
    """Write the archive of a checkout: its files as git sees them, the lock in force, and the builder that runs.

    The same files give the same bytes, wherever they lie.
    """
    builder = Path(__file__).parent
    files = {name: root / name for name in config.tracked_files(root, list(FOLDERS)) if name != lock.NAME}
    files |= {f"builder/{path.name}": path for kind in ("*.py", "*.c") for path in builder.glob(kind)}
    plain = target.with_suffix("")
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.mtime = locked.epoch
            info.mode = 0o755 if path.lstat().st_mode & 0o100 else 0o644
            if path.is_symlink():
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
                archive.addfile(info)
            else:
                data = path.read_bytes()
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        data = lock.encode(locked).encode()
        info = tarfile.TarInfo(lock.NAME)
        info.mtime, info.mode, info.size = locked.epoch, 0o644, len(data)
        archive.addfile(info, io.BytesIO(data))
    process.run(["zstd", "--quiet", "-12", "--single-thread", "--rm", plain, "-o", target])


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive, open. Raises IntegrityError("source.broken") when it is none."""
    with tempfile.TemporaryFile() as file:
        done = process.run(["zstd", "-dcq", path], stdout=file, check=False)
        file.seek(0)
        try:
            if done.returncode != 0:
                raise tarfile.ReadError(done.stderr.strip())
            with tarfile.open(fileobj=file) as archive:
                yield archive
        except (tarfile.TarError, KeyError) as error:
            raise IntegrityError("source.broken", f"no archive of sources: {error}", where=str(path)) from error


def unpack(path: Path, target: Path) -> None:
    """Unpack an archive into the empty folder `target`. Raises IntegrityError("source.broken")."""
    with _opened(path) as archive:
        links = []
        for member in archive:
            place = Path(member.name)
            if place.is_absolute() or ".." in place.parts or not (member.isreg() or member.issym()):
                raise IntegrityError("source.broken", f"it has no place for {member.name!r}", where=str(path))
            if member.issym():
                links.append(member)
                continue
            file = archive.extractfile(member)
            assert file is not None
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (target / place).write_bytes(file.read())
            (target / place).chmod(0o755 if member.mode & 0o100 else 0o644)
        for member in links:  # after all files: none is written through a link
            (target / member.name).parent.mkdir(parents=True, exist_ok=True)
            (target / member.name).symlink_to(member.linkname)


def locked(path: Path) -> Lock:
    """The lock in an archive. Raises IntegrityError("source.broken")."""
    with _opened(path) as archive:
        file = archive.extractfile(lock.NAME)
        assert file is not None
        return lock.decode(file.read(), where=f"{path}: {lock.NAME}")


def needed(store: Store, ref: Ref) -> frozenset[str]:
    """The hashes of all .debs and wheels that building a version again takes, its tools' too; none without sources."""
    path = store.path(ref.role, ref.version) / SOURCE
    if not path.exists():
        return frozenset()
    of = locked(path)
    trees = {ref.role, config.TOOLS, config.INITRD}
    return frozenset(
        [package.sha256 for package in of.packages if trees & set(package.roles)]
        + [wheel.sha256 for wheel in of.wheels]
    )


def run_again(shop: Shop, ref: Ref, *words: str) -> int:
    """Run `build WORD...` as it was when it made `ref`, from the version's own sources, on this store and cache.

    Its output is ours; returns its exit code. Raises InputError("check.sources") when the version has no sources,
    IntegrityError("source.foreign") when they are not those of its recipe.
    """
    from builder.aside import Aside

    path = shop.store.find(ref.role, ref.version) / SOURCE
    if not path.exists():
        raise InputError("check.sources", f"{ref} keeps no sources, and this checkout is another", hint=_HINT)
    with Aside(shop.settings.cache_path / "work").folder() as folder:
        unpack(path, folder)
        _require_those_of(shop, ref, folder)
        command = [sys.executable, "-c", _PROGRAM, *words]
        return process.run(
            command, cwd=folder, env=_environment(shop, folder), stdout=None, stderr=None, check=False
        ).returncode


def _environment(shop: Shop, folder: Path) -> dict[str, str]:
    """Ours, with the settings that are in force, but for the lock: that is the version's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKLINE_BUILD_")}
    given = msgspec.to_builtins(msgspec.structs.replace(shop.settings, lock=""))
    settings = {f"BACKLINE_BUILD_{name.upper()}": value for name, value in given.items() if value}
    return kept | settings | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def _require_those_of(shop: Shop, ref: Ref, folder: Path) -> None:
    """Refuse sources that are not the recipe's: first the files that it names, then what they add up to."""
    where = str(shop.store.path(ref.role, ref.version) / SOURCE)
    sections = read_recipe(shop.store, ref)
    for section in ("files", "services"):
        for name, wanted in sections.get(section, {}).items():
            if not os.path.lexists(folder / name) or describe_file(folder / name) != wanted:
                raise IntegrityError("source.foreign", f"{name} is not the recipe's", where=where)
    for name, wanted in sections.get("builder", {}).items():
        module = folder / "builder" / name
        if not module.is_file() or hashlib.sha256(module.read_bytes()).hexdigest() != wanted:
            raise IntegrityError("source.foreign", f"builder/{name} is not the recipe's", where=where)
    command = [sys.executable, "-c", _PROGRAM, "plan", ref.role, "--json"]
    text = process.run(command, cwd=folder, env=_environment(shop, folder)).stdout
    planned = msgspec.json.decode(text)
    if planned["recipe_id"] != shop.store.manifest(ref.role, ref.version).recipe_id:
        others = sorted(
            name for name in sections | planned["recipe"] if planned["recipe"].get(name) != sections.get(name)
        )
        raise IntegrityError("source.foreign", f"they add up to another recipe: {', '.join(others)}", where=where)
