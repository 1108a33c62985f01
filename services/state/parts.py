"""What of gw is saved: its parts, each a folder of one owner. Pure.

A part names what belongs to it by patterns of the names directly in its folder; whatever else is there is left alone,
by a save and by a restore. Not saved, because it comes from elsewhere: versions of images (the administrator's store
and root file servers have them), TLS certificates (the hall's CA makes them again), what is rendered from hall.toml.

The order counts: who refers to another part is saved before it, so that what it refers to is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass(frozen=True)
class Part:
    """A part. `database` is its database's name as a setting, if it has one."""

    name: str
    folder: str
    entries: tuple[str, ...] = ()
    database: str = ""
    lines: bool = False
    """Whether its files grow by lines: a line that is half written is left out."""
    of_gw: bool = True
    """Whether only a gw has it: where there is nothing else, there is nothing to save."""

    def owns(self, name: str) -> bool:
        """Whether a name directly in the folder belongs to the part."""
        return any(fnmatch(name, pattern) for pattern in self.entries)


NUMBERS = "sequences.json"
"""The depot's: numbers that its channels may not fall behind (`services.depot.store`)."""

PARTS = (
    Part("rollout", "/var/lib/backline-rollout", ("[1-9]*.json",)),
    Part("depot", "/var/lib/backline-depot", (NUMBERS,), database="depot"),
    Part("netboot", "/var/lib/backline-netboot", ("mdb.json",), database="netboot"),
    Part("mdb", "/var/lib/backline-mdb", database="mdb"),
    Part("udb", "/var/lib/backline-udb", database="udb"),
    Part("dhcp", "/var/lib/backline-dhcp", ("generations", "current", "proved", "*.json")),
    Part("dns", "/var/lib/backline-dns", ("named.conf", "zones", "feed.json")),
    Part("firewall", "/var/lib/backline-firewall", ("switch.json", "last-good.json")),
    Part("kea", "/var/lib/kea", ("kea-leases4.csv*",), lines=True),
    Part("tokens", "/var/lib/backline", ("access.key", "udb.key")),
    Part("host", "/var/lib/backline-hostd-supervisor", ("generations", "records", "force.json"), of_gw=False),
    Part("ssh", "/etc/ssh", ("ssh_host_*_key", "ssh_host_*_key.pub"), of_gw=False),
    # Only where gw is the administrator's machine as well, which it should not be.
    Part("authority", "/root/.config/backline", ("halls",), of_gw=False),
)
TOKEN_KEY = "/var/lib/backline/access.key"

UNITS = (
    "backline-mdb.socket",
    "backline-udb.socket",
    "backline-netboot.socket",
    "backline-depot.socket",
    "backline-rollout.socket",
    "backline-dhcp.socket",
    "backline-dns.socket",
    "backline-firewall.socket",
    "backline-firewall-connections.socket",
    "backline-hostd-supervisor.socket",
    "backline-hostd-supervisor-tls.socket",
    "backline-rollout.service",
    "backline-depot.service",
    "backline-netboot.service",
    "backline-mdb.service",
    "backline-udb.service",
    "backline-dhcp.service",
    "backline-dns.service",
    "backline-firewall.service",
    "backline-hostd-supervisor.service",
    "kea-dhcp4-server.service",
    "named.service",
)
"""Who has these parts open: stopped while they are replaced, sockets first, so that nobody is woken meanwhile."""
STARTED = (
    *(unit for unit in UNITS if unit != "backline-hostd-supervisor.service"),
    "backline-hostd-again.service",
)
"""Who is started afterwards. The supervisor comes when somebody asks."""
