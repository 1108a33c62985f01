"""An iron in a folder: systemd as far as machines need it, whose state outlives the process that asked for it.

A machine that runs writes: each start appends its version to the file `written` of the folder that its files say is its
/var. `world.json` has what runs, what was woken, and every start with what it found there. Versions whose last digit is
`f` have a unit that fails, those with `e` never reach their default target.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from services.hostd.machines import Machines
from services.hostd.machines_iron import NotReady
from services.hostd.machines_schema import Record

ROLE = "db"
OLD, NEW = "20260101.000000000001", "20260102.000000000002"
FAILING, HANGING = "20260103.00000000000f", "20260104.00000000000e"
NAME = "one"
FULL = 40
"""Files of a whole /var."""


class Start(msgspec.Struct):
    """A start of a machine, and how many files its /var had."""

    version: str
    var: str
    files: int


class World(msgspec.Struct):
    """What is true outside of any process of ours."""

    boot: str = "first"
    clock: float = 1000.0
    runs: dict[str, Start] = {}
    woken: list[str] = []
    starts: list[Start] = []
    saved: list[str] = []
    cannot_save: bool = False


class FolderIron:
    """Implements `machines_iron.Iron`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.trees = folder / "trees"

    @property
    def world(self) -> World:
        path = self.folder / "world.json"
        return msgspec.json.decode(path.read_bytes(), type=World) if path.exists() else World()

    def keep(self, world: World) -> None:
        aside = self.folder / ".world.new"
        aside.write_bytes(msgspec.json.encode(world))
        aside.rename(self.folder / "world.json")

    def reboot(self) -> None:
        """The iron goes down hard, and comes up: /run is empty, nothing runs."""
        shutil.rmtree(self.run, ignore_errors=True)
        world = self.world
        world.boot, world.runs, world.woken, world.clock = f"{world.boot}+", {}, [], 10.0
        self.keep(world)

    def boot(self) -> str:
        return self.world.boot

    def now(self) -> float:
        return self.world.clock

    def pause(self, seconds: float) -> None:
        world = self.world
        world.clock += seconds
        self.keep(world)

    def place(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.run / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def read(self, path: str) -> str | None:
        found = self.run / path.lstrip("/")
        return found.read_text() if found.exists() else None

    def placed(self, files: Mapping[str, str]) -> bool:
        paths = {self.run / name.lstrip("/"): text for name, text in files.items()}
        return all(path.exists() and path.read_text() == text for path, text in paths.items())

    def clear(self, paths: list[str]) -> None:
        for name in paths:
            (self.run / name.lstrip("/")).unlink(missing_ok=True)

    def reload(self) -> None:
        return None

    def wake(self, name: str) -> None:
        world = self.world
        world.woken = [name]
        self.keep(world)

    def rest(self, name: str) -> None:
        world = self.world
        world.woken = []
        self.keep(world)

    def save(self, name: str) -> str | None:
        world = self.world
        world.saved = [*world.saved, world.runs[name].version] if name in world.runs else world.saved
        self.keep(world)
        return "its disk is full" if world.cannot_save else None

    def start(self, name: str, *, deadline: float) -> None:
        world = self.world
        if name not in world.runs:
            nspawn = (self.run / f"run/systemd/nspawn/{name}.nspawn").read_text()
            drop_in = (self.run / f"run/systemd/system/systemd-nspawn@{name}.service.d/50-backline.conf").read_text()
            var = Path(re.findall(r"^Bind=(.*):/var$", nspawn, re.MULTILINE)[0])
            version = re.findall(r"backline\.version:(\S+)", drop_in)[0]
            start = Start(version, var.name, len(list(var.glob("file-*"))))
            world.runs[name] = start
            world.starts.append(start)
            self.keep(world)
            with (var / "written").open("a") as file:
                file.write(f"{version}\n")
                file.flush()
                os.fsync(file.fileno())
        if world.runs[name].version.endswith("e"):
            world.clock = max(world.clock, deadline)
            self.keep(world)
            raise NotReady("its default target was not reached in time")

    def stop(self, name: str) -> None:
        world = self.world
        world.runs.pop(name, None)
        self.keep(world)

    def state(self, name: str) -> str:
        return "active" if name in self.world.runs else "inactive"

    def failed_units(self, name: str) -> list[str]:
        found = self.world.runs.get(name)
        if found is None:
            raise NotReady("it does not run any more")
        return ["broken.service"] if found.version.endswith("f") else []

    def tree(self, role: str, version: str) -> Path:
        return self.trees / role / version

    def release(self, role: str, version: str) -> None:
        return None


def nothing(name: str) -> None:
    """No step matters."""


class Rig:
    """An iron in `folder`, its disk at `disk`, and versions to run."""

    def __init__(self, folder: Path, *, disk: Path | None = None, step: Callable[[str], None] = nothing) -> None:
        self.folder = folder
        self.disk = disk or folder / "disk"
        self.iron = FolderIron(folder)
        self.machines = Machines(self.iron, base=self.disk, credentials=folder / "credstore", step=step)

    def furnish(self) -> None:
        """Versions of a role, with a /var of many files."""
        for version in (OLD, NEW, FAILING, HANGING):
            image = self.disk / "images" / ROLE / version
            image.mkdir(parents=True, exist_ok=True)
            (image / "root.erofs").touch()
            var = self.iron.trees / ROLE / version / "var"
            (var / "lib").mkdir(parents=True)
            for number in range(FULL):
                (var / f"file-{number}").write_text("whole\n")
            (var / "lib" / f"of-{version}").write_text("brought along\n")

    def declare(self, version: str, *, writes: str, runs_on: list[str]) -> None:
        """What a version says of its state."""
        path = self.iron.trees / ROLE / version / "usr/lib/backline/state.toml"
        path.parent.mkdir(parents=True)
        path.write_text(f'writes = "{writes}"\nruns_on = {runs_on}\n')

    def record(self) -> Record:
        return self.machines.records.load(NAME)

    def written(self, var: str) -> list[str]:
        """Who wrote into a /var, in order, each once."""
        text = (self.machines.records.home(NAME) / var / "written").read_text()
        return list(dict.fromkeys(text.split()))

    def settle_like_systemd(self) -> None:
        """What the units do by themselves: the one that was woken runs, and once more when it was killed."""
        # One that was woken for a machine that has no record, since who made it has died, fails and says so.
        if NAME in self.iron.world.woken and NAME in self.machines.records.names():
            self.machines.settle(NAME)

    def boot_like_systemd(self) -> None:
        """The iron was started: every machine is settled."""
        self.iron.reboot()
        for name in self.machines.records.names():
            self.machines.settle(name)
