"""Runs an application under uvicorn, the way systemd wants a service to behave.

Sockets are the service manager's (LISTEN_FDS) or `--listen`'s. READY=1 is sent when they accept and the application has
started; WATCHDOG=1 from the event loop itself, which measures its own lag while doing so; STOPPING=1 when SIGTERM or
SIGINT arrives. Then running requests have until the deadline, streams are told by `stopping(request)`, and the exit
code is 0. A lifespan that raises BacklineError ends the service with that error, as any command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.requests import HTTPConnection

from services.common import log
from services.common.app import Application
from services.common.errors import BusyError, Exit, HostError, UsageError
from services.common.metrics import Metrics
from services.common.notify import Listener, Notifier, inherited_listeners
from services.common.peer import PeerProtocol

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 30
BACKLOG = 512
BEAT_SECONDS = 1.0
HANDSHAKE_SECONDS = 10.0
TLS_LISTENER = "tls"
"""FileDescriptorName= of sockets that speak TLS."""
_STOPPING = "backline.stopping"
_HOST = re.compile(r"\[(?P<six>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]|(?P<name>[A-Za-z0-9._-]+)")


@dataclass(frozen=True)
class UnixAddress:
    """A unix socket by its path."""

    path: Path


@dataclass(frozen=True)
class TcpAddress:
    """A host (name or address, without brackets) and a port; port 0 lets the kernel choose."""

    host: str
    port: int


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """`unix:/path`, `host:port` or `[ipv6]:port`. Raises UsageError("serve.address")."""
    hint = "write unix:/path, host:port or [ipv6]:port"
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute() or "\0" in text or len(os.fsencode(path)) > 107:  # sun_path, unix(7)
            raise UsageError("serve.address", f"{text!r} is not the path of a socket", hint=hint)
        return UnixAddress(path)
    host, _, port = text.rpartition(":")
    found = _HOST.fullmatch(host)
    if not found or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError("serve.address", f"{text!r} is not an address to listen on", hint=hint)
    return TcpAddress(found["six"] or found["name"], int(port))


@contextlib.contextmanager
def listening(addresses: Sequence[Address], *, mode: int = 0o660) -> Iterator[list[Listener]]:
    """Bound and listening sockets for `addresses`; unix sockets get `mode`, and are removed at the end.

    A socket file that nobody answers on is replaced. Raises BusyError("serve.in-use"), HostError("serve.listen").
    """
    with contextlib.ExitStack() as stack:
        listeners = []
        for address in addresses:
            try:
                listener = _unix(address.path, mode) if isinstance(address, UnixAddress) else _tcp(address)
            except OSError as error:
                shown = address.path if isinstance(address, UnixAddress) else f"{address.host}:{address.port}"
                raise HostError("serve.listen", f"cannot listen on {shown}: {error.strerror}") from error
            stack.callback(listener.close)
            if isinstance(address, UnixAddress):
                stack.callback(_remove_own, address.path, address.path.stat().st_ino)
            listeners.append(Listener("listen", listener))
        yield listeners


def _remove_own(path: Path, inode: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:  # not one that somebody has put there since
            path.unlink()


def _unix(path: Path, mode: int) -> socket.socket:
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise HostError("serve.listen", f"{path} exists and is not a socket")
    if path.exists():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise BusyError("serve.in-use", f"another service answers on {path}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _tcp(address: TcpAddress) -> socket.socket:
    family, kind, protocol, _, sockaddr = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


@dataclass(frozen=True)
class Secured:
    """Listeners that speak TLS. Without a context they close every connection: it is not to be left hanging."""

    sockets: Sequence[socket.socket]
    context: ssl.SSLContext | None


class _Closing(asyncio.Protocol):
    """Who connects is turned away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Server(uvicorn.Server):
    """uvicorn's server that reports to the service manager and leaves with exit code 0."""

    def __init__(
        self, config: uvicorn.Config, *, notifier: Notifier, metrics: Metrics, secured: Secured | None = None
    ) -> None:
        super().__init__(config)
        self.secured = secured
        self.notifier = notifier
        self.metrics = metrics
        self.stopping = asyncio.Event()
        self._beats: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state[_STOPPING] = self.stopping
        await super().startup(sockets=sockets)
        if self.started:
            await self._listen_securely()
            self._beats = asyncio.create_task(self._beat())
            self.notifier.send(READY=1, STATUS="serving")

    async def _listen_securely(self) -> None:
        """Serve on the listeners that speak TLS; uvicorn would have all speak it, or none."""
        if self.secured is None:
            return
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            if self.secured is None or self.secured.context is None:
                return _Closing()
            return PeerProtocol(self.config, self.server_state, self.lifespan.state)

        for listener in self.secured.sockets:
            tls = self.secured.context
            seconds = HANDSHAKE_SECONDS if tls is not None else None
            self.servers.append(
                await loop.create_server(
                    protocol, sock=listener, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=seconds
                )
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.notifier.send(STOPPING=1, STATUS="finishing requests")
        self.stopping.set()
        if self._beats is not None:
            await self._beats
        await super().shutdown(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop on the first signal, hurry on the second; unlike uvicorn's, never die by the signal afterwards."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def _beat(self) -> None:
        """Measure how late the event loop wakes us, and tell the watchdog that it did."""
        loop = asyncio.get_running_loop()
        interval = min(BEAT_SECONDS, (self.notifier.watchdog or BEAT_SECONDS * 2) / 2)
        while not self.stopping.is_set():
            due = loop.time() + interval
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self.stopping.wait()
            self.metrics.loop_lag(max(0.0, loop.time() - due))
            if self.notifier.watchdog is not None:
                self.notifier.send(WATCHDOG=1)


def stopping(connection: HTTPConnection) -> asyncio.Event:
    """Set when the service is about to stop: a stream that waits on it ends well instead of being cut off."""
    event = connection.scope.get("state", {}).get(_STOPPING)
    return event if isinstance(event, asyncio.Event) else asyncio.Event()


async def serve_on(
    app: Application,
    listeners: Sequence[Listener],
    notifier: Notifier,
    *,
    grace_seconds: int = GRACE_SECONDS,
    stop: asyncio.Event | None = None,
    tls: ssl.SSLContext | None = None,
    http: type[PeerProtocol] = PeerProtocol,
) -> None:
    """Serve on sockets that are listening already, until a signal, or until `stop` is set.

    Those named `TLS_LISTENER` speak `tls`, or nothing at all without it.

    Raises the BacklineError of the lifespan, or HostError("serve.start").
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=http,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace_seconds,
        backlog=BACKLOG,
    )
    secured = Secured([each.socket for each in listeners if each.name == TLS_LISTENER], tls)
    server = Server(config, notifier=notifier, metrics=app.metrics, secured=secured)

    async def watch(event: asyncio.Event) -> None:
        await event.wait()
        server.should_exit = True

    watching = asyncio.create_task(watch(stop or asyncio.Event()))
    try:
        await server.serve(sockets=[each.socket for each in listeners if each.name != TLS_LISTENER])
    except SystemExit as error:  # how uvicorn says that it did not start
        raise app.startup_error or HostError("serve.start", "the service did not start, see its log") from error
    finally:
        watching.cancel()


def serve(
    app: Application,
    *,
    listen: Sequence[str] = (),
    mode: int = 0o660,
    grace_seconds: int = GRACE_SECONDS,
    tls: ssl.SSLContext | None = None,
    http: type[PeerProtocol] = PeerProtocol,
) -> int:
    """Run `app` until SIGTERM, and return the exit code. What the service manager passed wins over `listen`.

    Raises UsageError("serve.nothing") when there is nothing to listen on.
    """
    log.setup(f"backline-{app.service}")
    notifier = Notifier(os.environ)
    listeners = inherited_listeners(os.environ)
    with contextlib.ExitStack() as stack:
        if not listeners:
            if not listen:
                raise UsageError(
                    "serve.nothing",
                    "there is nothing to listen on",
                    hint="start the .socket unit, or give --listen unix:/path or --listen host:port",
                )
            listeners = stack.enter_context(listening([parse_address(text) for text in listen], mode=mode))
        for each in listeners:
            logger.info("listening on %s (%s)", _shown(each.socket), each.name)
        asyncio.run(serve_on(app, listeners, notifier, grace_seconds=grace_seconds, tls=tls, http=http))
    return int(Exit.OK)


def _shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    return f"unix:{name}"
