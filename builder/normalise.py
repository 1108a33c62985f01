"""Takes out of a finished tree what would differ from build to build or must not be in an image, and proves it.

Tables: what is removed, with its reason, what is made alike, and what is refused by content (private keys, `secret "`
lines). A key inside a file that a package ships byte for byte is public, and no secret; one that a script generated is,
and the build fails with its path. Nothing of an id, a host or a hall is written into a tree.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

from builder import tree
from services.common.errors import BacklineError, HostError

# Glob below the tree → why it goes. A pattern that ends in "/*" empties the folder and keeps it.
REMOVED = {
    "etc/ssh/ssh_host_*": "host keys are made at first boot",
    "etc/ssl/private/ssl-cert-snakeoil.key": "made by ssl-cert's script",
    "etc/ssl/certs/ssl-cert-snakeoil.pem": "made by ssl-cert's script",
    "etc/bind/rndc.key": "made at first boot",
    "etc/postgresql/*/*": "a cluster is made at first boot",
    "var/lib/postgresql/*/*": "a cluster is made at first boot",
    "var/log/*": "logs of the build",
    "var/cache/*": "caches hold inode numbers and times",
    "var/lib/apt/*": "package lists",
    "var/lib/dpkg/*-old": "backup made by dpkg",
    "var/lib/dpkg/lock*": "lock files",
    "var/lib/dpkg/triggers/Lock": "lock file",
    "var/lib/systemd/random-seed": "random",
    "var/lib/systemd/credential.secret": "secret",
    "var/lib/systemd/catalog/database": "derived, holds times",
    "var/lib/dbus/machine-id": "identity",
    "var/lib/systemd/deb-systemd-*": "bookkeeping of package scripts in the order they ran",
    "var/lib/ucf/*.[0-9]": "backup made by ucf",
    "var/lib/pam/seen": "bookkeeping in the order packages were configured",
    "var/tmp/*": "scratch",
    "tmp/*": "scratch",
    "run/*": "scratch",
    "etc/*-": "backup of passwd and friends",
    "etc/.pwd.lock": "lock file",
    "etc/.updated": "holds the time",
    "var/.updated": "holds the time",
    "etc/hostname": "identity",
    "etc/apt/sources.list": "images are never updated in place",
    "etc/apt/sources.list.d/*": "images are never updated in place",
    "root/.*history": "history",
    "root/.cache": "cache",
    "boot/*.dpkg-*": "backup made by dpkg",
    "usr/lib/mono/aot-cache": "compiled at installation, with random ids",
    "usr/lib/pypy3*/**/__pycache__": "compiled at installation, in the order of a hash seed",
    "usr/lib/python3/**/*.pypy*.pyc": "compiled by PyPy at installation, in the order of a hash seed",
    "usr/share/info/dir": "list that install-info makes, or not, as packages come in one transaction or in layers",
    "usr/lib/backline-clock.so": "only there while `build check` shifts the clock",
}
# Files that the build itself makes, outside of any package, with the umask that it happens to have: mkosi's depmod.
_READABLE = ("usr/lib/modules/*/modules.*",)
# Links that update-alternatives makes anew, or not, as packages come in one transaction or in layers.
_ALTERNATIVES = "etc/alternatives"
_PROGRAMS = ("usr/bin", "usr/sbin")
# Where ca-certificates-java collects the certificates of all authorities, each with the time it was added.
_KEYSTORE = "etc/ssl/certs/java/cacerts"
# Folders that a package made below an emptied one and that its daemon expects; tmpfiles.d makes the others.
_KEPT_BELOW = ("var/log", "var/cache", "var/lib/apt")

_SECRET = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=:\s]{40}|^\s*secret\s+\"[A-Za-z0-9+/=]{16,}\"",
    re.MULTILINE,
)
_SORTED = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")


@dataclass
class Report:
    """What was touched: removed paths by reason, for the log."""

    removed: dict[str, list[str]] = field(default_factory=dict)


def normalise(root: Path, *, epoch: int) -> Report:
    """Normalise the tree at `root` in place. Raises HostError("host.clock") when the host's clock is behind `epoch`."""
    import time

    if time.time() < epoch:
        raise HostError(
            "host.clock", "this host's clock is behind the lock's date, so times would leak", hint="set the clock"
        )
    report = Report()
    top = root.resolve()
    for pattern, reason in REMOVED.items():
        for path in sorted(root.glob(pattern)):
            if not path.parent.resolve().is_relative_to(top):  # a link led out of the tree
                continue
            if _keeps(root, path, pattern):
                _empty(path, report, reason)
            else:
                report.removed.setdefault(reason, []).append(str(path.relative_to(root)))
                _remove(path)
    for pattern in _READABLE:
        for path in root.glob(pattern):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o644)
    _dangling(root / "etc/ssl/certs", report)
    _accounts(root, epoch)
    _identity(root)
    for name in ("var/lib/ucf/hashfile", "var/lib/ucf/registry", "var/lib/dpkg/triggers/File"):
        _sort_lines(root / name)
    clamp(root, epoch)
    _alternatives(root, epoch)
    _keystore(root / _KEYSTORE, epoch)
    return report


