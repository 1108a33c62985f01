"""`make bench-build`: the builder beside what a user would run instead, plain mkosi, in one run on one machine.

Plain mkosi gets everything that the builder has: the same configuration, the same packages from the same local
repository, the same tools tree, no network, and the same mkfs.erofs afterwards. Both start from warm file caches. Every
row is the median of at least five runs, in turns, so that a busy minute hits both; the spread is printed beside it.
This measures, it does not judge: the process ends with 0 whatever the ratios are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from builder import artefacts, check, config, image, layers, recipe, settings, tools
from builder.image import Shop
from builder.pool import Pool
from builder.sandbox import Environment
from services.common.process import run
from services.common.progress import Progress

ROLES = ("gw", "rhfs", "nfsroot")


@dataclass
class Row:
    """One measured thing: seconds of each run."""

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def text(self) -> str:
        return f"{self.median:8.2f} s  ({min(self.seconds):.2f}-{max(self.seconds):.2f}, {len(self.seconds)} runs)"


@contextmanager
def timed(row: Row) -> Iterator[None]:
    """Add the wall-clock time of a block to `row`."""
    start = time.perf_counter()
    yield
    row.seconds.append(time.perf_counter() - start)
    print(f"  {row.name}: {row.seconds[-1]:.2f} s", file=sys.stderr, flush=True)


class Bench:
    """One run of the benchmark in a scratch folder: stores and layer caches of its own, the machine's pool."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.real = Shop.open(settings.load(), Progress(quiet=True))
        image.fetch(self.real, list(ROLES))
        self.pool = self.real.settings.cache_path / "pool"
        self.tools = tools.ensure(Pool(self.pool), self.real.lock, self.real.settings.cache_path)
        self.clone = scratch / "clone"
        shutil.copytree(
            self.real.root, self.clone, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".git", "*_cache")
        )
        self.count = 0

    def empty_cache(self) -> Path:
        """A cache folder with the pool and the tools tree, and no layers: what a clean offline build starts from."""
        self.count += 1
        cache = self.scratch / f"cache{self.count}"
        cache.mkdir()
        (cache / "pool").symlink_to(self.pool)
        (cache / "tools").symlink_to(self.real.settings.cache_path / "tools")
        return cache

    def shop(self, root: Path, cache: Path) -> Shop:
        """A shop with an empty store."""
        self.count += 1
        store = self.scratch / f"store{self.count}"
        chosen = msgspec.structs.replace(self.real.settings, store=str(store), cache=str(cache))
        return Shop.open(chosen, Progress(quiet=True), root=root)

    def lock_copy(self) -> Path:
        """A copy of the lock: resolving writes it."""
        target = self.scratch / "bench.lock"
        if not target.exists():
            shutil.copyfile(self.real.lock_path, target)
        return target

    def plain(self, role: str, row: Row) -> None:
        """Plain mkosi with the same configuration, offline, and mkfs.erofs."""
        self.count += 1
        work = self.scratch / f"plain{self.count}"
        work.mkdir()
        log = self.scratch / "plain.log"
        log.touch()
        root, lock = self.real.root, self.real.lock
        ctx = layers.Context(
            root=root,
            lock=lock,
            pool=Pool(self.pool),
            cache=self.real.settings.cache_path,
            tools=self.tools,
            work=work,
            log=log,
            environment=Environment(),
        )
        chosen = config.load(root, role)
        extra = image.stage(self.real, ctx, chosen)
        wanted = recipe.of_image(root, role, lock)
        with timed(row):
            tree = layers.flat(ctx, chosen, extra)
            artefacts.make_erofs(
                self.tools, tree, work, wanted, seat=chosen.kernel, epoch=lock.epoch, environment=Environment()
            )
        shutil.rmtree(work)


def edit(path: Path, text: str) -> None:
    """Append a line to a file of the clone."""
    with path.open("a") as file:
        file.write(text)


def measure_command(words: list[str], row: Row, *, lock: Path | None = None) -> None:
    """A whole process, from exec to exit; `lock` replaces the committed one."""
    program = Path(sys.executable).with_name("build")
    environment = {**os.environ, "BACKLINE_BUILD_LOCK": str(lock)} if lock else dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's second run finds bytecode
    with timed(row):
        run([program, "--quiet", *words], env=environment)


