"""A seat's initrd: a generic systemd tree as one cpio, and the modules and firmware of the very root that it boots.

Both are part of the root's recipe, so kernel, modules, initrd and root can never differ. The kernel reads concatenated
cpio archives one after the other (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from builder import cache, config, layers, normalise, overlay, recipe
from builder.config import Image
from builder.sandbox import Sandbox
from services.common.errors import BacklineError, InputError

# Never needed before the root is there.
_UNWANTED = (
    "var/lib/dpkg",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/zoneinfo",
    "usr/share/locale",
    "usr/lib/python3*",
    "usr/share/perl*",
    "usr/share/bash-completion",
)


def kernel_release(tree: Path) -> str:
    """The one kernel of a tree, as `uname -r` prints it. Raises BacklineError("kernel.count") for none or several."""
    found = sorted(path.name for path in (tree / "usr/lib/modules").glob("*") if (path / "vmlinuz").exists())
    if len(found) != 1:
        raise BacklineError("kernel.count", f"the tree has {len(found)} kernels: {', '.join(found) or 'none'}")
    return found[0]


def generic(ctx: layers.Context) -> Path:
    """The generic half as a folder in the cache: images/initrd with its packages and configuration."""
    image = config.load(ctx.root, config.INITRD)
    sections = recipe.of_layers(ctx.root, config.INITRD, ctx.lock)[config.INITRD]
    sections["files"] |= {name: recipe.describe_file(ctx.root / name) for name in recipe.image_files(ctx.root, image)}
    sections["builder"] |= recipe.shaping_modules()
    target = ctx.cache / "layers" / recipe.layer_id(sections)
    if not cache.usable(target):
        below = layers.build_layers(ctx, config.INITRD)
        extra = ctx.work / "initrd-extra"
        extra.mkdir()
        overlay.stage_trees(ctx.root, recipe.image_files(ctx.root, image), extra, kind="mkosi.extra")
        overlay.normalise_modes(extra)
        tree = layers.finish(ctx, image, below, [extra])
        cache.keep(_strip(tree, epoch=ctx.lock.epoch), target)
    return target


def _strip(tree: Path, *, epoch: int) -> Path:
    normalise.normalise(tree, epoch=epoch)
    for pattern in _UNWANTED:
        for path in tree.glob(pattern):
            shutil.rmtree(path)
    (tree / "etc/initrd-release").unlink(missing_ok=True)
    (tree / "etc/initrd-release").symlink_to("../usr/lib/os-release")
    init = tree / "init"
    init.unlink(missing_ok=True)
    init.symlink_to("usr/lib/systemd/systemd")
    normalise.clamp(tree, epoch)
    return tree


def modules_tree(root: Path, image: Image, target: Path) -> list[str]:
    """Copy the listed modules with their dependencies and the firmware they name from the root tree `root`.

    Returns the names of firmware files that modules name and the root has not. Raises InputError("initrd.module") for a
    name that the kernel does not have.
    """
    release = kernel_release(root)
    base = Path("usr/lib/modules") / release
    graph = _dependencies((root / base / "modules.dep").read_text())
    builtin = {_module_name(line) for line in (root / base / "modules.builtin").read_text().splitlines()}
    chosen: set[str] = set()
    for wanted in image.initrd.modules:
        found = (
            {path for path in graph if path.startswith(wanted)}
            if "/" in wanted
            else {path for path in graph if _module_name(path) == wanted.replace("-", "_")}
        )
        if not found and wanted.replace("-", "_") not in builtin:
            raise InputError(
                "initrd.module", f"kernel {release} has no module {wanted!r}", where=f"images/{image.role}/image.toml"
            )
        chosen |= {path for path in found if not any(path.startswith(prefix) for prefix in image.initrd.exclude)}
    wishes = _soft_dependencies(root / base, graph)
    todo = list(chosen)
    while todo:
        path = todo.pop()
        for need in [*graph[path], *wishes.get(_module_name(path), [])]:
            if need not in chosen:
                chosen.add(need)
                todo.append(need)
    for path in sorted(chosen):
        _copy(root / base / path, target / base / path)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        _copy(root / base / name, target / base / name)
    return sorted(chosen)


def _dependencies(text: str) -> dict[str, list[str]]:
    graph = {}
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        graph[path] = needs.split()
    return graph


def _soft_dependencies(folder: Path, graph: dict[str, list[str]]) -> dict[str, list[str]]:
    """What a module asks for by name or alias when it starts, and fails without (modprobe.d(5), softdep).

    erofs, by way of libcrc32c, wants whatever offers crc32c; r8169 wants the driver of its PHY.
    """
    named: dict[str, set[str]] = {}
    for path in graph:
        named.setdefault(_module_name(path), set()).add(path)
    offered = {name: set(paths) for name, paths in named.items()}
    for line in (folder / "modules.alias").read_text().splitlines():
        if line.startswith("alias "):
            _, alias, module = line.split()
            offered.setdefault(alias.replace("-", "_"), set()).update(named.get(module, ()))
    wishes: dict[str, list[str]] = {}
    for line in (folder / "modules.softdep").read_text().splitlines():
        if line.startswith("softdep "):
            _, module, *words = line.split()
            names = [word.replace("-", "_") for word in words if word not in ("pre:", "post:")]
            wishes.setdefault(module, []).extend(path for name in names for path in sorted(offered.get(name, ())))
    return wishes


def _module_name(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", path.rpartition("/")[2]).replace("-", "_")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    shutil.copyfile(source, target)
    target.chmod(0o644)
    info = source.stat()
    os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))


# In the tools tree: depmod for the copied modules, then the firmware that modinfo names, from the root's own files.
_FIRMWARE = r"""
set -eu
release=$1
depmod --basedir /target --moduledir /usr/lib/modules "$release"
find "/target/usr/lib/modules/$release" -name '*.ko*' -print0 | sort -z | xargs -0 modinfo --field firmware | sort -u
"""

# One reproducible archive: sorted names, renumbered inodes, root's files. --rsyncable makes it a quarter of a percent
# larger, and a delta to the next version a third: after a change the stream becomes what it was again.
_CPIO = r"""
set -eu
cd /tree
find . -mindepth 1 -print0 | LC_ALL=C sort -z |
    cpio --quiet --null --create --format=newc --reproducible --renumber-inodes --owner=+0:+0 |
    zstd --quiet -12 --threads=1 --rsyncable > "/out/$1"
