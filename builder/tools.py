"""The tools tree: what mkosi, apt, mkfs.erofs and the rest run from, the same bytes on every host.

It is the union of its locked packages' files, unpacked in the lock's order; no maintainer script runs, so the host's
versions of dpkg, debootstrap or systemd cannot leak into it. The few files that scripts would have made are made here.
Its tree id stands in the lock and is checked when the tree is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from builder import cache as trees
from builder import clock, tree
from builder.lock import Lock, LockedPackage
from builder.pool import Pool
from services.common.errors import BacklineError, IntegrityError
from services.common.process import explain_exit, spawn

ROLE = "tools"
_PLAIN_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
# Not needed to run a tool, and a third of the bytes.
_UNWANTED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/bug",
    "usr/share/lintian",
)


def key(packages: list[LockedPackage]) -> str:
    """The name of a tools tree made of these packages: a hash of their hashes and of this module's rules."""
    import hashlib

    digest = hashlib.sha256(Path(__file__).read_bytes())
    for package in packages:
        digest.update(package.sha256.encode())
    return digest.hexdigest()[:32]


def unpack(pool: Pool, packages: list[LockedPackage], root: Path, *, epoch: int) -> str:
    """Make a tools tree in the new folder `root` and return its tree id."""
    root.mkdir(parents=True)
    for name, target in _PLAIN_LINKS.items():
        (root / target).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    for package in packages:
        _extract(pool.path(package.sha256), root)
    for unwanted in _UNWANTED:
        shutil.rmtree(root / unwanted, ignore_errors=True)
    _finish(root)
    _clamp(root, epoch)
    return tree.tree_id(tree.render(tree.scan(root)))


def ensure(pool: Pool, lock: Lock, cache: Path) -> Path:
    """The tools tree of `lock`, made when it is not in the cache.

    Raises IntegrityError("tools.tree") when what came out is not what the lock names.
    """
    packages = lock.of(ROLE)
    root = cache / "tools" / key(packages)
    if trees.usable(root):
        return root
    aside = cache / "tools" / f".{root.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        found = unpack(pool, packages, aside, epoch=lock.epoch)
        if found != lock.tools_tree:
            raise IntegrityError(
                "tools.tree",
                f"the tools tree is {found[:12]}, the lock says {lock.tools_tree[:12]}",
                hint="the rules of builder/tools.py changed since the lock was written: run `build lock`",
            )
        compile_python(aside)
        trees.keep(aside, root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return root


def compile_python(root: Path) -> None:
    """Add bytecode for the tree's own Python, so that mkosi starts fast. Derived, and so not part of the tree id."""
    from builder.sandbox import Environment, Sandbox

    sandbox = Sandbox(tools=root, writable={root: "/tree"})
    command = ["python3", "-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", "/tree", "-p", "/", "/tree/usr/lib/python3.13", "/tree/usr/lib/python3/dist-packages"]
    sandbox.run(command, variables=Environment().variables(0), check=False)


def _extract(deb: Path, root: Path) -> None:
    with spawn(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as unpacker:
        tar = [
            "tar",
            "--extract",
            "--directory",
            str(root),
            "--keep-directory-symlink",
            "--numeric-owner",
            "--same-permissions",
        ]
        assert unpacker.stdout is not None
        with spawn(tar, stdin=unpacker.stdout, stderr=subprocess.PIPE) as extractor:
            _, message = extractor.communicate()
        unpacker.wait()
    if extractor.returncode or unpacker.returncode:
        code = explain_exit(extractor.returncode or unpacker.returncode)
        raise BacklineError("tools.unpack", f"unpacking {deb.name} {code}: {message.decode(errors='replace').strip()}")


def _finish(root: Path) -> None:
    """Make what maintainer scripts would have: users, alternatives, bytecode for what runs at every build."""
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
        (root / f"etc/{name}").chmod(0o644)
    alternatives = root / "etc/alternatives"
    alternatives.mkdir(exist_ok=True)
    for name, program in {"awk": "mawk", "which": "which.debianutils"}.items():
        if (root / "usr/bin" / program).exists() and not (root / "usr/bin" / name).exists():
            (alternatives / name).symlink_to(f"/usr/bin/{program}")
            (root / "usr/bin" / name).symlink_to(f"/etc/alternatives/{name}")
    (root / "etc/machine-id").touch()
    for name in ("resolv.conf", "hosts"):  # mount points, for steps that need the network
        (root / "etc" / name).touch()
    (root / clock.LIBRARY).touch()  # another, for checks
    certificates = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
    (root / "etc/ssl/certs/ca-certificates.crt").write_bytes(b"".join(path.read_bytes() for path in certificates))


def _clamp(root: Path, epoch: int) -> None:
    for name in tree.names(root):
        path = os.path.join(os.fsencode(root), name)
        if os.lstat(path).st_mtime > epoch:
            os.utime(path, (epoch, epoch), follow_symlinks=False)
