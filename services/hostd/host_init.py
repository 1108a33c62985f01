"""`backline host init`: a plain Debian 13 becomes iron, a host that role images run on.

What it needs of Debian comes from Debian (systemd-container, python3-pystemd); hostd comes from the tree of a role
image, so it is the same code on the same locked wheels that runs inside of the machines. hall.toml and secrets go to
/etc/credstore. Every step looks first, so that a second run does nothing, and one that was cut off is just run again.

With the tree of another version hostd itself is replaced: the code by one link, its units file by file. When what is
new does not answer, code and units are those of before again. Machines run on all the while: no process of theirs is
ours.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from services.common import toml
from services.common.errors import HostError, InputError, UsageError
from services.common.process import ProcessFailed, run
from services.hostd.durable import synchronise
from services.hostd.machines_records import make_folder, remove

PACKAGES = {
    "systemd-container": "usr/bin/systemd-nspawn",
    "python3": "usr/bin/python3",
    "python3-pystemd": "usr/lib/python3/dist-packages/pystemd/__init__.py",
    "dbus": "usr/bin/dbus-daemon",
    "iproute2": "usr/bin/ip",
    "openssh-client": "usr/bin/ssh-keygen",
}
"""Debian packages, and a file by which one that is installed is known."""
PRESET = "usr/lib/systemd/system-preset/20-backline-base.preset"
"""Says which units of hostd run on every machine; so they do on iron."""
MACHINES = "backline-hostd-machines.service"
SUPERVISOR = "backline-hostd-supervisor.service"
SERVICES = ("backline-hostd.service", MACHINES)
SOCKETS = ("backline-hostd.socket", "backline-hostd-supervisor.socket", "backline-hostd-supervisor-tls.socket")
COMMAND = "/usr/bin/backline"
ASKED = (("hostd", "version"), ("host", "units", "backline-hostd.service"), ("machine", "list"))
"""What has to answer of a new hostd: itself, the supervisor, and who runs machines."""
ANSWER_SECONDS = 60.0
_UNITS = "usr/lib/systemd/system"
_UNITS_HERE = "etc/systemd/system"
_USER = 'u backline-hostd 20210 "Backline: what runs on this host"\n'
_CODE = "usr/lib/backline"
_GENERATIONS = "usr/lib/backline-iron"
_PYTHON = "3.13"


def init(*, tree: Path, hall: Path, secrets: Mapping[str, Path], root: Path = Path("/")) -> list[str]:
    """Do it; returns what was done, nothing when all was as it should be.

    Raises HostError: "host.root", "host.debian", "host.systemd", "host.image", "host.reverted" (what is new does not
    work, and what was before runs again); InputError: "host.tree", "hall.*".
    """
    _require(tree, root)
    text = _checked_hall(hall)
    done = [f"installed {name}" for name in _packages(root)]
    before = _Before(root)
    done += _code(tree, root)
    changed = _units(tree, root)
    done += [f"unit {name}" for name in changed]
    done += _credentials({"backline.hall": text, "backline.role": b"iron"}, secrets, root)
    if _write(root / "etc/sysusers.d/backline.conf", _USER.encode(), 0o644):
        run(["systemd-sysusers", f"--root={root}"])
        done.append("user backline-hostd")
    if root == Path("/"):
        try:
            _start(tree, changed=bool(changed), restart=bool(done))
        except ProcessFailed as error:
            if not before.there:
                raise
            before.put_back()
            _start(None, changed=True, restart=True)
            raise HostError(
                "host.reverted",
                f"hostd of {tree} does not work here, and the one before runs again: {error.message}",
                hint="journalctl -u backline-hostd -u backline-hostd-supervisor",
            ) from error
    before.forget_others()
    return done


def _start(tree: Path | None, *, changed: bool, restart: bool) -> None:
    """Let hostd run, and see that it answers. Raises ProcessFailed."""
    if changed:
        run(["systemctl", "daemon-reload"])
    if tree is not None:
        enabled = [*_enabled(tree), MACHINES]
        run(["systemctl", "enable", "--quiet", *enabled])
        run(["systemctl", "start", *(name for name in enabled if name.endswith(".socket"))])
    if restart:
        run(["systemctl", "reset-failed", *SERVICES, SUPERVISOR], check=False)
        run(
            ["systemctl", "stop", "backline-hostd.service", SUPERVISOR]
        )  # it goes on from its journal, with the new code
        if changed:  # a socket whose unit has changed while it listened does not work until it is made anew
            run(["systemctl", "restart", *SOCKETS])
        run(["systemctl", "restart", *SERVICES])
    for words in ASKED:
        run([COMMAND, *words], deadline=time.monotonic() + ANSWER_SECONDS)


class _Before:
    """hostd as it was, to be put back when the new one does not work."""

    def __init__(self, root: Path) -> None:
        self.root, self.link = root, root / _CODE
        self.code = os.readlink(self.link) if self.link.is_symlink() else None
        self.command = root / "usr/bin/backline"
        self.text = self.command.read_bytes() if self.code is not None and self.command.exists() else None
        folder = root / _UNITS_HERE
        self.units = {path: path.read_bytes() for path in folder.glob("backline-hostd*") if path.is_file()}

    @property
    def there(self) -> bool:
        return self.code is not None and self.text is not None

    def put_back(self) -> None:
        """The code of before by one link, then its units; those that it had not go."""
        assert self.code is not None
        assert self.text is not None
        _write(self.command, self.text, 0o755)
        _link(self.link, self.code)
        for path in (self.root / _UNITS_HERE).glob("backline-hostd*"):
            if path.is_file() and path not in self.units:
                path.unlink()
        for path, text in self.units.items():
            _write(path, text, 0o644)

    def forget_others(self) -> None:
        """Remove all code but what runs now and what ran before: that may still be running."""
        now = os.readlink(self.link)
        if now == self.code:
            return
        kept = {Path(target).name for target in (now, self.code) if target is not None}
        for path in (self.root / _GENERATIONS).iterdir():
            if path.name not in kept:
                remove(path)


def _require(tree: Path, root: Path) -> None:
    if os.geteuid() != 0:
        raise HostError("host.root", "a host is made by root", hint="use sudo")
    release = _os_release(root / "usr/lib/os-release")
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "13"):
        name = release.get("PRETTY_NAME", "something unknown")
        raise HostError("host.debian", f"this is {name}; a host is a Debian 13")
    if root == Path("/") and not Path("/run/systemd/system").is_dir():
        raise HostError("host.systemd", "systemd does not run this system")
    if (root / _CODE).is_dir() and not (root / _CODE).is_symlink():
        raise HostError("host.image", "this system is an image of Backline's, not a plain Debian")
    for name in (_CODE + "/app/services/hostd", "usr/bin/backline", f"{_UNITS}/{MACHINES}", PRESET):
        if not (tree / name).exists():
            raise InputError(
                "host.tree", f"there is no {name} in it", where=str(tree), hint="mount the root.erofs of a role there"
            )
    if not (tree / f"usr/bin/python{_PYTHON}").exists():
        raise InputError("host.tree", f"this image has no Python {_PYTHON}, as Debian 13 has", where=str(tree))


def _os_release(path: Path) -> dict[str, str]:
    pairs = [line.partition("=") for line in path.read_text().splitlines() if "=" in line]
    return {key: value.strip('"') for key, _, value in pairs}


def _checked_hall(path: Path) -> bytes:
    from services.hall.schema import Hall

    document = toml.load(path, area="hall")
    toml.decode(document, Hall)
    return path.read_bytes()


def _packages(root: Path) -> list[str]:
    """Install what is missing, from wherever this host's apt gets its packages."""
    missing = [name for name, file in PACKAGES.items() if not (root / file).exists()]
    if missing:
        environment = {"DEBIAN_FRONTEND": "noninteractive", "PATH": os.environ.get("PATH", os.defpath)}
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        try:
            run(install, env=environment)
        except ProcessFailed:  # a new host may never have looked what its mirror has
            run(["apt-get", "update"], env=environment)
            run(install, env=environment)
    return missing


