"""Bytes that an update of a role moves to one receiver: by the depot's deltas, by rsync, and by casync.

Every way ends with the new version's content on the receiver, compared with it; every byte is counted where it leaves:
answers of a web server with their headers, manifests and descriptions of deltas included, and rsync's own count of both
directions. All begin with the old version in place. What is compared is what a machine boots and runs from.

- ours: the depot's own folder and deltas, pulled by the very code of a root file server
- rsync: the tree as a tree (`rsync -aHAXz --delete` from an rsync daemon), and kernel and initrd beside it
- casync: each file of the version as an image, chunks by HTTP, the file before it as the seed
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from builder.store import Store
from services.common import manifest as manifests
from services.common import patching, signing
from services.common import statement as statements
from services.common.process import run, running, spawn
from services.common.signing import Signer
from services.common.statement import Publication, Statement
from services.common.versions import Ref
from services.depot.deltas import Deltas
from services.depot.files import Files, served
from services.roots.held import Folder
from services.roots.pull import Pull
from services.roots.remote import Depot

HALL = "bench"
LIMIT = patching.LARGEST


@dataclass
class Served:
    """A web server: its address, and what it has sent."""

    url: str
    sent: int = 0


class Counted:
    """A connection that adds up what is written to it."""

    def __init__(self, connection: Any, state: Served) -> None:
        self.connection = connection
        self.state = state

    def write(self, data: bytes) -> int:
        """Send it, and count."""
        self.state.sent += len(data)
        return int(self.connection.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


@contextlib.contextmanager
def web_server(root: Path) -> Iterator[Served]:
    """A server of the files below `root` that counts what it sends, headers too."""
    state = Served("")

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.wfile = Counted(self.wfile, state)  # type: ignore[assignment]

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, name="web server")
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# Ours


class Ours:
    """A depot's folder and a root file server's in `scratch`, with a signer of their own."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.store = store
        self.files = Files(scratch / "depot")
        self.files.prepare()
        self.deltas = Deltas(self.files, count=1, limit=LIMIT)
        self.held = Folder(scratch / "held")
        self.held.prepare()
        self.key = scratch / "signer"
        signing.new_key(self.key, comment="bench")
        self.signers = [Signer("bench", signing.read_public(self.key))]
        self.sequence = 0

    def bring(self, ref: Ref) -> float:
        """Put a version into the depot; seconds that its deltas took."""
        folder = self.store.find(ref.role, ref.version)
        data = (folder / manifests.NAME).read_bytes()
        for name in self.files.begin(ref, data, {}) or {}:
            target = self.files.root / "incoming" / ref.role / ref.version / name
            os.link(folder / name, target)
        whole = self.files.complete(ref)
        began = time.monotonic()
        for job in self.deltas.missing(whole):
            self.deltas.make(job)
        return time.monotonic() - began

    def forget(self, ref: Ref) -> None:
        """Take a version out of the depot and off the receiver."""
        self.files.remove(ref)
        self.held.remove(ref)

    def publication(self, ref: Ref) -> Publication:
        """A statement of its own about a version."""
        self.sequence += 1
        said = Statement(
            channel="bench",
            sequence=self.sequence,
            role=ref.role,
            version=ref.version,
            manifest_sha256=manifests.hash_file(self.files.path(ref, manifests.NAME)).sha256,
            published_at=statements.now(),
            by="bench",
            hall=HALL,
        )
        text = statements.encode(said)
        signature = signing.sign(text, self.key, statements.NAMESPACE).decode()
        return Publication(id=self.sequence, statement=text.decode(), signatures=[signature])

    def pull(self, ref: Ref) -> int:
        """Bytes that a receiver is sent until it holds a version, which it has compared and put on its disk."""
        with web_server(self.files.root) as server, Depot(server.url) as depot:
            bases = self.held.refs()
            Pull(self.held, depot, self.publication(ref), signers=self.signers, bases=bases, delta_bytes=LIMIT).run()
            return server.sent


def peak(argv: list[str | Path]) -> float:
    """Run a program to its end: MB of memory of its own at most (proc(5), RssAnon), looked at all the time."""
    most = 0
    with subprocess.Popen(argv) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError, StopIteration):
                text = Path(f"/proc/{process.pid}/status").read_text()
                most = max(
                    most, int(next(line.split()[1] for line in text.splitlines() if line.startswith("RssAnon:")))
                )
            time.sleep(0.002)
    if process.returncode != 0:
        raise SystemExit(f"{argv[0]} has failed")
    return most / 1024


