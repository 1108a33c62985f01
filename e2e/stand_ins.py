"""What a lab puts where a service of Backline will be, or a container lacks something: a time server's option.

Everything goes in as systemd credentials (systemd.system-credentials(7)): `tmpfiles.extra` writes files of `/run` and
`/etc`, `systemd.unit-dropin.*` changes units. Nothing of it is in an image.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

Credentials = dict[str, bytes]

# chronyd has no clock to set in a container, and its unit says so: without steering it serves the host's time.
CHRONY = b"""[Unit]
ConditionCapability=
[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd -x $DAEMON_OPTS
"""


def file_line(path: str, text: str, *, mode: str = "0644", owner: str = "root", group: str = "root") -> str:
    """A line of tmpfiles.d(5) that writes a file."""
    return f"f+~ {path} {mode} {owner} {group} - {base64.b64encode(text.encode()).decode()}\n"


def wants(*units: str) -> bytes:
    """A drop-in that makes a target want units."""
    return f"[Unit]\nWants={' '.join(units)}\n".encode()


def join(*parts: Mapping[str, bytes]) -> Credentials:
    """Credentials of several stand-ins on one node: those of one name are texts that follow each other.

    There is one `tmpfiles.extra` a machine, and one drop-in a unit; lines and sections of both may simply be repeated.
    """
    found: Credentials = {}
    for part in parts:
        for name, text in part.items():
            before = found.get(name, b"")
            found[name] = before + (b"\n" if before and not before.endswith(b"\n") else b"") + text
    return found


def time_server() -> Credentials:
    """What lets chronyd of a container serve time."""
    return {"systemd.unit-dropin.chrony.service": CHRONY}


def console(words: Sequence[str]) -> Credentials:
    """What has netboot say further words to every machine's kernel: those with which its console can be followed."""
    text = f'[Service]\nEnvironment="BACKLINE_NETBOOT_OPTIONS={" ".join(words)}"\n'
    return {"systemd.unit-dropin.backline-netboot.service": text.encode()}


def patience() -> Credentials:
    """What gives emulated machines, which take minutes for seconds of others, the time to claim their credentials."""
    text = "[Service]\nEnvironment=BACKLINE_NETBOOT_CLAIM_SECONDS=900\n"
    return {"systemd.unit-dropin.backline-netboot.service": text.encode()}
