"""`make bench-publish`: an update on its way to the root file servers, and what a switch, hostd and a rollout cost.

Rows, each of which can be measured alone (`--row`):

- bytes: what a receiver is sent for an update of about 13 packages and for a line of configuration, beside rsync of the
  tree and casync on the image; and what the tool that makes deltas takes
- parallel: an update to four root file servers at once, beside scp of the full image to each
- switch: switch and rollback of a channel, until a seat that asks is told the other version
- reads: readers over NFS while versions are published and collected
- hostd: hostd of a server with 300 units, at rest and asked for them
- rollout: what a rollout to 200 simulated seats costs gw

All but `bytes` is done in one lab of gw and four root file servers, booted from their images. The versions are built
first (`benchmarks.updates`), into the store in force. This measures, it does not judge.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import gateway, publishing, traffic, updates
from benchmarks.figures import Figures
from benchmarks.updates import Updates
from builder import image, settings
from builder.image import Shop
from builder.store import Store
from e2e.capabilities import probe
from services.common.errors import MissingError
from services.common.progress import Progress
from services.common.versions import Ref

ROWS = ("bytes", "parallel", "switch", "reads", "hostd", "rollout")
TOOLS = ("rsync", "casync", "zstd")


def measure_bytes(figures: Figures, store: Store, role: str, made: Updates, scratch: Path) -> None:
    """What each way sends for both updates of a role."""
    ours = traffic.Ours(store, scratch)
    tree = scratch / "tree"
    cut = scratch / "casync"
    cut.mkdir()
    updates_of = (
        (f"{role}, {len(made.changed)} packages", made.older, made.newer, "at most 0.1"),
        (f"{role}, configuration", made.newer, made.edited, ""),
    )
    for number, (what, old, new, goal) in enumerate(updates_of):
        if number == 0:
            ours.bring(old)
            figures.add(f"{role}: a full image", ours.pull(old) / 1e6, "MB", "the other side")
            traffic.copy_tree(store, old, tree)
        figures.add(f"{what}: making deltas", ours.bring(new))
        under = "" if goal else "under 0.3 MB"
        figures.add(f"{what}: ours", ours.pull(new) / 1e6, "MB", under)
        figures.add(f"{what}: rsync of the tree", traffic.rsync(store, new, tree, scratch) / 1e6, "MB")
        shutil.rmtree(cut)
        cut.mkdir()
        files, seeds = traffic.files_of(store, new), traffic.files_of(store, old)
        traffic.casync_make(files, cut)
        figures.add(f"{what}: casync", traffic.casync(files, seeds, cut, scratch) / 1e6, "MB")
        figures.ratio(f"{what}: ours", f"{role}: a full image", goal, name=f"{what}: ours, of the full image")
        for other in ("rsync of the tree", "casync"):
            figures.ratio(f"{what}: ours", f"{what}: {other}", "below 1", name=f"{what}: ours, of {other}")
        ours.forget(old)
    before, after = (store.find(role, ref.version) / "root.erofs" for ref in (made.older, made.newer))
    figures.add(f"{role}: root.erofs", after.stat().st_size / 1e6, "MB", "at most 2147 (2 GiB)")
    for what, most in traffic.memory(before, after, scratch).items():
        figures.add(f"{role}: memory for its delta: {what}", most, "MB", "stated")


def measure_hall(
    figures: Figures, shop: Shop, older: Ref, newer: Ref, chosen: set[str], options: argparse.Namespace
) -> None:
    """The rows that need a hall."""
    with publishing.hall(shop.settings, older, newer, options.servers) as its:
        if "parallel" in chosen:
            publishing.parallel(figures, its, options.runs)
        if "hostd" in chosen:
            publishing.hostd(figures, its, seconds=options.seconds, units=options.units)
        if {"reads", "switch", "rollout"} & chosen:
            its.publish(its.older, "--allow-downgrade")
        if "reads" in chosen:
            publishing.reads(figures, its, options.reads)
        if {"switch", "rollout"} & chosen:
            its.publish(its.newer, "--allow-downgrade")
            seats = range(options.seats)
            publishing.import_seats(its, seats)
            if "switch" in chosen:
                publishing.moves(figures, its, seats, options.moves)
            if "rollout" in chosen:
                publishing.rollout(figures, its, seats, boot_seconds=options.boot, settle=options.settle)


def main(argv: list[str] | None = None) -> int:
    """Measure the rows, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be repeated")
    parser.add_argument("--role", action="append", help="whose bytes (default: nfsroot, nfsroot-desktop)")
    told = "two versions of nfsroot that the store has, instead of building them; not for `bytes`"
    parser.add_argument("--versions", nargs=2, metavar="VERSION", help=told)
    parser.add_argument("--runs", type=int, default=5, help="turns of `parallel` (default: %(default)s)")
    parser.add_argument("--servers", type=int, default=4, choices=range(1, 5), help="root file servers (default: 4)")
    parser.add_argument("--moves", type=int, default=50, help="switches and rollbacks (default: %(default)s)")
    parser.add_argument("--reads", type=int, default=10_000, help="reads (default: %(default)s)")
    parser.add_argument("--units", type=int, default=300, help="units of hostd's server (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="that hostd is at rest (default: %(default)s)")
    parser.add_argument("--seats", type=int, default=200, help="simulated seats (default: %(default)s)")
    parser.add_argument("--boot", type=float, default=30.0, help="seconds that a seat restarts (default: %(default)s)")
    parser.add_argument("--settle", type=int, default=30, help="seconds of being well (default: %(default)s)")
    options = parser.parse_args(argv)
    chosen = set(options.row or ROWS)
    image.require_root()
    probe().require()
    if "bytes" in chosen and (missing := [name for name in TOOLS if shutil.which(name) is None]):
        hint = f"apt-get install --no-install-recommends {' '.join(missing)}"
        raise MissingError("bench.tools", f"{', '.join(missing)} not installed", hint=hint)
    gateway.allow_files()
    shop = Shop.open(settings.load(), Progress(quiet=True))
    figures = Figures()
    roles = options.role or ["nfsroot", "nfsroot-desktop"]
    with tempfile.TemporaryDirectory(dir=shop.settings.cache_path, prefix="bench-") as folder:
        for role in roles if "bytes" in chosen else ():
            scratch = Path(folder) / role
            scratch.mkdir()
            made = updates.build(shop, role, scratch)
            print(f"{role}: {', '.join(made.changed)}", file=sys.stderr)
            measure_bytes(figures, shop.store, role, made, scratch)
            shutil.rmtree(scratch)
        if chosen - {"bytes"}:
            if options.versions:
                older, newer = (Ref("nfsroot", version) for version in options.versions)
            else:
                made = updates.build(shop, "nfsroot", Path(folder))
                older, newer = made.older, made.newer
            measure_hall(figures, shop, older, newer, chosen, options)
    figures.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
