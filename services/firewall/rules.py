"""The rules as nft(8) reads them. Pure.

What decides is where a connection came from (`ct original ip saddr`), and it decides for each packet, in both
directions: who is taken out of a set loses what he had open in the very transaction that changes the set. Nothing else
has to be found and cut. TCP is told with a reset, so that programs notice.

A connection that may be opened to the world asks conntrack for an event (`ct event set new`); `services.firewall.flows`
writes those down. Connections to gw itself make none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from services.common.addresses import Range
from services.firewall.plan import Bounds, Sets
from services.firewall.schema import Settings

TABLE = "inet backline"
SETS = ("seats", "always")
COUNTERS = ("out", "cut", "refused", "paced", "spoofed")
"""Packets that passed, that belonged to connections whose machine may not any more, that would have opened one without
being allowed to or too fast, and that came from where their source address cannot be.
"""


def swap(before: Sets, after: Sets) -> str:
    """From the addresses of `before` to those of `after`, and nothing else; one transaction.

    The kernel refuses it when `before` is not what it has. Only what differs is told: a thousand addresses cost ten
    times as much as one.
    """
    return "".join(f"{line}\n" for line in _swap(before, after))


def _swap(before: Sets, after: Sets) -> Iterator[str]:
    for name in SETS:
        old: frozenset[IPv4Address] = getattr(before, name)
        new: frozenset[IPv4Address] = getattr(after, name)
        for verb, addresses in (("delete", old - new), ("add", new - old)):
            if addresses:
                yield f"{verb} element {TABLE} {name} {{ {_list(sorted(addresses))} }}"


def whole(settings: Settings, bounds: Bounds, sets: Sets) -> str:
    """The table from nothing, in place of one that is there; one transaction."""
    pace = f"{settings.new_per_second}/second burst {settings.new_at_once} packets"
    spoofed = ["ip saddr @hall fib saddr . iif oif 0 counter name spoofed drop"] if settings.strict_sources else []
    lines = [
        f"add table {TABLE}",
        f"delete table {TABLE}",
        f"table {TABLE} {{",
        *(f"    counter {name} {{ }}" for name in COUNTERS),
        *_set("hall", bounds.networks, interval=True),
        *_set("servers", bounds.servers, interval=True),
        *_set("seats", sorted(sets.seats)),
        *_set("always", sorted(sets.always)),
        "    set pace {",
        "        type ipv4_addr",
        "        flags dynamic",
        "        size 65535",
        "        timeout 1m",
        "    }",
        *_chain(
            "forward",
            "type filter hook forward priority filter; policy drop;",
            *spoofed,
            "ct state invalid drop",
            "ct state established,related ct original ip saddr @seats counter name out accept",
            "ct state established,related ct original ip saddr @always counter name out accept",
            "ct state established,related ct original ip saddr @servers counter name out accept",
            "ct state established,related counter name cut jump cut",
            "ip saddr @hall ct state new jump opening",
        ),
        *_chain("cut", "meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"),
        *_chain(
            "opening",
            "ip saddr @servers goto pass",
            "ip saddr @always goto pass",
            "ip saddr @seats ip daddr != @hall goto slowly",
            "counter name refused reject with icmpx admin-prohibited",
        ),
        *_chain("slowly", f"update @pace {{ ip saddr limit rate over {pace} }} counter name paced drop", "goto pass"),
        *_chain("pass", "ip daddr != @hall ct event set new", "counter name out accept"),
        *_chain(
            "postrouting",
            "type nat hook postrouting priority srcnat; policy accept;",
            "ip saddr @hall ip daddr != @hall masquerade",
        ),
        "}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _set(name: str, elements: Iterable[IPv4Address | IPv4Network | Range], *, interval: bool = False) -> Iterator[str]:
    listed = _list(elements)
    yield f"    set {name} {{"
    yield "        type ipv4_addr"
    if interval:
        yield "        flags interval"
        yield "        auto-merge"
    if listed:
        yield f"        elements = {{ {listed} }}"
    yield "    }"


def _list(elements: Iterable[IPv4Address | IPv4Network | Range]) -> str:
    return ", ".join(
        str(each.first) if isinstance(each, Range) and each.first == each.last else str(each) for each in elements
    )


def _chain(name: str, *rules: str) -> Iterator[str]:
    yield f"    chain {name} {{"
    for rule in rules:
        yield f"        {rule}"
    yield "    }"