def _dangling(folder: Path, report: Report) -> None:
    """Remove links that lead nowhere: openssl's hash links to a certificate that a script made."""
    for path in sorted(folder.glob("*")):
        if path.is_symlink() and not path.readlink().is_absolute() and not path.exists():
            report.removed.setdefault("link to a certificate made by a script", []).append(path.name)
            path.unlink()


def _alternatives(root: Path, epoch: int) -> None:
    """Date the links of update-alternatives alike: their own times tell which package came first."""
    folders = [root / _ALTERNATIVES, *(root / name for name in _PROGRAMS)]
    for path in (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_symlink()):
        if path.parent == folders[0] or str(path.readlink()).startswith(f"/{_ALTERNATIVES}/"):
            os.utime(path, (epoch, epoch), follow_symlinks=False)


def _keystore(path: Path, epoch: int) -> None:
    """Date every certificate of a Java key store with the epoch. Raises BacklineError("image.keystore")."""
    if not path.is_file():
        return
    info = path.stat()
    try:
        content = _dated(path.read_bytes(), epoch)
    except (struct.error, ValueError) as error:
        raise BacklineError("image.keystore", f"{_KEYSTORE} is no key store of certificates: {error}") from error
    path.write_bytes(content)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _dated(data: bytes, epoch: int) -> bytes:
    """A Java key store (JKS, version 2, the usual password) in the order of its names, every entry dated `epoch`.

    The format is that of the JDK's `sun.security.provider.JavaKeyStore`: entries, then a SHA-1 over the password in
    UTF-16, a fixed phrase and the entries.
    """
    magic, version, count = struct.unpack_from(">III", data)
    if (magic, version) != (0xFEEDFEED, 2):
        raise ValueError("not JKS of version 2")
    entries, at = [], 12
    for _ in range(count):
        begin = at
        tag, length = struct.unpack_from(">IH", data, at)
        if tag != 2:
            raise ValueError("it holds more than certificates")
        dated = at + 6 + length
        at = dated + 8
        for form in (">H", ">I"):  # the kind of certificate, the certificate
            (length,) = struct.unpack_from(form, data, at)
            at += struct.calcsize(form) + length
        entries.append(data[begin:dated] + struct.pack(">Q", epoch * 1000) + data[dated + 8 : at])
    body = data[:12] + b"".join(sorted(entries))
    seal = hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body, usedforsecurity=False).digest()
    if len(data) != at + len(seal):
        raise ValueError("it does not end where its entries do")
    return body + seal


def _keeps(root: Path, path: Path, pattern: str) -> bool:
    top = str(path.relative_to(root).parent)
    return pattern.endswith("/*") and top in _KEPT_BELOW and path.is_dir() and not path.is_symlink()


def _empty(folder: Path, report: Report, reason: str) -> None:
    """Remove every file below `folder` and keep its folders, with their owners and modes."""
    for parent, folders, files in os.walk(folder):
        for name in [*files, *(name for name in folders if (Path(parent) / name).is_symlink())]:
            report.removed.setdefault(reason, []).append(name)
            (Path(parent) / name).unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _accounts(root: Path, epoch: int) -> None:
    """Sort the account files by id and make the shadow files anew: no password, last change on the epoch's day."""
    etc = root / "etc"
    if not (etc / "passwd").exists():
        return
    for name in ("passwd", "group"):
        lines = [line for line in (etc / name).read_text().splitlines() if line]
        lines.sort(key=lambda line: (int(line.split(":")[2]), line))
        (etc / name).write_text("".join(f"{line}\n" for line in lines))
    day = epoch // 86400
    users = [line.split(":")[0] for line in (etc / "passwd").read_text().splitlines()]
    groups = [line.split(":") for line in (etc / "group").read_text().splitlines()]
    shadow = next(
        (line.split(":")[2] for line in (etc / "group").read_text().splitlines() if line.startswith("shadow:")), "0"
    )
    for name, lines in (
        ("shadow", [f"{user}:*:{day}:0:99999:7:::" for user in users]),
        ("gshadow", [f"{parts[0]}:*::{parts[3]}" for parts in groups]),
    ):
        (etc / name).write_text("".join(f"{line}\n" for line in lines))
        os.chown(etc / name, 0, int(shadow))
        (etc / name).chmod(0o640)


