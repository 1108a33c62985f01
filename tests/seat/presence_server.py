"""A server that answers seats as presence does, over TLS: for tests of a seat's parts alone."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from services.hall import ca
from services.hall.certificates import Authority
from services.seat.presence import Presence

TOKEN = "t0ken"
PASSWORD = "correct horse"


class PresenceServer:
    """Knows one password; `refusal` is its answer instead, `status` a failure."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refusal: dict[str, Any] | None = None
        self.status = 200
        self.failures = 0
        """How many requests are still answered with 503."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, body))
                status, answer = outer.answer(self.headers["Authorization"], self.path, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                """Not on the terminal."""

        key, certificate = ca.make("lab", "prolo", passphrase=None)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(certificate)
        authority = Authority.open(key, certificate)
        address = IPv4Address("127.0.0.1")
        allowed = any(address in IPv4Network(network) for network in authority.networks())
        served = folder / "served.pem"
        served.write_bytes(authority.issue("gw", names=["gw.prolo"], addresses=[address] if allowed else []))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(served)
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def answer(self, token: str | None, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if token != f"Bearer {TOKEN}":
            return 401, {"detail": "this token is not from this hall"}
        if self.failures > 0:
            self.failures -= 1
            return 503, {"detail": "the service does not answer"}
        if self.status != 200:
            return self.status, {"detail": "no"}
        if path == "/v1/logout":
            return 200, {}
        if self.refusal is not None:
            return 200, {"allowed": False, **self.refusal}
        if body["stage"] == "auth" and body["password"] != PASSWORD:
            return 200, {"allowed": False, "reason": "password", "message": "the password is wrong"}
        return 200, {"allowed": True, "reason": "", "message": "", "group": "user", "uid": 10001}

    def presence(self, *, token: str = TOKEN, name: str = "gw.prolo") -> Presence:
        """As a seat has it."""
        return Presence(f"https://{name}:{self.server.server_port}", token, self.ca)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
