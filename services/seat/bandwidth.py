"""What users send and receive on a seat is held to hall.toml's figure, and what the seat itself sends comes first.

Whose a packet is, nftables asks its socket: in which control group it was made, and who holds it. Users' are those of
whatever runs in `user.slice` (systemd.special(7)), but for root's. A socket keeps its group when its process is dead,
and a user's process cannot leave it. Services are in `system.slice`; sockets of the kernel itself, such as its NFS
client's, are in no slice: nothing here limits or drops what is theirs. sshd's sockets are a service's, whoever logs in.

- What users send has a queue of its own (HTB's class 1:20, tc-htb(8)): held to the figure, and served when nothing
  else waits. All else is in class 1:10, which has no limit.
- What users receive beyond the figure is dropped where the kernel would hand it over, and TCP slows down.

Why so, and what it costs: docs/decisions/users-come-after-the-seat.md. Rules and queues are the kernel's: no process
stays.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterable
from pathlib import Path

from services.common import process
from services.seat.presence import SETTINGS

UNSAID = 100
"""Mbit/s where no hall.toml has said anything."""
CARDS = Path("/sys/class/net")
TABLE = "backline-seat"
USERS = 10_000
"""The first uid of udb."""
UNLIMITED = "100gbit"
LEAF = "fq_codel"
"""Which of a class's packets is next (tc-fq_codel(8)): who has little to say does not wait for who has much."""


def limit(settings: Path = SETTINGS) -> int:
    """Mbit/s that users may send, and as much that they may receive, as hall.toml says; a limit in any case."""
    try:
        found = tomllib.loads(settings.read_text()).get("bandwidth")
    except (OSError, ValueError):
        return UNSAID
    return found if isinstance(found, int) and found > 0 else UNSAID


def cards(folder: Path = CARDS) -> list[str]:
    """Names of the seat's cards: Ethernet with a device behind it (sysfs-class-net; type 1 is ARPHRD_ETHER)."""
    found = []
    for card in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):
            if (card / "type").read_text().strip() == "1" and (card / "device").exists():
                found.append(card.name)
    return found


def rules(mbit: int) -> str:
    """nft(8)'s input: whose a packet is, and the limit of what comes in. In place of earlier ones, in one step.

    The limit is of each second: who has received nothing for a while gets one second's worth at once.
    """
    rate = mbit * 1_000_000 // 8
    return f"""table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    limit incoming {{
        rate over {rate} bytes/second
    }}

    chain sent {{
        type filter hook output priority filter; policy accept;
        oifname "lo" accept
        meta skuid < {USERS} accept
        socket cgroupv2 level 1 "user.slice" counter meta priority set 1:20
    }}

    chain received {{
        type filter hook input priority filter; policy accept;
        iifname "lo" accept
        meta skuid < {USERS} accept
        socket cgroupv2 level 1 "user.slice" limit name "incoming" counter drop
    }}
}}
"""


def queues(card: str, mbit: int, *, leaf: str | None = LEAF) -> list[str]:
    """Lines for `tc -batch`: the two classes of a card, for packets as `rules` sorts them."""
    most = f"rate {UNLIMITED} ceil {UNLIMITED} burst 1m cburst 1m quantum 60000"
    held = f"rate {mbit}mbit ceil {mbit}mbit burst 64k cburst 64k quantum 3000"
    lines = [
        f"qdisc add dev {card} root handle 1: htb default 10",
        f"class add dev {card} parent 1: classid 1:10 htb prio 0 {most}",
        f"class add dev {card} parent 1: classid 1:20 htb prio 1 {held}",
    ]
    return lines + [f"qdisc add dev {card} parent 1:{each} handle {each}: {leaf}" for each in (10, 20) if leaf]


def install(found: Iterable[str], mbit: int, *, leaf: str | None = LEAF) -> None:
    """Bring rules and queues into force, also a second time. Raises ProcessFailed, with what nft or tc said."""
    process.run(["nft", "-f", "-"], stdin=rules(mbit))
    for card in found:
        process.run(["tc", "qdisc", "del", "dev", card, "root"], check=False)  # ours of before; the kernel's own stays
        process.run(["tc", "-batch", "-"], stdin="".join(f"{line}\n" for line in queues(card, mbit, leaf=leaf)))