"""


def _cpio(ctx: layers.Context, tree: Path, out: Path, name: str, *, keep_owner: bool) -> None:
    script = _CPIO.replace(" --owner=+0:+0", "") if keep_owner else _CPIO
    sandbox = Sandbox(tools=ctx.tools, read_only={tree: "/tree"}, writable={out: "/out"}, environment=ctx.environment)
    sandbox.run(
        ["bash", "-o", "pipefail", "-c", script, "cpio", name], variables=ctx.environment.variables(ctx.lock.epoch)
    )


def make(ctx: layers.Context, image: Image, root: Path, out: Path) -> str:
    """Write `out`/vmlinuz and `out`/initrd from the finished root tree `root`; returns the kernel's release."""
    release = kernel_release(root)
    shutil.copyfile(root / "usr/lib/modules" / release / "vmlinuz", out / "vmlinuz")
    target = ctx.work / "initrd-modules"
    for folder in ("usr/lib/modules", "usr/lib/firmware"):
        (target / folder).mkdir(parents=True)
    modules_tree(root, image, target)
    sandbox = Sandbox(tools=ctx.tools, writable={target: "/target"}, environment=ctx.environment)
    variables = ctx.environment.variables(ctx.lock.epoch)
    names = sandbox.run(["bash", "-c", _FIRMWARE, "firmware", release], variables=variables).stdout.split()
    for name in names:
        for path in sorted((root / "usr/lib/firmware").glob(name)):
            real = path.resolve()
            if real.is_file() and real.is_relative_to(root):
                _copy(real, target / path.relative_to(root))
    overlay.normalise_modes(target)
    normalise.clamp(target, ctx.lock.epoch)
    _clamp_now(target, ctx.lock.epoch)
    parts = ctx.work / "initrd-parts"
    parts.mkdir()
    _cpio(ctx, generic(ctx), parts, "generic", keep_owner=True)
    _cpio(ctx, target, parts, "modules", keep_owner=False)
    with (out / "initrd").open("wb") as file:
        for name in ("generic", "modules"):
            file.write((parts / name).read_bytes())
    shutil.rmtree(parts)
    return release


def _clamp_now(folder: Path, epoch: int) -> None:
    """Folders that were made here take the epoch, whatever the clock says."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            os.utime(path, (epoch, epoch))
