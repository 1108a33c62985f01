"""A port of a node, reachable from the host: a listener on the host's loopback, connections made inside the node's
network.

The lab's networks have no way to the host: this is the one door, opened per port, on 127.0.0.1 alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Self

from services.common.errors import BacklineError, HostError

if TYPE_CHECKING:
    from e2e.node import Node

_CHUNK = 1 << 16


class Forwarder:
    """One forwarded port."""

    def __init__(self, node: Node, port: int, server: asyncio.Server) -> None:
        self.node = node
        self.port = port
        self._server = server
        self.address = "{}:{}".format(*server.sockets[0].getsockname())

    def __str__(self) -> str:
        return f"{self.address} → {self.node.name}:{self.port}"

    @classmethod
    async def open(cls, node: Node, port: int, *, listen: int = 0) -> Self:
        """Listen on 127.0.0.1, in the running loop. Raises HostError("lan.forward") when the port is taken."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError, BacklineError, asyncio.IncompleteReadError):
                inner = await asyncio.to_thread(_connect, node, port)
                inner_reader, inner_writer = await asyncio.open_connection(sock=inner)
                with contextlib.closing(inner_writer):
                    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

        try:
            server = await asyncio.start_server(serve, "127.0.0.1", listen)
        except OSError as error:
            raise HostError("lan.forward", f"cannot listen on port {listen}: {error.strerror}") from error
        return cls(node, port, server)

    async def close(self) -> None:
        """Stop listening."""
        self._server.close()


def _connect(node: Node, port: int) -> socket.socket:
    """To the node's own address, or its loopback while it has none."""
    hosts = [*node.addresses[:1], "127.0.0.1"]
    failure: OSError | None = None
    for host in hosts:
        try:
            connection = node.connect((host, port), seconds=5)
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
