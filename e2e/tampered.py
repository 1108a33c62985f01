"""Root images that are not what their root hash says: a store of its own, with other bytes in one version.

Only root.erofs of one version is a copy; everything else is the store's own files (hard links).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from builder import tools
from builder.image import Shop
from builder.pool import Pool
from builder.sandbox import Environment, Sandbox
from builder.store import Store
from services.common.versions import Ref

SUPERBLOCK = 1024
"""Where EROFS has its superblock (Documentation/filesystems/erofs.rst)."""
_EXTENT = re.compile(r"^ *\d+: .*: *(\d+)\.\. *\d+ \|", re.MULTILINE)


def copy(store: Store, roles: Iterable[str], target: Path, *, role: str) -> tuple[Path, Ref]:
    """A store in `target` with the current versions of `roles`; returns root.erofs of `role`, ready to be changed."""
    found: Ref | None = None
    for each in roles:
        ref = store.current(each)
        assert ref is not None, f"{each} is built before"
        place = store.find(ref.role, ref.version).relative_to(store.root)
        shutil.copytree(store.root / place, target / place, copy_function=_link)
        (target / "current").mkdir(exist_ok=True)
        shutil.copy(store.root / "current" / each, target / "current" / each)
        found = ref if each == role else found
    assert found is not None
    root = target / store.find(found.role, found.version).relative_to(store.root) / "root.erofs"
    data = root.with_name("own")
    shutil.copyfile(root, data)
    data.replace(root)
    return root, found


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def flip(root: Path, places: Iterable[int]) -> None:
    """Change one bit of each of these bytes; a second time is as before."""
    with root.open("r+b") as file:
        for place in places:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1]))


def places_of(shop: Shop, root: Path, path: str) -> list[int]:
    """A byte in each extent of a file of the image, as the tools tree's dump.erofs finds them."""
    tree = tools.ensure(Pool(shop.settings.cache_path / "pool"), shop.lock, shop.settings.cache_path)
    where = Sandbox(tools=tree, read_only={root.parent: "/version"})
    argv = ["dump.erofs", f"--path={path}", "-e", "/version/root.erofs"]
    text = where.run(argv, variables=Environment().variables(0)).stdout
    found = [int(start) + 100 for start in _EXTENT.findall(text)]
    assert found, f"no extents of {path}: {text}"
    return found
