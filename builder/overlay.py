"""Our own files for an image, staged as one tree: configuration trees of the image folders, services, units, bytecode.

Files are copied as git sees them, with modes 0644 and 0755 whatever the checkout's umask was, so that nothing of the
builder's machine comes along.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from builder import closure, wheels
from builder.config import Image
from builder.imports import Imports
from services.common.errors import InputError

APP = "usr/lib/backline/app"
"""Where an image keeps our own modules."""
_EXTRA = "mkosi.extra"
_SKELETON = "mkosi.skeleton"

_LAUNCHER = """\
#!/usr/bin/python3 -I
import sys

sys.path[:0] = ["/usr/lib/backline/app", "/usr/lib/backline/site"]
from services.common.main import backline

sys.exit(backline())
"""


def copy(source: Path, target: Path) -> None:
    """Copy one file or link, with mode 0644 or 0755."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    info = source.lstat()
    if stat.S_ISLNK(info.st_mode):
        target.unlink(missing_ok=True)
        target.symlink_to(os.readlink(source))
        return
    shutil.copyfile(source, target)
    target.chmod(0o755 if info.st_mode & stat.S_IXUSR else 0o644)


def stage_trees(root: Path, names: Iterable[str], target: Path, *, kind: str) -> None:
    """Stage the `kind` ("mkosi.extra" or "mkosi.skeleton") trees among `names` into `target`; later ones win."""
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) > 3 and parts[2] == kind:
            copy(root / name, target.joinpath(*parts[3:]))


def stage_scripts(root: Path, image: Image, target: Path) -> dict[str, list[str]]:
    """Stage the chain's scripts; returns mkosi setting → file names in `target`, the base's first."""
    settings = {"mkosi.postinst.chroot": "PostInstallationScripts", "mkosi.finalize": "FinalizeScripts"}
    found: dict[str, list[str]] = {}
    for number, folder in enumerate(image.chain):
        for script, setting in settings.items():
            if (root / folder / script).exists():
                name = f"{number}-{Path(folder).name}-{script}"
                copy(root / folder / script, target / name)
                found.setdefault(setting, []).append(name)
    return found


def stage_services(
    root: Path, image: Image, target: Path, *, tree: Path, epoch: int, imports: Imports | None = None
) -> None:
    """Stage the image's services with what they import, their units, their commands' names and bytecode."""
    if not image.services:
        return
    for name in closure.files(root, image.services, imports=imports):
        if name.startswith("units/"):
            copy(root / name, target / "usr/lib/systemd/system" / PurePosixPath(name).name)
        else:
            copy(root / name, target / APP / name)
    launcher = target / "usr/bin/backline"
    launcher.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_text(_LAUNCHER)
    launcher.chmod(0o755)
    _write_metadata(root, image, target / APP)
    wheels.compile_tree(target, APP, tree=tree, epoch=epoch)


def _write_metadata(root: Path, image: Image, app: Path) -> None:
    """A dist-info with the entry points of the commands that are in the image, so that the root program finds them."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    commands: dict[str, str] = project["entry-points"]["backline.commands"]
    present = {
        name: module
        for name, module in sorted(commands.items())
        if any(module == p or module.startswith(f"{p}.") for p in map(closure.package, image.services))
    }
    folder = app / f"backline-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: backline\nVersion: {project['version']}\n")
    lines = "".join(f"{name} = {module}\n" for name, module in present.items())
    (folder / "entry_points.txt").write_text(f"[backline.commands]\n{lines}")
    for path in folder.iterdir():
        path.chmod(0o644)


def normalise_modes(folder: Path) -> None:
    """Folders 0755 and files as they were staged, whatever the umask. Raises InputError on a special file."""
    for path in [folder, *folder.rglob("*")]:
        info = path.lstat()
        if stat.S_ISDIR(info.st_mode):
            path.chmod(0o755)
        elif stat.S_ISREG(info.st_mode):
            path.chmod(0o755 if info.st_mode & stat.S_IXUSR else 0o644)
        elif not stat.S_ISLNK(info.st_mode):
            raise InputError("image.special", "neither a file, a folder nor a link", where=str(path))
