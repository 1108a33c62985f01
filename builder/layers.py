"""Runs mkosi: offline, in the tools tree, layer on layer, from a repository of exactly the locked packages.

A role is built as mkosi would build it in one go (`flat`), or on the cached tree of what it includes: the base's
packages, then the role's, then our own files, by how often they change. `build check` builds flat and compares, so
every check also proves that both ways give the same tree. mkosi's own incremental cache is never used: its key ignores
versions.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from builder import cache, clock, config, ids, overlay, recipe
from builder.config import Image
from builder.later import Later
from builder.lock import Lock, LockedPackage
from builder.pool import Pool, make_repository
from builder.sandbox import Environment, Sandbox
from services.common.errors import BacklineError, HostError
from services.common.process import explain_exit

_OUTPUT = "image"
_LINE = 300  # mkosi repeats whole command lines with a thousand packages
_SECTIONS = ("Distribution", "Output", "Content", "Build")


@dataclass(frozen=True)
class Context:
    """What every step of a build needs. `work` is an empty folder of the build's own, removed by its owner.

    What is given to `later` is done before the build ends. With `roomy` there is place in `work` for a layer more.
    """

    root: Path
    lock: Lock
    pool: Pool
    cache: Path
    tools: Path
    work: Path
    log: Path
    environment: Environment
    later: Later = field(default_factory=Later)
    roomy: bool = False

    @cached_property
    def clock(self) -> Path | None:
        """The library that shifts the clock of programs, made when first wanted; None when it is not shifted."""
        days = self.environment.clock_offset_days
        return clock.compile_library(self.work, days) if days else None


def masters(tools: Path) -> dict[str, str]:
    """Debian's static passwd and group, from the tools tree's base-passwd (the version that the images have)."""
    return {name: (tools / f"usr/share/base-passwd/{name}.master").read_text() for name in ("passwd", "group")}


def build_layers(ctx: Context, role: str) -> Path:
    """The tree with all packages of `role` and nothing of ours, from the cache where it is there; its path.

    Where there is room, new layers get into the cache while the next one is built on what is in the working folder.
    """
    below: Path | None = None
    parent: str | None = None
    for layer, sections in recipe.of_layers(ctx.root, role, ctx.lock).items():
        target = ctx.cache / "layers" / recipe.layer_id(sections)
        have = {package.name for package in ctx.lock.of(parent)} if parent else set()
        packages = [package for package in ctx.lock.of(layer) if package.name not in have]
        if below is not None and not packages and not sections["files"]:
            continue  # the same packages as what it includes
        if not cache.usable(target):
            image = config.load(ctx.root, layer)
            tree = _install(ctx, image, packages, below=below)
            tree = cache.keep(tree, target, later=ctx.later if ctx.roomy else None)
            if below is not None and below.is_relative_to(ctx.work):
                ctx.later.do(shutil.rmtree, below)  # its copy comes first
        else:
            tree = target
        below, parent = tree, layer
    assert below is not None
    return below


def _install(ctx: Context, image: Image, packages: list[LockedPackage], *, below: Path | None) -> Path:
    """One package layer: `packages` on the tree `below`, or on nothing. Returns the new tree, in the working folder."""
    step = _Step(ctx, f"layer-{image.role}")
    _stage_skeleton(ctx, image, step.path / "skeleton", below=below)
    make_repository(ctx.pool, ctx.lock.of(image.role), step.path / "repo", suite=suite_of(image), epoch=ctx.lock.epoch)
    return step.run(image, packages=[package.name for package in packages], base=below)


def finish(ctx: Context, image: Image, below: Path, extra: list[Path]) -> Path:
    """Our own files on the packages' tree `below`: configuration, services, scripts, presets. Returns the new tree."""
    step = _Step(ctx, f"final-{image.role}")
    make_repository(ctx.pool, [], step.path / "repo", suite=suite_of(image), epoch=ctx.lock.epoch)
    scripts = overlay.stage_scripts(ctx.root, image, step.path / "scripts")
    return step.run(image, base=below, extra=extra, scripts=scripts)


def flat(ctx: Context, image: Image, extra: list[Path]) -> Path:
    """The whole image in one run of mkosi, as a user without the builder would build it."""
    step = _Step(ctx, f"flat-{image.role}")
    packages = ctx.lock.of(image.role)
    _stage_skeleton(ctx, image, step.path / "skeleton", below=None)
    make_repository(ctx.pool, packages, step.path / "repo", suite=suite_of(image), epoch=ctx.lock.epoch)
    scripts = overlay.stage_scripts(ctx.root, image, step.path / "scripts")
    return step.run(image, packages=[package.name for package in packages], extra=extra, scripts=scripts)


def suite_of(image: Image) -> str:
    """The suite that mkosi expects in its repository."""
    return image.settings["Distribution.Release"]


