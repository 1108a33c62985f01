"""New connections to the world, as the kernel tells them: one event each, with the address and port it got outside.

The kernel's log, nft's `log`, is silent in containers unless the host says otherwise, and NFLOG gives packets: one
that is sent again is told again, and how it was translated is not in it. An event of conntrack comes once a connection,
after its translation (ctnetlink: linux/netfilter/nfnetlink_conntrack.h, nfnetlink.h, netlink(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from services.common.errors import HostError

logger = logging.getLogger(__name__)

NETLINK_NETFILTER = 12
GROUP_NEW = 1  # NFNLGRP_CONNTRACK_NEW
CT_NEW = 1 << 8  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 16 * 1024 * 1024
AT_ONCE = 500
"""Messages that are read before anything else has its turn."""
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*
_ADDRESSES, _PROTOCOL = 1, 2  # of a tuple
_SOURCE, _DESTINATION = 1, 2  # CTA_IP_V4_*
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_TYPE_MASK = 0x3FFF
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 132: "sctp"}


@dataclass(frozen=True)
class Flow:
    """A connection: from, to, and as what it is seen outside. Ports are None where the protocol has none."""

    protocol: str
    source: IPv4Address
    source_port: int | None
    destination: IPv4Address
    destination_port: int | None
    outside: IPv4Address | None = None
    outside_port: int | None = None


def parse(data: bytes) -> Iterator[Flow]:
    """New connections of IPv4 in what was read from the socket; whatever else is in it is passed over."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if length < 16 or length > len(data):
            return
        if kind == CT_NEW and length >= 20 and data[16] == socket.AF_INET:
            flow = _flow(_attributes(data[20:length]))
            if flow is not None:
                yield flow
        data = data[(length + 3) & ~3 :]


def _flow(attributes: dict[int, bytes]) -> Flow | None:
    there = _tuple(attributes.get(_ORIGINAL, b""))
    if there is None:
        return None
    back = _tuple(attributes.get(_REPLY, b""))
    return there if back is None else _with_outside(there, back)


def _with_outside(there: Flow, back: Flow) -> Flow:
    """Answers go to where the connection seems to come from."""
    return Flow(
        there.protocol,
        there.source,
        there.source_port,
        there.destination,
        there.destination_port,
        back.destination,
        back.destination_port,
    )


def _tuple(data: bytes) -> Flow | None:
    parts = _attributes(data)
    addresses, protocol = _attributes(parts.get(_ADDRESSES, b"")), _attributes(parts.get(_PROTOCOL, b""))
    source, destination = addresses.get(_SOURCE), addresses.get(_DESTINATION)
    number = protocol.get(_NUMBER)
    if source is None or destination is None or number is None or not (len(source) == len(destination) == 4):
        return None
    return Flow(
        PROTOCOLS.get(number[0], str(number[0])),
        IPv4Address(source),
        _port(protocol.get(_SOURCE_PORT)),
        IPv4Address(destination),
        _port(protocol.get(_DESTINATION_PORT)),
    )


def _port(data: bytes | None) -> int | None:
    return int.from_bytes(data) if data is not None and len(data) == 2 else None


def _attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type (struct nlattr): length with its head, type, value, up to a multiple of four."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4 or length > len(data):
            break
        found[kind & _TYPE_MASK] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def opened() -> socket.socket:
    """A socket that the kernel tells of new connections. Raises HostError("firewall.events")."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        made.bind((0, 1 << (GROUP_NEW - 1)))
    except OSError as error:
        made.close()
        message = f"the kernel does not tell of connections: {error.strerror}"
        raise HostError("firewall.events", message, hint="it takes CAP_NET_ADMIN") from error
    return made


class Listener:
    """Hands every new connection to `heard`. `lost`: how often the kernel had more to tell than there was room for.

    With `inherited`, a socket of the service manager's: it keeps what comes while the service is away.
    """

    def __init__(self, heard: Callable[[Flow], None], inherited: socket.socket | None = None) -> None:
        self.heard = heard
        self.inherited = inherited
        self.waiting = True
        self.count = 0
        self.lost = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Callable[[], None]]:
        """Have a socket while the block lasts. What it holds is read once what is given has been called; `waiting` is
        true meanwhile.

        Raises HostError("firewall.events").
        """
        loop = asyncio.get_running_loop()
        with self.inherited or opened() as listener:
            listener.setblocking(False)  # noqa: FBT003
            try:
                yield lambda: self._begin(loop, listener)
            finally:
                loop.remove_reader(listener)

    def _begin(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        self._read(listener)
        self.waiting = False
        loop.add_reader(listener, self._read, listener)

    def _read(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                data = listener.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                logger.error("more connections were opened than could be written down; some are missing")
                continue
            for flow in parse(data):
                self.count += 1
                self.heard(flow)