def _code(tree: Path, root: Path) -> list[str]:
    """hostd and its wheels: a folder of their own, and a link that is replaced in one step."""
    link, folder = root / _CODE, root / _GENERATIONS
    if (
        link.is_dir()
        and _same(tree / _CODE, link)
        and filecmp.cmp(tree / "usr/bin/backline", root / "usr/bin/backline")
    ):
        return []
    make_folder(folder)
    known = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    target = folder / str(max(known, default=0) + 1)
    aside = folder / ".new"
    remove(aside)
    shutil.copytree(tree / _CODE, aside, symlinks=True)
    run(["sync", "--file-system", aside])
    aside.rename(target)
    _write(root / "usr/bin/backline", (tree / "usr/bin/backline").read_bytes(), 0o755)
    _link(link, os.path.relpath(target, link.parent))
    return [f"hostd in {link}"]


def _link(link: Path, target: str) -> None:
    """Replace a link in one step."""
    new = link.with_name(".backline.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)
    synchronise(link.parent)


def _same(one: Path, two: Path) -> bool:
    names = _names(one)
    return names == _names(two) and all(filecmp.cmp(one / name, two / name, shallow=False) for name in names)


def _names(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(str(path.relative_to(folder)) for path in found)


def _units(tree: Path, root: Path) -> list[str]:
    sources = sorted((tree / _UNITS).glob("backline-hostd*"))
    target = root / _UNITS_HERE
    return [path.name for path in sources if path.is_file() and _write(target / path.name, path.read_bytes(), 0o644)]


def _enabled(tree: Path) -> list[str]:
    lines = (tree / PRESET).read_text().splitlines()
    return [line.removeprefix("enable ") for line in lines if line.startswith("enable backline-hostd")]


def _credentials(own: Mapping[str, bytes], secrets: Mapping[str, Path], root: Path) -> list[str]:
    store = root / "etc/credstore"
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.chmod(0o700)
    wanted = dict(own)
    for name, file in secrets.items():
        parts = name.split("/")
        if len(parts) > 2 or not all(part and part[0] != "." for part in parts):
            raise UsageError("host.secret", f"{name!r} names no credential", hint="NAME, or MACHINE/NAME")
        path = f"backline.machines/{name}" if len(parts) == 2 else name
        wanted[path] = file.read_bytes()
    done = []
    for name, data in wanted.items():
        (store / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _write(store / name, data, 0o600):
            done.append(f"credential {name}")
    return done


def _write(path: Path, data: bytes, mode: int) -> bool:
    """Replace a file in one step when it is another; returns whether it was."""
    if path.is_file() and path.read_bytes() == data and path.stat().st_mode & 0o7777 == mode:
        return False
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}.backline-new")
    aside.unlink(missing_ok=True)
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    synchronise(path.parent)
    return True