def _stage_skeleton(ctx: Context, image: Image, target: Path, *, below: Path | None) -> None:
    """What is there before the first package: the skeleton trees, and the users with their static ids."""
    target.mkdir(parents=True)
    overlay.stage_trees(ctx.root, recipe.image_files(ctx.root, image), target, kind="mkosi.skeleton")
    present = {package.name for package in ctx.lock.of(image.role)} | set(image.services)
    entries = ids.select(ids.load(ctx.root), present)
    (target / "etc").mkdir(exist_ok=True)
    if below is None:
        files = ids.render(entries, masters(ctx.tools))
    else:
        files = {}
        full = ids.render(entries, masters(ctx.tools))
        for name, text in full.items():
            known = (below / "etc" / name).read_text()
            have = {line.split(":")[0] for line in known.splitlines()}
            files[name] = known + "".join(
                f"{line}\n" for line in text.splitlines() if line and line.split(":")[0] not in have
            )
    for name, text in files.items():
        (target / "etc" / name).write_text(text)
    if ctx.clock:  # package scripts run inside the root: the library has to be there too
        overlay.copy(ctx.clock, target / clock.LIBRARY)
    overlay.normalise_modes(target)


def telling(lines: list[str]) -> list[str]:
    """The lines of mkosi's output that say what went wrong: around the first package that failed, then the end."""
    failed = next((n for n, line in enumerate(lines) if line.startswith("dpkg: error processing")), None)
    chosen = lines[-30:] if failed is None else [*lines[max(0, failed - 12) : failed + 3], "…", *lines[-6:]]
    return [line if len(line) <= _LINE else line[:_LINE] + "…" for line in chosen]


class _Step:
    """One run of mkosi, in a folder of its own below the working folder."""

    def __init__(self, ctx: Context, name: str) -> None:
        self.ctx = ctx
        self.path = ctx.work / name
        for folder in ("conf", "out", "ws", "pkgcache", "repo"):
            (self.path / folder).mkdir(parents=True)

    def run(
        self,
        image: Image,
        *,
        packages: list[str] | None = None,
        base: Path | None = None,
        extra: list[Path] | None = None,
        scripts: dict[str, list[str]] | None = None,
    ) -> Path:
        """Run mkosi; the tree that it made. Raises BacklineError("image.mkosi") with the end of its output."""
        ctx, inside = self.ctx, self.ctx.environment.work
        settings: dict[str, list[tuple[str, str]]] = {section: [] for section in _SECTIONS}
        scripts_environment = [f"{name}={value}" for name, value in ctx.environment.of_scripts().items()]
        for key, value in image.settings.items():
            section, _, name = key.partition(".")
            if key not in ("Distribution.Repositories", "Config.MinimumVersion"):
                settings[section].append((name, value))
        settings["Distribution"].append(("LocalMirror", f"file://{inside}/repo"))
        settings["Output"] += [("Output", _OUTPUT), ("OutputDirectory", f"{inside}/out")]
        settings["Build"] += [
            ("WorkspaceDirectory", f"{inside}/ws"),
            ("PackageCacheDirectory", f"{inside}/pkgcache"),
            ("Incremental", "no"),
            ("WithNetwork", "no"),
            ("Environment", "\n    ".join(["", *image.environment, *scripts_environment])),
        ]
        content = settings["Content"]
        content.append(("SourceDateEpoch", str(ctx.lock.epoch)))
        read_only: dict[Path, str] = {}
        if base is not None:
            read_only[base] = f"{inside}/base"
            content.append(("BaseTrees", f"{inside}/base"))
        if (self.path / "skeleton").is_dir():
            content.append(("SkeletonTrees", f"{inside}/skeleton"))
        content.append(("Packages", "\n    ".join(["", *(packages or [])])))
        for number, tree in enumerate(extra or []):
            read_only[tree] = f"{inside}/extra{number}"
            content.append(("ExtraTrees", f"{inside}/extra{number}"))
        for setting, names in (scripts or {}).items():
            content.append((setting, ",".join(f"{inside}/scripts/{name}" for name in names)))
        if image.remove and scripts is not None:  # not below other packages: dpkg forgets files that it misses
            content.append(("RemoveFiles", ",".join(image.remove)))
        text = "".join(
            f"[{section}]\n" + "".join(f"{name}={value}\n" for name, value in rows) + "\n"
            for section, rows in settings.items()
        )
        (self.path / "conf/mkosi.conf").write_text(text)
        self._execute(image, read_only)
        return self.path / "out" / _OUTPUT

    def _execute(self, image: Image, read_only: dict[Path, str]) -> None:
        ctx, inside = self.ctx, self.ctx.environment.work
        sandbox = Sandbox(
            tools=ctx.tools,
            writable={self.path: inside},
            read_only=read_only | ({ctx.clock: f"/{clock.LIBRARY}"} if ctx.clock else {}),
            environment=ctx.environment,
        )
        variables = ctx.environment.variables(ctx.lock.epoch) | ctx.environment.clock()
        command = ["mkosi", "--directory", f"{inside}/conf", "--force", "build"]
        with ctx.log.open("ab") as log:
            start = log.tell()
            done = sandbox.run(
                command, variables=variables, chdir=f"{inside}/conf", stdout=log, stderr=log, check=False
            )
        if done.returncode:
            with ctx.log.open("rb") as log:
                log.seek(start)
                tail = telling(log.read().decode(errors="replace").strip().splitlines())
            if any("No space left on device" in line for line in tail):
                raise HostError("image.full", f"no space left while building {image.role}", hint="`build gc --dry-run`")
            raise BacklineError(
                "image.mkosi",
                f"building {image.role}: mkosi {explain_exit(done.returncode)}; the end of its output:\n"
                + "\n".join(f"  {line}" for line in tail),
                hint=f"to replay: build image {image.role} --verbose",
            )