def _identity(root: Path) -> None:
    """machine-id(5): "uninitialized" makes the first boot of a machine its first boot."""
    machine_id = root / "etc/machine-id"
    if (root / "usr/lib/systemd/systemd").exists():
        machine_id.unlink(missing_ok=True)
        machine_id.write_text("uninitialized\n")
        machine_id.chmod(0o444)


def _sort_lines(path: Path) -> None:
    if path.exists():
        path.write_text("".join(sorted(path.read_text().splitlines(keepends=True))))


def clamp(root: Path, epoch: int) -> None:
    """No entry is younger than `epoch`; what a package dates earlier stays as it is (times are whole seconds)."""
    top = os.fsencode(root)
    for name in tree.names(root):
        path = os.path.join(top, name)
        info = os.lstat(path)
        seconds = min(info.st_mtime_ns // 10**9, epoch)
        if info.st_mtime_ns != seconds * 10**9:
            os.utime(path, ns=(seconds * 10**9, seconds * 10**9), follow_symlinks=False)


class SecretScanner:
    """Looks at every byte of a tree while it is hashed; `check` refuses what it found outside of shipped files."""

    def __init__(self) -> None:
        self.suspects: set[bytes] = set()

    def inspect(self, path: bytes, chunk: bytes) -> None:
        """See one chunk of one file (`builder.tree.Inspector`)."""
        if (b"PRIVATE KEY-----" in chunk or b'secret "' in chunk) and _SECRET.search(chunk):
            self.suspects.add(path)

    def check(self, root: Path) -> None:
        """Raises BacklineError("image.secret") naming every generated file that holds a key or a secret."""
        found = [os.fsdecode(path) for path in sorted(self.suspects) if not _shipped(root, os.fsdecode(path))]
        if found:
            raise BacklineError(
                "image.secret",
                "generated files hold private keys or secrets:\n  " + "\n  ".join(found),
                hint="remove them in builder/normalise.py, and make them at first boot",
            )


def _shipped(root: Path, path: str) -> bool:
    """Whether a package of the tree ships `path` with exactly these bytes (dpkg's md5sums), or a wheel does."""
    if path.startswith("usr/lib/backline/site/"):
        return True
    digest = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()
    names = {path, path.removeprefix("usr/") if path.startswith("usr/lib") else path}
    lines = {f"{digest}  {name}" for name in names}
    for sums in (root / "var/lib/dpkg/info").glob("*.md5sums"):
        if any(line in lines for line in sums.read_text(errors="replace").splitlines()):
            return True
    return False


_FORBIDDEN = (
    "etc/ssh/ssh_host_*",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/dbus/machine-id",
    "var/lib/apt/lists/*_*",
    "var/log/**/*.log",
    "var/log/journal/*/*",
    "var/lib/postgresql/*/*/PG_VERSION",
    "etc/hall.toml",
    "etc/backline/hall.toml",
)


def assert_clean(root: Path) -> None:
    """Raises BacklineError("image.state") when something that only one machine may have is in the tree."""
    found = sorted(str(path.relative_to(root)) for pattern in _FORBIDDEN for path in root.glob(pattern))
    machine_id = root / "etc/machine-id"
    if machine_id.exists() and machine_id.read_text() != "uninitialized\n":
        found.append("etc/machine-id")
    for path in root.glob("etc/shadow"):
        found += [
            f"etc/shadow: a password for {line.split(':')[0]}"
            for line in path.read_text().splitlines()
            if line.split(":")[1] not in ("*", "!*", "!")
        ]
    if found:
        raise BacklineError("image.state", "the tree holds state of one machine:\n  " + "\n  ".join(found))