def memory(old: Path, new: Path, scratch: Path) -> dict[str, float]:
    """MB that making and applying a delta between two files takes at most, by ours and by zstd(1)."""
    delta, made = scratch / "memory.zst", scratch / "memory"
    zstd: list[str | Path] = ["zstd", "--quiet", "--force", f"--patch-from={old}"]
    found = {
        "make": peak(patching.command("make", old, new, delta)),
        "apply": peak(patching.command("apply", old, delta, str(new.stat().st_size), made)),
        "make, zstd(1)": peak([*zstd, "-3", "--single-thread", new, "-o", delta]),
        "apply, zstd(1)": peak([*zstd, "-d", "--long=31", delta, "-o", made]),
    }
    delta.unlink()
    made.unlink()
    return found


# rsync


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """The tree in a root.erofs."""
    place.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "erofs", "-o", "ro,loop", image, place])
    try:
        yield place
    finally:
        run(["umount", place])


def copy_tree(store: Store, ref: Ref, target: Path) -> None:
    """A version as a plain tree, which is what is kept up to date where there are no images; with its kernel."""
    (target / "root").mkdir(parents=True)
    (target / "boot").mkdir()
    folder = store.find(ref.role, ref.version)
    with mounted(folder / "root.erofs", target / "mount") as tree:
        run(["cp", "-a", f"{tree}/.", target / "root"])
    for name in ("vmlinuz", "initrd"):
        if (folder / name).exists():
            shutil.copy2(folder / name, target / "boot" / name)


@contextlib.contextmanager
def rsync_daemon(modules: dict[str, Path], scratch: Path) -> Iterator[str]:
    """A daemon that gives these folders: rsync://..."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = scratch / "rsyncd.conf"
    text = "uid = root\ngid = root\nuse chroot = no\nread only = yes\n"
    text += "".join(f"[{name}]\npath = {path}\n" for name, path in modules.items())
    file.write_text(text)
    argv = ["rsync", "--daemon", "--no-detach", f"--config={file}", f"--port={port}", "--address=127.0.0.1"]
    with running(spawn(argv)):
        address = f"rsync://127.0.0.1:{port}"
        deadline = time.monotonic() + 10
        while run(["rsync", f"{address}/"], check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise SystemExit("the rsync daemon does not answer")
            time.sleep(0.05)
        yield address


_MOVED = re.compile(r"Total bytes (?:sent|received): ([\d,]+)")
_RSYNC = ["rsync", "-aHAX", "--numeric-ids", "--delete"]


def moved(text: str) -> int:
    """Bytes of both directions, as `--stats` has them."""
    return sum(int(each.replace(",", "")) for each in _MOVED.findall(text))


def rsync(store: Store, new: Ref, tree: Path, scratch: Path) -> int:
    """Bytes, both ways, that make `tree`, a copy of an older version, one of `new`."""
    folder = store.find(new.role, new.version)
    boot = scratch / "boot"
    boot.mkdir(exist_ok=True)
    for name in ("vmlinuz", "initrd"):
        if (folder / name).exists():
            shutil.copy2(folder / name, boot / name)
    total = 0
    with mounted(folder / "root.erofs", scratch / "new") as root:
        with rsync_daemon({"root": root, "boot": boot}, scratch) as address:
            for name in ("root", "boot"):
                # --no-W: by deltas, as between two hosts; -z as one does it over a network.
                words = [*_RSYNC, "-z", "--no-W", "--stats", f"{address}/{name}/", f"{tree / name}/"]
                total += moved(run(words).stdout)
        left = run([*_RSYNC, "--dry-run", "--checksum", "--itemize-changes", f"{root}/", f"{tree / 'root'}/"]).stdout
    if left.strip():
        raise SystemExit(f"rsync has left differences:\n{left[:2000]}")
    run(["sync", "--file-system", tree])
    return total


# casync


def casync_make(files: dict[str, Path], store: Path) -> None:
    """Cut files into chunks."""
    for name, path in files.items():
        run(["casync", "make", f"--store={store}/chunks", store / f"{name}.caibx", path])


def casync(files: dict[str, Path], seeds: dict[str, Path], store: Path, scratch: Path) -> int:
    """Bytes that a receiver is sent which has `seeds` and wants `files`, that are in `store`."""
    with web_server(store) as server:
        for name, path in files.items():
            made = scratch / f"{name}.out"
            words: list[str | Path] = ["casync", "extract", f"--store={server.url}/chunks"]
            words += [f"--seed={seeds[name]}"] if name in seeds else []
            run([*words, f"{server.url}/{name}.caibx", made])
            if not filecmp.cmp(path, made, shallow=False):
                raise SystemExit(f"casync has made something else of {name}")
            made.unlink()
        return server.sent


def files_of(store: Store, ref: Ref) -> dict[str, Path]:
    """What a machine boots and runs from."""
    folder = store.find(ref.role, ref.version)
    return {name: folder / name for name in served(store.manifest(ref.role, ref.version))}
