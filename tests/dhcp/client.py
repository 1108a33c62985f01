"""A DHCP client that says what it is told to say, over a raw socket, as firmware does: it has no address yet.

Frames go out on one network interface with any MAC address, and what comes back for a question is parsed (RFC 2131,
RFC 2132). Option 77 and 175 as iPXE sends them, 60 and 93 as firmware does (captured from OVMF and iPXE).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK = 1, 2, 3, 4, 5, 6
Options = Mapping[int, bytes]
_WANTED = bytes([1, 3, 6, 12, 15, 42, 43, 60, 66, 67, 119, 175])
_NONE = IPv4Address(0)
_COOKIE = b"\x63\x82\x53\x63"
_transactions = itertools.count(0x5EA70000)

LINUX: Options = {55: _WANTED}
BIOS: Options = {55: _WANTED, 60: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0", 94: b"\1\2\1", 97: bytes(17)}
UEFI: Options = {55: _WANTED, 60: b"PXEClient:Arch:00007:UNDI:003016", 93: b"\0\7", 94: b"\1\3\x10", 97: bytes(17)}
UEFI_9: Options = {**UEFI, 60: b"PXEClient:Arch:00009:UNDI:003016", 93: b"\0\x09"}
# EDK 2 asks for neither 60 nor 67 by name in every version: what it must get is sent all the same.
HTTP: Options = {55: bytes([1, 3, 6, 12]), 60: b"HTTPClient:Arch:00016:UNDI:003001", 93: b"\0\x10", 94: b"\1\3\1"}
# What they can do: HTTP (19), and of Debian's of 2025 HTTPS (20), beside DNS (23) and so on.
OLD_ROM: Options = {**BIOS, 77: b"iPXE", 175: b"\x13\1\1\x17\1\1\x21\1\1"}
OLD_UEFI_ROM: Options = {**UEFI, 77: b"iPXE", 175: b"\x13\1\1\x17\1\1"}
DEBIAN_BIOS: Options = {**BIOS, 77: b"iPXE", 175: b"\x13\1\1\x14\1\1\x17\1\1"}
DEBIAN_UEFI: Options = {**UEFI, 77: b"iPXE", 175: b"\x13\1\1\x14\1\1\x17\1\1"}
OURS: Options = {**UEFI, 77: b"backline", 175: b"\x13\1\1\x17\1\1"}


@dataclass(frozen=True)
class Answer:
    """What came back; `file` and `next_server` are of the header, the rest options."""

    kind: int
    address: IPv4Address
    next_server: IPv4Address
    file: str
    options: dict[int, bytes]

    def addresses(self, code: int) -> list[str]:
        data = self.options.get(code, b"")
        return [str(IPv4Address(data[at : at + 4])) for at in range(0, len(data), 4)]

    def text(self, code: int) -> str:
        return self.options.get(code, b"").rstrip(b"\0").decode()

    @property
    def seconds(self) -> int:
        return int.from_bytes(self.options[51], "big")


class Wire:
    """One network interface, for raw frames."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.socket.bind((interface, 0))
        # Answers go to MAC addresses that are not the interface's: packet(7), PACKET_MR_PROMISC.
        number = socket.if_nametoindex(interface)
        self.socket.setsockopt(263, 1, struct.pack("iHH8s", number, 1, 0, b""))

    def ask(
        self, mac: str, kind: int, options: Options, *, seconds: float = 3.0, **fields: IPv4Address
    ) -> Answer | None:
        """The first answer to a question, asked again each half second; None when none comes."""
        transaction = next(_transactions)
        frame = _frame(mac, transaction, kind, options, **fields)
        deadline = time.monotonic() + seconds
        while (now := time.monotonic()) < deadline:
            self.socket.send(frame)
            until = min(deadline, now + 0.5)
            while (left := until - time.monotonic()) > 0:
                self.socket.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    if (answer := _parse(self.socket.recv(65535), transaction)) is not None:
                        return answer
        return None

    def discover(self, mac: str, options: Options = LINUX, *, seconds: float = 3.0) -> Answer | None:
        """What is offered."""
        return self.ask(mac, DISCOVER, options, seconds=seconds)

    def count(self, mac: str, options: Options, *, seconds: float = 1.0) -> int:
        """How many answers one question gets within a time."""
        transaction = next(_transactions)
        self.socket.send(_frame(mac, transaction, DISCOVER, options))
        deadline = time.monotonic() + seconds
        found = 0
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                found += _parse(self.socket.recv(65535), transaction) is not None
        return found

    def lease(self, mac: str, options: Options = LINUX) -> Answer:
        """What a client gets that takes what it is offered."""
        offered = self.discover(mac, options)
        assert offered is not None, f"nothing is offered to {mac}"
        chosen = {**options, 50: offered.address.packed, 54: offered.options[54]}
        given = self.ask(mac, REQUEST, chosen)
        assert given is not None, f"{mac} gets no answer"
        assert given.kind == ACK, f"{mac} gets no lease"
        return given

    def remember(self, mac: str, address: str) -> Answer | None:
        """What a client is told that asks for the address that it had before its restart (INIT-REBOOT)."""
        return self.ask(mac, REQUEST, {**LINUX, 50: IPv4Address(address).packed})

    def renew(self, mac: str, address: str) -> Answer | None:
        """What a client is told that has an address and wants to keep it (rebinding)."""
        return self.ask(mac, REQUEST, LINUX, client=IPv4Address(address))

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def wire(interface: str) -> Iterator[Wire]:
    """A wire for a block."""
    opened = Wire(interface)
    try:
        yield opened
    finally:
        opened.close()


def _frame(mac: str, transaction: int, kind: int, options: Options, *, client: IPv4Address = _NONE) -> bytes:
    hardware = bytes.fromhex(mac.replace(":", ""))
    broadcast = 0x8000 if int(client) == 0 else 0
    body = struct.pack("!4BIHH", 1, 1, 6, 0, transaction, 0, broadcast)
    body += client.packed + bytes(12) + hardware + bytes(10 + 64 + 128) + _COOKIE + bytes([53, 1, kind])
    body += b"".join(bytes([code, len(data)]) + data for code, data in sorted(options.items())) + b"\xff"
    body += bytes(max(0, 300 - len(body)))
    udp = struct.pack("!4H", 68, 67, 8 + len(body), 0) + body
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, client.packed, b"\xff" * 4)
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return b"\xff" * 6 + hardware + b"\x08\x00" + header + udp


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _parse(frame: bytes, transaction: int) -> Answer | None:
    """A DHCP answer to `transaction`, or None for any other frame."""
    packet = frame[14:]
    if len(packet) < 28 or packet[9] != 17:
        return None
    udp = packet[(packet[0] & 15) * 4 :]
    body = udp[8:]
    if udp[0:4] != struct.pack("!2H", 67, 68) or len(body) < 240 or body[0] != 2:
        return None
    if body[4:8] != transaction.to_bytes(4, "big") or body[236:240] != _COOKIE:
        return None
    options: dict[int, bytes] = {}
    rest = body[240:]
    while rest and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        code, length = rest[0], rest[1]
        options[code] = options.get(code, b"") + rest[2 : 2 + length]
        rest = rest[2 + length :]
    file = body[108:236].rstrip(b"\0").decode()
    return Answer(options[53][0], IPv4Address(body[16:20]), IPv4Address(body[20:24]), file, options)
