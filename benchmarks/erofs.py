"""Size, time to write and speed to read of root.erofs by compression: see docs/decisions/erofs-compression.md.

`python -m benchmarks.erofs [ROLE]` takes the tree of a built version, writes it with each setting, mounts each and
reads every file once with an empty page cache and once with a full one. squashfs is what a user would pick else.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from builder import image, settings, tools
from builder.image import Shop
from builder.pool import Pool
from builder.sandbox import Environment, Sandbox
from services.common.process import run
from services.common.progress import Progress

CHOICES: dict[str, list[str]] = {
    "none": [],
    "lz4": ["-zlz4", "-C65536"],
    "lz4hc,9": ["-zlz4hc,9", "-C65536"],
    "lz4hc,12": ["-zlz4hc,12", "-C65536"],
    "zstd,1": ["-zzstd,1", "-C65536"],
    "zstd,3": ["-zzstd,3", "-C65536"],
    "zstd,3 16k": ["-zzstd,3", "-C16384"],
    "zstd,9": ["-zzstd,9", "-C65536"],
}


def read_all(folder: Path) -> float:
    """Seconds to read every file below `folder` once."""
    start = time.perf_counter()
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass
    return time.perf_counter() - start


def drop_caches() -> None:
    """Empty the page cache (Documentation/admin-guide/sysctl/vm.rst)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def main() -> int:
    """Print the table as Markdown."""
    role = sys.argv[1] if len(sys.argv) > 1 else "gw"
    image.require_root()
    shop = Shop.open(settings.load(), Progress(quiet=True))
    version = image.build(shop, role).path
    tree = tools.ensure(Pool(shop.settings.cache_path / "pool"), shop.lock, shop.settings.cache_path)
    with tempfile.TemporaryDirectory(dir=shop.settings.cache_path, prefix="bench-") as name:
        folder = Path(name)
        mount = folder / "mnt"
        mount.mkdir()
        run(["mount", "-t", "erofs", "-o", "ro", version / "root.erofs", mount])
        run(["cp", "--archive", mount, folder / "tree"])
        run(["umount", mount])
        sandbox = Sandbox(tools=tree, writable={folder: "/b"})
        print("| setting | size, MB | write, s | read cold, s | read warm, s |\n| --- | --- | --- | --- | --- |")
        for label, options in CHOICES.items():
            command = ["mkfs.erofs", "--quiet", *options, "-T", "1", "/b/x.img", "/b/tree"]
            measure(sandbox, command, label, folder, "erofs")
        command = [
            "mksquashfs",
            "/b/tree",
            "/b/x.img",
            "-comp",
            "zstd",
            "-Xcompression-level",
            "3",
            "-quiet",
            "-no-progress",
        ]
        measure(sandbox, command, "squashfs zstd 3", folder, "squashfs")
        shutil.rmtree(folder / "tree")
    return 0


def measure(sandbox: Sandbox, command: list[str], label: str, folder: Path, kind: str) -> None:
    """Write one image and read it back; print its row."""
    target, mount = folder / "x.img", folder / "mnt"
    start = time.perf_counter()
    sandbox.run(command, variables=Environment().variables(1))
    written = time.perf_counter() - start
    run(["mount", "-t", kind, "-o", "ro", target, mount], check=True)
    try:
        drop_caches()
        cold = read_all(mount)
        warm = read_all(mount)
    finally:
        run(["umount", mount])
    print(f"| {label} | {target.stat().st_size / 1e6:.0f} | {written:.1f} | {cold:.2f} | {warm:.2f} |", flush=True)
    target.unlink()


if __name__ == "__main__":
    sys.exit(main())
