"""Who is on the other end of a connection, and how long it may keep us waiting.

uvicorn shows an application neither the socket nor the kernel's word on the caller. `PeerProtocol` is its HTTP/1.1
protocol with four things added, all at the connection, before the first byte is believed; and answers leave whole
(`Gathering`):

- with TLS, the subject of the certificate that the caller has shown, which OpenSSL has verified: `certificate_of`.
- on a unix socket, the caller's credentials (SO_PEERCRED and SO_PEERGROUPS, unix(7)) become `peer_of(request)`. They
  are the kernel's, taken when the caller connected; no header can change them. On TCP `peer_of` is None.
- a request line and headers that are not there within `HEADER_SECONDS` end the connection.
- more than `MAX_TCP` connections over TCP are refused, so that a flood from the network leaves the unix socket alone.
"""

from __future__ import annotations

import asyncio
import grp
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from starlette.requests import HTTPConnection
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEADER_SECONDS = 10.0
MAX_TCP = 256
GATHERED = 64 * 1024
_KEY = "backline.peer"
_CERTIFICATE = "backline.certificate"
_SHORT = {"commonName": "CN", "organizationalUnitName": "OU"}
_SO_PEERGROUPS = getattr(socket, "SO_PEERGROUPS", 59)  # asm-generic/socket.h, since Linux 4.13


class Peer(msgspec.Struct, frozen=True):
    """The process at the other end of a unix socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]

    def belongs_to(self, *gids: int) -> bool:
        """Is one of `gids` its group, or among its supplementary groups?"""
        return not {self.gid, *self.groups}.isdisjoint(gids)


def peer_of(request: HTTPConnection) -> Peer | None:
    """The caller on a unix socket, or None over TCP."""
    peer = request.scope.get("state", {}).get(_KEY)
    return peer if isinstance(peer, Peer) else None


def certificate_of(request: HTTPConnection) -> str | None:
    """The subject of the caller's certificate, as in `CN=rhfs1,OU=host`; None where our own TLS has seen none."""
    subject = request.scope.get("state", {}).get(_CERTIFICATE)
    return subject if isinstance(subject, str) else None


def subject_text(certificate: Mapping[str, Any] | None) -> str | None:
    """The subject of `ssl.SSLSocket.getpeercert()`, its attributes by their short names where we have one for them."""
    if not certificate:
        return None
    parts = [(key, value) for names in certificate.get("subject", ()) for key, value in names]
    return ",".join(f"{_SHORT.get(key, key)}={value}" for key, value in parts)


def group_ids(names: Sequence[str]) -> list[int]:
    """The ids of those groups that exist; looked up each time, as groups come and go with the directory."""
    ids = []
    for name in names:
        try:
            ids.append(grp.getgrnam(name).gr_gid)
        except KeyError:
            continue
    return ids


def credentials(connection: socket.socket) -> Peer | None:
    """The kernel's word on the other end of a connected socket; None when it is not a unix socket."""
    if connection.family != socket.AF_UNIX:
        return None
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # Python allows no more: 256 groups
    except OSError:  # more groups than that: claim none
        raw = b""
    return Peer(pid, uid, gid, struct.unpack(f"{len(raw) // 4}I", raw))


class Gathering:
    """A transport that sends what is written in one turn of the event loop as one, in one system call.

    uvicorn writes the head and the body of an answer one after the other; each call costs a short answer as much as all
    of its parsing. What is written is never held for longer than the turn, nor more of it than `GATHERED` bytes.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` at the end of the turn, after what was written before."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._size += len(data)
        if self._size >= GATHERED:
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        data, self._held, self._size = b"".join(self._held), [], 0
        if data:
            self._transport.write(data)

    def close(self) -> None:
        """Close after what is held."""
        self.flush()
        self._transport.close()


class PeerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with credentials, a deadline for headers and a limit for TCP. One instance a connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._late: asyncio.TimerHandle | None = None
        self._over_tcp = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", Gathering(transport, self.loop))
        connection = transport.get_extra_info("socket")
        peer = None if connection is None else credentials(connection)
        tls = transport.get_extra_info("ssl_object")
        subject = None if tls is None else subject_text(tls.getpeercert())
        # uvicorn copies app_state into the scope of each request: a copy of our own is this connection's state.
        self.app_state = {**self.app_state, _KEY: peer, _CERTIFICATE: subject}
        self._over_tcp = peer is None
        others = (other for other in self.connections if isinstance(other, PeerProtocol) and other is not self)
        if self._over_tcp and sum(other._over_tcp for other in others) >= MAX_TCP:
            transport.abort()
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._headers_came()
        elif self._late is None and not self.transport.is_closing():
            self._expect_headers()

    def _expect_headers(self) -> None:
        self._late = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _headers_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
