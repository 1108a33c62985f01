"""A checkout with one small image, `tiny`: the real base's packages and lock, and whatever trouble a test adds to it.

Its layers come from the same cache as those of the real images, so a build takes seconds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from builder import lock, settings
from builder.image import Shop
from builder.lock import Lock, RoleRequest
from services.common.progress import Progress

ROLE = "tiny"
_COPIED = ("mkosi.conf", "mkosi.conf.d", "images/base", "images/tools", "images/initrd", "images/ids.toml")


def lock_with_tiny(real: Lock) -> Lock:
    """The real lock with one more role, that has exactly the base's packages."""
    packages = [
        msgspec.structs.replace(package, roles=sorted([*package.roles, ROLE])) if "base" in package.roles else package
        for package in real.packages
    ]
    roles = {name: real.roles[name] for name in ("base", "tools", "initrd")}
    roles[ROLE] = RoleRequest(request=real.roles["base"].request, parent="base")
    kept = [msgspec.structs.replace(p, roles=[r for r in p.roles if r in roles]) for p in packages]
    return msgspec.structs.replace(real, roles=roles, packages=[package for package in kept if package.roles])


def make_checkout(target: Path, locked: Lock, *, script: str = "") -> Path:
    """A checkout in the new folder `target` on a real lock; `script` becomes the image's postinst script."""
    real = settings.source_root()
    for name in _COPIED:
        source = real / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, symlinks=True)
        else:
            shutil.copyfile(source, target / name)
    for name in ("services", "units", "requirements"):
        shutil.copytree(real / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(real / "pyproject.toml", target / "pyproject.toml")
    folder = target / "images" / ROLE
    folder.mkdir()
    (folder / "mkosi.conf").write_text("[Include]\nInclude=../base\n")
    (folder / "image.toml").write_text("publish = true\n")
    if script:
        write_script(target, script)
    (target / lock.NAME).write_text(lock.encode(lock_with_tiny(locked)))
    return target


def write_script(checkout: Path, script: str) -> None:
    """Make `script` the tiny image's mkosi.postinst.chroot."""
    path = checkout / "images" / ROLE / "mkosi.postinst.chroot"
    path.write_text(f"#!/bin/bash\nset -euo pipefail\n{script}\n")
    path.chmod(0o755)


def open_shop(checkout: Path, store: Path) -> Shop:
    """A shop of that checkout with a store of its own and the machine's caches."""
    chosen = msgspec.structs.replace(settings.load(), store=str(store), lock="", signing_key="")
    return Shop.open(chosen, Progress(quiet=True), root=checkout)
