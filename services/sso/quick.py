"""The question as our nginx sends it, answered without the way through HTTP's parser and the application.

nginx asks before every page, so this is what single sign-on does all day: a tenth of the processor time of the other
way. Only exactly that request is answered here, on a connection of nginx's user with nothing else under way; all else
takes the usual way, which gives the same answer.
"""

from __future__ import annotations

import asyncio
import re

from services.common.access import Access
from services.common.peer import PeerProtocol, credentials
from services.sso.who import Answer, Who

REQUEST = re.compile(rb"GET /v1/whois HTTP/1\.1\r\nHost: sso\r\nX-Real-IP: ([0-9a-f.:]{2,45})\r\n\r\n")


class Counts:
    """How many questions were answered, by whether somebody was known; `quick`: those of them that came this way."""

    def __init__(self) -> None:
        self.known = 0
        self.unknown = 0
        self.quick = 0

    def count(self, answer: Answer) -> None:
        """One more."""
        if answer.login is None:
            self.unknown += 1
        else:
            self.known += 1


class QuickProtocol(PeerProtocol):
    """uvicorn's protocol with that one question answered at once. Subclasses of `quick` have what it needs."""

    who: Who
    access: Access
    counts: Counts

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        peer = None if connection is None else credentials(connection)
        self._nginx = peer is not None and self.access.is_proxy(peer)

    def data_received(self, data: bytes) -> None:
        found = REQUEST.fullmatch(data) if self._nginx and self._idle() else None
        if found is None:
            super().data_received(data)
            return
        self._headers_came()
        answer = self.who.at(found[1].decode())
        self.counts.count(answer)
        self.counts.quick += 1
        self.transport.write(encode(answer))

    def _idle(self) -> bool:
        """Whether no other request of this connection is under way, nor a part of one."""
        return (self.cycle is None or self.cycle.response_complete) and not self.conn.trailing_data[0]


def encode(answer: Answer) -> bytes:
    """The whole answer (RFC 9112). Host names of mdb, logins of udb and hall.toml, and addresses need no escape."""
    user = "" if answer.login is None else f"x-sso-user: {answer.login}\r\n"
    return f"HTTP/1.1 204 No Content\r\n{user}x-sso-status: {answer.status}\r\n\r\n".encode("ascii", "replace")


def quick(who: Who, access: Access, counts: Counts) -> type[QuickProtocol]:
    """The protocol for `services.common.serve`."""
    return type("Quick", (QuickProtocol,), {"who": who, "access": access, "counts": counts})
