"""What machines ask gw, asked from inside a lab: DHCP by a frame on a switch, DNS from a node's network."""

from __future__ import annotations

import time
from ipaddress import IPv4Address

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from e2e.lab import Lab
from e2e.node import Node

GW = "192.168.1.254"
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER = bytes([53, 1, 1, 255])


def discover(mac: str) -> bytes:
    """A DHCPDISCOVER as a broadcast frame (RFC 2131), with the checksums that a server may look at."""
    raw = bytes.fromhex(mac.replace(":", ""))
    bootp = bytes([1, 1, 6, 0]) + raw[-4:] + bytes(2) + b"\x80\x00" + bytes(16) + raw + bytes(202)
    data = bootp + _COOKIE + _DISCOVER
    udp = (68).to_bytes(2) + (67).to_bytes(2) + (len(data) + 8).to_bytes(2) + bytes(2) + data
    head = bytes([0x45, 0]) + (len(udp) + 20).to_bytes(2) + bytes(4) + bytes([64, 17, 0, 0]) + bytes(4) + b"\xff" * 4
    total = sum(int.from_bytes(head[n : n + 2]) for n in range(0, 20, 2))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + checksum.to_bytes(2) + head[12:]
    return b"\xff" * 6 + raw + b"\x08\x00" + head + udp


def offer(lab: Lab, segment: str, mac: str, *, seconds: float = 3.0) -> IPv4Address | None:
    """The address that somebody on that segment offers to a card; None when nobody does in time.

    It asks again, as every client does: Kea hears nothing in the moment in which it takes a configuration.
    """
    raw = bytes.fromhex(mac.replace(":", ""))
    deadline = time.monotonic() + seconds
    with lab.network.listen(segment, seconds=0.5) as ear:
        asked = 0.0
        while (now := time.monotonic()) < deadline:
            if now - asked > 0.5:
                lab.network.inject(segment, discover(mac))
                asked = now
            try:
                frame = ear.recv(2048)
            except TimeoutError:
                continue
            if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[34:36] != (67).to_bytes(2):
                continue
            bootp = frame[42:]
            if bootp[28:34] == raw:
                return IPv4Address(bootp[16:20])
    return None


def resolve(
    lab: Lab, node: Node, name: str, kind: str = "A", *, server: str = GW, source: str | None = None
) -> list[str] | None:
    """What gw's BIND answers a node, sorted; None for no answer or a refusal, an empty list for no such name."""
    question = dns.message.make_query(name, kind)

    def ask() -> dns.message.Message:
        return dns.query.udp(question, server, timeout=2, source=source)

    try:
        answer = lab.sandbox.in_network(ask, netns=node.netns)
    except (dns.exception.DNSException, OSError):
        return None
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return None
    wanted = dns.rdatatype.from_text(kind)
    return sorted(item.to_text() for each in answer.answer if each.rdtype == wanted for item in each)
