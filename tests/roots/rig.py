"""A depot's HTTP as the contract has it (a real server over real files), small real versions, and a signer's key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from services.common import manifest as manifests
from services.common import signing
from services.common import statement as statements
from services.common.signing import Signer
from services.common.statement import Publication, Statement
from services.common.versions import Ref
from services.roots.held import Folder
from services.roots.pull import Pull
from services.roots.remote import Depot
from tests.builder.stock import stage

SIZE = 2_000_000
HALL = "pasteur"


def noise(seed: int, size: int = SIZE) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return hashlib.shake_256(str(seed).encode()).digest(size)


@dataclass
class DepotServer:
    """A depot over the files in `root`. What a test sets is done to whoever asks from then on."""

    root: Path
    cut: int | None = None
    """Every answer ends after so many bytes of its body, with the connection."""
    change: Callable[[str, bytes], bytes] = lambda _, content: content
    """What becomes of a file's bytes on their way."""
    requests: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    """From which byte on files were asked for, when not from the first."""
    progress: list[dict[str, object]] = field(default_factory=list)
    before: Callable[[str], None] = lambda _: None
    url: str = ""

    def paths(self, pattern: str) -> list[str]:
        """The requests whose path matches."""
        return [path for path in self.requests if re.search(pattern, path)]


@contextlib.contextmanager
def depot_server(root: Path) -> Iterator[DepotServer]:
    """A running one."""
    state = DepotServer(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append(self.path)
            state.before(self.path)
            path = state.root / self.path.partition("?")[0].lstrip("/")
            if not path.is_file():
                self.answer(404, b"{}")
                return
            content = state.change(self.path, path.read_bytes())
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if start is None:
                self.answer(200, content)
                return
            offset = int(start[1])
            state.offsets.append(offset)
            self.answer(206, content[offset:], ("Content-Range", f"bytes {offset}-{len(content) - 1}/{len(content)}"))

        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.progress.append({"path": self.path, **body})
            self.answer(200, b"{}")

        def answer(self, status: int, content: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in (("Content-Length", str(len(content))), *headers):
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET" and state.cut is not None and len(content) > state.cut:
                content = content[: state.cut]
                self.close_connection = True
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Hall:
    """A depot, who signs for it, and the folder of a root file server."""

    place: Path
    server: DepotServer
    key: Path
    signer: Signer
    count: int = 0

    @property
    def held(self) -> Folder:
        """The root file server's folder, ready."""
        folder = Folder(self.place / "roots")
        folder.prepare()
        return folder

    @property
    def signers(self) -> Path:
        """An allowed_signers file."""
        path = self.place / "allowed_signers"
        if not path.exists():
            signing.write_signers(path, [self.signer])
        return path

    def version(self, *, root: bytes | None = None, role: str = "nfsroot", date: str = "20260131") -> Ref:
        """A version in the depot; each has its own id."""
        self.count += 1
        folder = self.place / f"made-{self.count}"
        recipe = {"settings": {"role": role, "number": f"{self.place.name} {self.count}"}}
        ref = stage(folder, role=role, date=date, recipe=recipe, root=root or noise(self.count), kernel="6.12")
        target = self.server.root / "files/images" / role
        target.mkdir(parents=True, exist_ok=True)
        folder.rename(target / ref.version)
        return ref

    def file(self, ref: Ref, name: str) -> Path:
        """A file of a version in the depot."""
        return self.server.root / "files/images" / ref.role / ref.version / name

    def delta(self, ref: Ref, base: Ref, name: str = "root.erofs") -> Path:
        """Have the depot offer a delta of a file; returns it."""
        folder = self.server.root / "files/deltas" / ref.role / ref.version / base.version
        folder.mkdir(parents=True, exist_ok=True)
        made = folder / f"{name}.zst"
        argv: list[str | Path] = [
            "zstd",
            "-q",
            "-f",
            "--long=31",
            f"--patch-from={self.file(base, name)}",
            self.file(ref, name),
            "-o",
            made,
        ]
        subprocess.run(argv, check=True)
        content = made.read_bytes()
        about = {
            "role": ref.role,
            "version": ref.version,
            "from_version": base.version,
            "name": name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "result_bytes": self.file(ref, name).stat().st_size,
            "result_sha256": manifests.hash_file(self.file(ref, name)).sha256,
            "from_sha256": manifests.hash_file(self.file(base, name)).sha256,
        }
        (folder / f"{name}.json").write_text(json.dumps(about))
        return made

    def publication(
        self,
        ref: Ref,
        *,
        id: int = 1,
        sequence: int = 1,
        channel: str = "stable",
        key: Path | None = None,
        **more: object,
    ) -> Publication:
        """A signed publication of a version of the depot."""
        statement = Statement(
            channel=channel,
            sequence=sequence,
            role=ref.role,
            version=ref.version,
            manifest_sha256=manifests.hash_file(self.file(ref, manifests.NAME)).sha256,
            published_at="2026-01-31T12:00:00Z",
            by="alice",
            hall=HALL,
        )
        text = statements.encode(statement)
        signature = signing.sign(text, key or self.key, statements.NAMESPACE).decode()
        to = more.get("to", [])
        assert isinstance(to, list)
        return Publication(id=id, statement=text.decode(), signatures=[signature], to=to)

    def pull(self, publication: Publication, *, bases: list[Ref] | None = None, folder: Folder | None = None) -> Pull:
        """Pull it, to the end."""
        with Depot(self.server.url) as depot:
            pull = Pull(
                folder or self.held,
                depot,
                publication,
                signers=[self.signer],
                bases=bases or [],
                pause=lambda _: None,
            )
            pull.run()
        return pull


@contextlib.contextmanager
def hall(place: Path) -> Iterator[Hall]:
    """A depot with nothing in it yet."""
    key = place / "signer"
    public = signing.new_key(key, comment="alice")
    (place / "depot").mkdir()
    with depot_server(place / "depot") as server:
        yield Hall(place, server, key, Signer("alice", public))


def same(hall: Hall, folder: Folder, ref: Ref) -> bool:
    """Whether a version is held, with the depot's bytes."""
    names = ("manifest.json", "root.erofs", "root.verity", "vmlinuz", "initrd")
    place = folder.place_of(ref)
    return all((place / name).read_bytes() == hall.file(ref, name).read_bytes() for name in names)
