"""What a lab puts where publishing will be: root file servers that hold the versions of the store, and netboot told so.

Versions are the store's own files, bound read-only into the root file servers, which serve them as a hall's do: kernel
and initrd over HTTP, the version's folder over NFS 4.1, both as /images/<role>/<version>. netboot is told by its own
API over its unix socket, as an administrator does it: the version, who holds it, and the channel that points to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.store import Store
from e2e import serial, stand_ins
from e2e.stand_ins import Credentials
from netboot.client import Netboot
from netboot.schema import NewPointer, NewVersion
from services.common.versions import Ref
from services.hall.schema import Hall

STORE = "/var/lib/backline/store"
"""Where root file servers of a lab see the versions that they serve."""
PATH = "/images"
CHANNEL = "stable"
_RFS = re.compile(r"rfs([0-9]{1,4})")
_CONFIGURATION = "/run/published/nginx.conf"


@dataclass(frozen=True)
class Published:
    """A version, and the numbers of the root file servers of this lab that hold it."""

    ref: Ref
    root_hash: str
    size: int
    holders: tuple[int, ...]

    @property
    def path(self) -> str:
        """The version's part of every URL and path: one boot is one version."""
        return f"{PATH}/{self.ref.role}/{self.ref.version}"


def numbers(hall: Hall, host: str) -> tuple[int, ...]:
    """Which root file servers a host of hall.toml is: the numbers of its aliases `rfsN`."""
    known = hall.hosts.get(host)
    aliases = [*known.aliases, *(alias for nic in known.nics for alias in nic.aliases)] if known else []
    return tuple(sorted(int(found[1]) for alias in aliases if (found := _RFS.fullmatch(alias))))


def plan(store: Store, ref: Ref, holders: tuple[int, ...]) -> Published:
    """What there is of a version. Raises MissingError("store.unknown")."""
    manifest = store.manifest(ref.role, ref.version)
    size = sum(artefact.size for artefact in manifest.artefacts.values())
    return Published(ref, manifest.root_hash, size, holders)


def publish(address: str, published: Published, *, channel: str = CHANNEL) -> None:
    """Tell netboot at `address` of a version and who holds it, and let a channel point to it."""
    known = published.ref.version
    with Netboot(address) as netboot:
        netboot.add_version(version(published))
        for number in published.holders:
            netboot.hold(number, known)
        netboot.switch_channel(channel, NewPointer(version=known, why="the lab begins with it"))


def version(published: Published) -> NewVersion:
    """A version as netboot is told of it."""
    return NewVersion(
        version=published.ref.version,
        role=published.ref.role,
        root_hash=published.root_hash,
        options=" ".join(serial.COMMAND_LINE),
        size=published.size,
    )


def nginx(role: str) -> str:
    """All of nginx's configuration on a root file server: kernels and initrds of a role's versions, nothing else."""
    return f"""pid /run/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log syslog:server=unix:/dev/log,nohostname,tag=nginx;
    default_type application/octet-stream;
    sendfile on;
    server {{
        listen 80 default_server;
        root {STORE};
        location ~ ^{PATH}/{role}/[^/]+/(vmlinuz|initrd)$ {{ }}
        location / {{ return 404; }}
    }}
}}
"""


def ganesha(role: str) -> str:
    """The configuration of nfs-ganesha: NFS 4.1, one export, read-only.

    Nothing is ever locked or written there, so no client has a state to reclaim after a restart, and none waits for it.
    Owners are numbers: a client that has to look up "root@domain" starts a program for it, from the very root it reads.
    """
    return f"""NFS_CORE_PARAM {{
    Protocols = 4;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    # It has no CAP_SYS_RESOURCE in a container, and would end.
    allow_set_io_flusher_fail = true;
}}
NFSV4 {{ Minor_Versions = 1; Graceless = true; Only_Numeric_Owners = true; }}
EXPORT {{
    Export_Id = 1;
    Path = {STORE}{PATH}/{role};
    Pseudo = {PATH}/{role};
    Access_Type = RO;
    Squash = All_Squash;
    SecType = sys;
    Protocols = 4;
    Transports = TCP;
    FSAL {{ Name = VFS; }}
}}
"""


def root_server(role: str) -> Credentials:
    """What makes a root file server serve the versions of a role."""
    options = "-L SYSLOG -f /etc/ganesha/ganesha.conf -N NIV_EVENT"
    lines = stand_ins.file_line("/etc/ganesha/ganesha.conf", ganesha(role))
    lines += stand_ins.file_line("/etc/default/nfs-ganesha", f'OPTIONS="{options}"\n')
    lines += stand_ins.file_line(_CONFIGURATION, nginx(role))
    start = f"/usr/sbin/nginx -e stderr -c {_CONFIGURATION}"
    return {
        "tmpfiles.extra": lines.encode(),
        "systemd.unit-dropin.multi-user.target": stand_ins.wants("nfs-ganesha.service", "nginx.service"),
        "systemd.unit-dropin.nginx.service": (
            f"[Service]\nExecStartPre=\nExecStart=\nExecStart={start}\nExecReload=\nExecReload={start} -s reload\n"
        ).encode(),
    }
