"""hostd of a host of any name, with a systemd in memory.

python -m tests.overview.hostd_service NAME ROLE VERSION [FAILED UNIT...]
"""

from __future__ import annotations

import sys

from msgspec.structs import replace

from services.common.bus.fake import FakeSystemd, make_unit
from services.common.identity import ImageIdentity
from services.common.serve import serve
from services.hostd.app import make_app
from services.hostd.journal import JournalReader
from services.hostd.schema import Disk, Host
from services.hostd.store import Store

COMMON = ("backline-hostd.service", "ssh.service", "chrony.service", "systemd-networkd.service")
OF_ROLE = {
    "gw": ("backline-mdb.service", "backline-netboot.service", "backline-overview.service", "kea-dhcp4-server.service"),
    "rhfs": ("backline-roots.service", "nfs-ganesha.service"),
    "iron": ("systemd-nspawn@rhfs1.service", "systemd-nspawn@web.service"),
}
GB = 1000**3


class Named(Store):
    """A host of a name, with disks that are always as full."""

    name = "host"

    def host(self) -> Host:
        disks = [Disk("/var", 480 * GB, 212 * GB)] if self.identity.role == "rhfs" else []
        if self.name == "rhfs2":
            disks = [Disk("/var", 480 * GB, 31 * GB)]
        return replace(super().host(), hostname=self.name, disks=disks)


def main() -> int:
    name, role, version, *failed = sys.argv[1:]
    units = [make_unit(unit, unit) for unit in (*COMMON, *OF_ROLE.get(role, ()))]
    units += [make_unit(unit, unit, active="failed", sub="failed") for unit in failed]
    journal = JournalReader(seconds=5, size=4096)
    store = Named(manager=FakeSystemd(units), journal=journal, identity=ImageIdentity(role, version))
    store.name = name
    return serve(make_app(store, journal_groups=[]), mode=0o666)


if __name__ == "__main__":
    sys.exit(main())
