"""What a lab puts where netboot will be, so that machines of the back end QEMU boot as seats do.

gw gets: Kea's answers to network boots, a TFTP server of the image's own iPXE, nginx with one iPXE script, the hall's
hall.toml, kernel and initrd of one version. rhfs gets: nfs-ganesha with that version's folder, read-only. As with every
stand-in, all of it goes in as credentials, and versions as read-only binds of the store.

A machine asks twice: its firmware is sent gw's iPXE, which asks again and is sent the script. Where a card's ROM is an
iPXE too (in QEMU it is one of 2019), both say "iPXE" and both say version 1.0.0: Debian's builds do not set it. They
differ in what they say they can do: gw's has HTTPS.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from builder.store import Store
from builder.versions import Ref
from e2e import serial, stand_ins
from e2e.stand_ins import Credentials
from e2e.topology import Topology
from services.hall.schema import Hall, Purpose

PLACE = "/run/netboot-stand-in"
HTTPS = 20
"""In iPXE's DHCP option 175, a list of its features: HTTPS (iPXE, include/ipxe/features.h, DHCP_EB_FEATURE_HTTPS)."""


@dataclass(frozen=True)
class Boot:
    """What every machine boots, and from where: `gateway` is gw's address, `server` the root file server's.

    The version's folder is `stored` on this host, and `folder` in the servers.
    """

    ref: Ref
    root_hash: str
    stored: Path
    folder: str
    gateway: IPv4Address
    server: IPv4Address

    @property
    def path(self) -> str:
        """The version's part of every URL and path: one boot is one version."""
        return f"/{self.ref.role}/{self.ref.version}"


def plan(topology: Topology, hall: Hall, store: Store, ref: Ref, *, mounted: str) -> Boot | None:
    """What machines of this topology boot; None when there is no root file server that hall.toml knows.

    `mounted` is where nodes see the store. Raises MissingError("store.unknown").
    """
    network = hall.network_for(Purpose.USERS)
    servers = [hall.hosts[name] for name, node in topology.nodes.items() if node.role == "rhfs" and name in hall.hosts]
    if network is None or not servers:
        return None
    manifest = store.manifest(ref.role, ref.version)
    stored = store.find(ref.role, ref.version)
    folder = f"{mounted}/{stored.relative_to(store.root)}"
    return Boot(ref, manifest.root_hash, stored, folder, hall.gateway_address({network[0]}), servers[0].address)


def kea(configuration: str, boot: Boot) -> str:
    """A Kea configuration with what network boots are told (RFC 4578 for option 93, iPXE's "DHCP options" for 175)."""
    loaded = json.loads(configuration)
    dhcp = loaded["Dhcp4"]
    for subnet in dhcp["subnet4"]:
        subnet["next-server"] = str(boot.gateway)
    dhcp["option-def"] = [
        {"name": "ipxe", "code": 175, "space": "dhcp4", "type": "empty", "encapsulate": "ipxe"},
        {"name": "https", "code": HTTPS, "space": "ipxe", "type": "uint8"},
    ]
    first = "not member('script') and "
    dhcp["client-classes"] = [
        {
            "name": "script",
            "test": f"option[77].hex == 'iPXE' and option[175].option[{HTTPS}].exists",
            "boot-file-name": f"http://{boot.gateway}/boot.ipxe",
        },
        {"name": "bios", "test": f"{first}option[93].hex == 0x0000", "boot-file-name": "undionly.kpxe"},
        {
            "name": "uefi",
            "test": f"{first}(option[93].hex == 0x0007 or option[93].hex == 0x0009)",
            "boot-file-name": "snponly.efi",
        },
    ]
    return json.dumps(loaded, indent=1)


def script(boot: Boot) -> str:
    """The iPXE script of every machine."""
    base = f"http://{boot.gateway}{boot.path}"
    words = [
        "initrd=initrd.magic",  # how iPXE calls all of its initrds together, for UEFI
        f"backline.root=nfs:{boot.server}:{boot.path}",
        f"backline.roothash={boot.root_hash}",
        f"backline.role={boot.ref.role}",
        f"backline.version={boot.ref.version}",
        "systemd.hostname=${hostname}",  # iPXE's, from Kea's reservation
        *serial.COMMAND_LINE,
    ]
    return (
        "#!ipxe\n"
        f"echo Backline: {boot.ref}\n"
        f"kernel {base}/vmlinuz {' '.join(words)} || goto failed\n"
        f"initrd {base}/initrd || goto failed\n"
        f"initrd http://{boot.gateway}/hall.toml /etc/backline/hall.toml mode=644 || goto failed\n"
        "boot || goto failed\n"
        ":failed\n"
        f"echo Backline: {boot.ref} could not be loaded from {boot.gateway}, trying again\n"
        "sleep 5\n"
        "reboot\n"
    )


def nginx(boot: Boot) -> str:
    """The site of gw: the script and hall.toml, kernel and initrd of the version, nothing else."""
    return f"""server {{
    listen 80 default_server;
    access_log syslog:server=unix:/dev/log,nohostname,tag=nginx;
    root {PLACE};
    location = /boot.ipxe {{ }}
    location = /hall.toml {{ }}
    location ~ ^{boot.path}/(?<artefact>vmlinuz|initrd)$ {{ alias {boot.folder}/$artefact; }}
    location / {{ return 404; }}
}}
"""


def ganesha(boot: Boot) -> str:
    """The configuration of nfs-ganesha: NFS 4.1, one export, read-only.

    Nothing is ever locked or written there, so no client has a state to reclaim after a restart, and none waits for it.
    """
    return f"""NFS_CORE_PARAM {{
    Protocols = 4;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    # It has no CAP_SYS_RESOURCE in a container, and would end.
    allow_set_io_flusher_fail = true;
}}
NFSV4 {{ Minor_Versions = 1; Graceless = true; }}
EXPORT {{
    Export_Id = 1;
    Path = {boot.folder};
    Pseudo = {boot.path};
    Access_Type = RO;
    Squash = All_Squash;
    SecType = sys;
    Protocols = 4;
    Transports = TCP;
    FSAL {{ Name = VFS; }}
}}
"""


def gateway(configuration: str, hall_text: str, boot: Boot) -> Credentials:
    """What makes gw answer network boots; `configuration` is Kea's, without them."""
    lines = stand_ins.file_line("/etc/nginx/sites-available/default", nginx(boot))
    lines += stand_ins.file_line(f"{PLACE}/boot.ipxe", script(boot))
    lines += stand_ins.file_line(f"{PLACE}/hall.toml", hall_text)
    return stand_ins.join(
        stand_ins.dhcp_server(kea(configuration, boot)),
        {
            "tmpfiles.extra": lines.encode(),
            "systemd.unit-dropin.multi-user.target": stand_ins.wants("tftpd-hpa.service", "nginx.service"),
        },
    )


def root_server(boot: Boot) -> Credentials:
    """What makes rhfs serve the version."""
    options = "-L SYSLOG -f /etc/ganesha/ganesha.conf -N NIV_EVENT"
    lines = stand_ins.file_line("/etc/ganesha/ganesha.conf", ganesha(boot))
    lines += stand_ins.file_line("/etc/default/nfs-ganesha", f'OPTIONS="{options}"\n')
    return {
        "tmpfiles.extra": lines.encode(),
        "systemd.unit-dropin.multi-user.target": stand_ins.wants("nfs-ganesha.service"),
    }