def peak_memory() -> float:
    """Peak resident memory of the builder's own process during a build, in MB: a child that builds and reports."""
    program = (
        "import resource, sys; from services.common.main import build; build(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    with tempfile.TemporaryDirectory() as store:
        words = [sys.executable, "-c", program, "--quiet", "--store", store, "image", "rhfs"]
        text = run(words, env=dict(os.environ)).stdout
    return int(text.split()[-1]) / 1024


def main() -> int:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (default: %(default)s)")
    parser.add_argument("--checks", type=int, default=5, help="runs of `build check` (default: %(default)s)")
    arguments = parser.parse_args()
    image.require_root()
    with tempfile.TemporaryDirectory(dir=settings.load().cache_path, prefix="bench-") as folder:
        report(Bench(Path(folder)), arguments.runs, arguments.checks)
    return 0


def report(bench: Bench, runs: int, checks: int) -> None:
    """All rows, in turns, then the table."""
    for role in ROLES:
        image.build(bench.real, role)
    names = ("unchanged", "plain", "clean", "edit-role", "edit-services", "lock", "check")
    rows = {name: Row(name) for name in names}
    warm = bench.empty_cache()
    warmed = bench.shop(bench.clone, warm)
    for role in ROLES:
        image.build(warmed, role)
    for turn in range(runs):
        measure_command(["image", "gw"], rows["unchanged"])
        bench.plain("gw", rows["plain"])
        cache = bench.empty_cache()
        clean = bench.shop(bench.real.root, cache)
        with timed(rows["clean"]):
            image.build(clean, "gw")
        forget(clean, cache)
        edit(bench.clone / "images/gw/mkosi.extra/etc/edited", f"{turn}\n")
        one = bench.shop(bench.clone, warm)
        with timed(rows["edit-role"]):
            image.build(one, "gw")
        edit(bench.clone / "services/common/errors.py", f"# {turn}\n")
        three = bench.shop(bench.clone, warm)
        with timed(rows["edit-services"]):
            for role in ROLES:
                image.build(three, role)
        measure_command(["lock", "--update"], rows["lock"], lock=bench.lock_copy())
    differences = 0
    for _ in range(checks):
        with timed(rows["check"]):
            differences += not check.check(bench.real, "gw").same
    show(rows, differences, checks, peak_memory())


def forget(shop: Shop, cache: Path) -> None:
    """Remove what a clean build left, so that the disk does not fill."""
    for path in (shop.settings.store_path, cache / "layers", cache / "wheels", cache / "work"):
        shutil.rmtree(path, ignore_errors=True)


def show(rows: dict[str, Row], differences: int, checks: int, memory: float) -> None:
    """Print the table of figures with their targets."""
    plain, clean = rows["plain"].median, rows["clean"].median

    def line(what: str, value: str, ratio: str, goal: str) -> None:
        print(f"{what:<42} {value:<38} {ratio:<7} {goal}")

    line("what", "median (min-max, runs)", "ratio", "to reach")
    line("unchanged inputs, `build image gw`", rows["unchanged"].text(), "", "under 0.4 s")
    line("plain mkosi gw, offline, + mkfs.erofs", rows["plain"].text(), "1.00", "(the other side)")
    line("clean offline build of gw", rows["clean"].text(), f"{clean / plain:.2f}", "at most 1.15")
    one, three = rows["edit-role"].median, rows["edit-services"].median
    line("after an edit in gw's tree", rows["edit-role"].text(), f"{one / plain:.2f}", "at most 0.40")
    line(
        "after an edit in services/, three roles", rows["edit-services"].text(), f"{three / plain:.2f}", "at most 0.80"
    )
    line("`build lock --update`, all roles", rows["lock"].text(), "", "under 8 s")
    ratio = rows["check"].median / clean
    line("`build check gw`", rows["check"].text(), f"{ratio:.2f}", "at most 1.25 of a clean build")
    line("differences found by check", f"{differences} in {checks} runs", "", "0")
    line("peak memory of the builder's process", f"{memory:.0f} MB", "", "under 200 MB")


if __name__ == "__main__":
    sys.exit(main())
