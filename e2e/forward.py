"""A port or a service of a node, reachable from the host: a listener on the host's loopback, connections made inside.

The lab's networks have no way to the host: these are the only doors, opened one by one, on 127.0.0.1 alone. Behind the
name of a service is its unix socket: who comes by that door is root there, and everybody on this host may. A door can
be a unix socket as well, in a folder that only root may enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self

from services.common.errors import BacklineError, HostError

if TYPE_CHECKING:
    from e2e.node import Node

_CHUNK = 1 << 16


class Forwarder:
    """One door: to a TCP port, or to the unix socket of a service of ours."""

    def __init__(self, node: Node, door: int | str, server: asyncio.Server) -> None:
        self.node = node
        self.door = door
        self._server = server
        where = server.sockets[0].getsockname()
        self.address = where if isinstance(where, str) else "{}:{}".format(*where)

    def __str__(self) -> str:
        return f"{self.address} → {self.node.name}:{self.door}"

    @classmethod
    async def open(cls, node: Node, door: int | str, *, listen: int = 0, path: Path | None = None) -> Self:
        """Listen on 127.0.0.1, or on a unix socket at `path` for root alone, in the running loop.

        Raises HostError("lan.forward") when the port is taken.
        """

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError, BacklineError, asyncio.IncompleteReadError):
                inner = await asyncio.to_thread(_connect, node, door)
                inner_reader, inner_writer = await asyncio.open_connection(sock=inner)
                with contextlib.closing(inner_writer):
                    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

        try:
            if path is not None:
                return cls(node, door, await asyncio.start_unix_server(serve, path))  # whose folder is root's alone
            server = await asyncio.start_server(serve, "127.0.0.1", listen)
        except OSError as error:
            raise HostError("lan.forward", f"cannot listen on port {listen}: {error.strerror}") from error
        return cls(node, door, server)

    async def close(self) -> None:
        """Stop listening."""
        self._server.close()


def _connect(node: Node, door: int | str) -> socket.socket:
    """To a service's socket; or to a port at the node's own address, or at its loopback while it has none."""
    if isinstance(door, str):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(node.service(door, seconds=5).removeprefix("unix:"))
        except BaseException:
            connection.close()
            raise
        connection.setblocking(False)  # noqa: FBT003
        return connection
    hosts = [*node.addresses[:1], "127.0.0.1"]
    failure: OSError | None = None
    for host in hosts:
        try:
            connection = node.connect((host, door), seconds=5)
        except OSError as error:
            failure = error
        else:
            connection.setblocking(False)  # noqa: FBT003
            return connection
    assert failure is not None
    raise failure


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
