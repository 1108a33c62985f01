"""A mirror on loopback that serves what a test gives it, and fails as a test says."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """Files by path, faults, and the requests that came, as (path, Range header)."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    """Whether it knows the Range header."""
    lengths: bool = True
    """Whether it says how long a file is."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which it closes the connection, one for each of the next requests."""
    status: int = 200
    """What it answers to everything."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        """Its base address, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def serve(mirror: Mirror) -> Iterator[Mirror]:
    """Serve `mirror` for a block."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None: ...

        def do_GET(self) -> None:
            path, wanted = self.path.lstrip("/"), self.headers.get("Range", "")
            mirror.requests.append((path, wanted))
            if mirror.status != 200:
                self.send_error(mirror.status)
                return
            if path not in mirror.files:
                self.send_error(404)
                return
            data = mirror.files[path]
            start = re.fullmatch(r"bytes=(\d+)-", wanted) if mirror.ranges else None
            if start and int(start[1]) >= len(data):
                self.send_error(416)
                return
            begin = int(start[1]) if start else 0
            self.send_response(206 if start else 200)
            if mirror.lengths:
                self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            cut = mirror.cuts.pop(0) if mirror.cuts else len(data)
            with contextlib.suppress(ConnectionError):  # who has enough hangs up
                self.wfile.write(data[begin : begin + cut])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    mirror.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
