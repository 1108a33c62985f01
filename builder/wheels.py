"""Wheels: chosen and fetched by pip in the tools tree, checked by hash, installed with deterministic bytecode.

pip runs with the image's own Python (CPython 3.13, manylinux), so what it chooses fits the image on every host. The
index is the one that the host's pip is configured for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote

from builder.lock import LockedWheel
from builder.pool import Pool
from builder.sandbox import Environment, Sandbox
from services.common.errors import MissingError
from services.common.process import ProcessFailed, run

_TOOLS_OWN = {Path(name) for name in ("/usr", "/etc", "/bin", "/lib", "/lib64", "/sbin", "/proc", "/dev", "/root")}

SITE = "usr/lib/backline/site"
"""Where an image keeps the wheels' modules."""


def _pip_environment() -> tuple[dict[str, str], dict[Path, str]]:
    """The host's pip configuration as variables, and the local folders and files that it names."""
    import sys

    variables: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"], check=False).stdout.splitlines():
        name, equals, value = line.partition("=")
        key = name.rpartition(".")[2]
        if equals and key in ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "cert"):
            variables[f"PIP_{key.replace('-', '_').upper()}"] = value.strip("'\"")
    folders: dict[Path, str] = {}
    for value in variables.values():
        for word in value.split():
            path = Path(unquote(word.removeprefix("file://")))
            # An index in a folder names files beside it: its whole top-level folder has to be visible.
            if path.is_absolute() and path.exists() and (top := Path(*path.parts[:2])) not in _TOOLS_OWN:
                folders[top] = str(top)
    return variables, folders


def pip(tree: Path, root: Path, *words: str, requirements: str, into: Path | None = None) -> str:
    """Run pip with the network on requirements/<requirements>.txt: wheels only, hashes required.

    `into` is a folder that pip sees as /into. Raises MissingError("lock.wheel").
    """
    from builder.resolve import _network_files, _proxies

    variables, folders = _pip_environment()
    sandbox = Sandbox(
        tools=tree,
        read_only=_network_files() | folders | {root / "requirements": "/requirements"},
        writable={into: "/into"} if into else {},
        network=True,
    )
    command = ["python3", "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir", *words]
    command += ["--require-hashes", "--only-binary", ":all:", "-r", f"/requirements/{requirements}.txt"]
    environment = Environment().variables(0) | _proxies() | variables | {"PIP_NO_INPUT": "1"}
    try:
        return sandbox.run(command, variables=environment).stdout
    except ProcessFailed as error:
        tail = error.completed.stderr.strip()[-2000:]
        raise MissingError(
            "lock.wheel",
            f"pip found no fitting wheels for requirements/{requirements}.txt\n{tail}",
            hint="check the index that pip is configured for",
        ) from error


def fetch(pool: Pool, wheels: list[LockedWheel], *, name: str, tree: Path, root: Path) -> int:
    """Fetch the missing wheels of one requirement set into the pool; returns how many came."""
    missing = [wheel for wheel in wheels if not pool.path(wheel.sha256, ".whl").exists()]
    if not missing:
        return 0
    pool.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=pool.root, prefix=".wheels-") as folder:
        pip(tree, root, "download", "--no-deps", "--dest", "/into", requirements=name, into=Path(folder))
        for wheel in missing:
            file = Path(folder) / wheel.file
            if not file.exists():
                raise MissingError(
                    "fetch.wheel",
                    f"pip chose another file than the locked {wheel.file}",
                    hint="resolve again with `build lock --update`",
                )
            pool.adopt(file, sha256=wheel.sha256, size=None, name=wheel.file, suffix=".whl")
    return len(missing)


def install(pool: Pool, wheels: list[LockedWheel], target: Path, *, tree: Path, epoch: int) -> None:
    """Install wheels into the folder `target`/usr/lib/backline/site, without network, with bytecode."""
    folder = target / SITE
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels-") as aside:
        for wheel in wheels:
            shutil.copyfile(pool.path(wheel.sha256, ".whl"), Path(aside) / wheel.file)
        sandbox = Sandbox(tools=tree, read_only={Path(aside): "/wheels"}, writable={target: "/target"})
        command = [
            "python3",
            "-m",
            "pip",
            "--quiet",
            "install",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--no-warn-script-location",
        ]
        command += ["--root-user-action=ignore", "--no-cache-dir", "--target", f"/target/{SITE}"]
        command += [f"/wheels/{wheel.file}" for wheel in wheels]
        sandbox.run(command, variables=Environment().variables(epoch))
        shutil.rmtree(folder / "bin", ignore_errors=True)
        for record in sorted(folder.glob("*.dist-info")):
            for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                (record / name).unlink(missing_ok=True)
        compile_tree(target, SITE, tree=tree, epoch=epoch)


def compile_tree(target: Path, folder: str, *, tree: Path, epoch: int) -> None:
    """Add bytecode below `target`/`folder`: one process, sorted, named by hash, so that it is the same everywhere."""
    sandbox = Sandbox(tools=tree, writable={target: "/target"})
    command = ["python3", "-m", "compileall", "-q", "-f", "-j1", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", "/target", "-p", "/", f"/target/{folder}"]
    sandbox.run(command, variables=Environment().variables(epoch))


def ensure(pool: Pool, wheels: list[LockedWheel], cache: Path, *, tree: Path, epoch: int) -> Path:
    """The installed tree of these wheels, from the cache where it is there."""
    import hashlib

    from builder import cache as trees
    from builder import overlay

    words = [Path(__file__).read_text(), tree.name, str(epoch), *(wheel.sha256 for wheel in wheels)]
    target = cache / "wheels" / hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]
    if not trees.usable(target):
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True, mode=0o755)
        install(pool, wheels, aside, tree=tree, epoch=epoch)
        overlay.normalise_modes(aside)
        trees.keep(aside, target)
    return target
