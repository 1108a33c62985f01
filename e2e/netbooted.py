"""Seats in containers that boot what netboot says: what is left of a seat's way when it has no firmware and no kernel.

At each power on, as iPXE does, netboot is asked over HTTP what the seat's MAC address boots, and waits for as long as
the script says to ask again; the boot is on record like any other. Then the container starts that very version from the
store, with the boot's words as the arguments of its init: that is a container's kernel command line (systemd's
proc_cmdline), and units look for it there. What the initrd would do, claim the boot's credentials from the seat's own
address, a unit does in the seat; from then on everything is the image's own: report, heartbeat, restart.

Not real here: firmware, iPXE, kernel, initrd, NFS and dm-verity, which `e2e/scenarios/test_pxe.py` is about.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import httpx2

from e2e.stand_ins import Credentials, file_line
from e2e.topology import mac_of
from services.common.errors import BacklineError, HostError, UsageError

if TYPE_CHECKING:
    from e2e.lab import Lab
    from e2e.node import Node

SECONDS = 60.0
_WORDS = re.compile(r"\bbackline\.(boot|netboot|version)=(\S+)")
_CLAIM = r"""
import json, os, pathlib, time, urllib.request
words = dict(word.split("=", 1) for word in open("/proc/1/cmdline").read().split("\0") if "=" in word)
address = words["backline.netboot"] + "/v1/boots/" + words["backline.boot"] + "/credentials"
for attempt in range(300):
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=5)
        break
    except urllib.error.HTTPError:
        raise
    except OSError:
        time.sleep(0.1)  # it has no address yet
folder = pathlib.Path("/run/credstore")
folder.mkdir(mode=0o700, exist_ok=True)
for name, value in json.load(answer)["credentials"].items():
    os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
    (folder / name).write_text(value)
"""


def boot(lab: Lab, node: Node) -> tuple[str, Sequence[str]]:
    """What netboot has a seat boot: the version, and the words that it boots with.

    Raises HostError("lan.netboot") when it is given nothing in time.
    """
    mac = node.spec.nics[0].mac or mac_of(node.name, 0)
    deadline = time.monotonic() + SECONDS
    while True:
        script = _ask(lab, node, f"http://{_address(lab)}/boot/{mac}")
        words = dict(_WORDS.findall(script))
        if len(words) == 3:
            said = [f"backline.{name}={value}" for name, value in words.items()]
            lab.journal.note("step", f"netboot answers: {' '.join(said)}", node=node.name)
            return words["version"], said
        if time.monotonic() >= deadline:
            raise HostError("lan.netboot", f"netboot lets {node.name} boot nothing: {script.strip()[-500:]}")
        lab.journal.pause(1.0)


def _ask(lab: Lab, node: Node, url: str) -> str:
    """What a seat is answered at its own address, with which its card is there for as long as that takes."""
    address = lab.machines[node.name].ip
    (network,) = [each.cidr for each in lab.hall.data.networks.values() if address in each.cidr]
    lab.network.plug(node.name)
    try:
        lines = f"address add {address}/{network.prefixlen} dev host0\nlink set host0 up\n"
        lab.sandbox.run(["ip", "-batch", "-"], stdin=lines, netns=f"/run/netns/{node.name}")
        get = partial(httpx2.get, url, timeout=10, trust_env=False)
        return lab.sandbox.in_network(get, netns=f"/run/netns/{node.name}").text
    except httpx2.HTTPError as error:
        return str(error)
    finally:
        lab.network.unplug(node.name)


def netboot_says(name: str) -> UsageError:
    """What is answered to who wants a seat to boot another version than netboot says."""
    hint = f"`backline lan admin`, then `backline publish` or `backline mdb edit {name} --pinned VERSION`"
    return UsageError("lan.netboot", f"{name} boots what netboot says", hint=hint)


def follow(lab: Lab) -> None:
    """Have every seat in a container boot what netboot says, from now on, and those too that join later."""

    def join(node: Node) -> None:
        if node.spec.seat and node.spec.nics and lab.backend_of(node).name == "nspawn":
            node.ask = lambda: boot(lab, node)
            node.credentials |= credentials()

    lab.joins = join
    for node in lab.nodes.values():
        join(node)


def version_of(lab: Lab, node: Node) -> str:
    """Which version netboot had a seat boot last, also one with a kernel of its own; "" when nobody can say."""
    from netboot.client import Netboot

    if "gw" not in lab.nodes or not lab["gw"].ready:
        return ""
    try:
        with Netboot(lab["gw"].service("netboot")) as client:
            boots = client.boots(node.name, limit=1).boots
    except BacklineError:
        return ""
    return boots[0].version or "" if boots else ""


def _address(lab: Lab) -> str:
    """gw's address as seats reach it."""
    return str(lab.hall.data.gateway_address({"hall"} if "hall" in lab.hall.data.networks else set()))


def credentials() -> Credentials:
    """What a seat needs to do what its initrd would have done."""
    unit = """[Unit]
Description=Claim this boot's credentials, as the initrd of a real seat does
After=systemd-networkd.service
Before=backline-seat-report.service backline-seat-heartbeat.service backline-identity.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 /run/claim.py
"""
    after = "[Unit]\nRequires=backline-claim.service\nAfter=backline-claim.service\n"
    # A container's command line is that of its init, which ProtectProc=invisible hides from other users.
    both = f"{after}[Service]\nProtectProc=default\n"
    return {
        "systemd.extra-unit.backline-claim.service": unit.encode(),
        "systemd.unit-dropin.backline-seat-report.service": both.encode(),
        "systemd.unit-dropin.backline-seat-heartbeat.service": both.encode(),
        "systemd.unit-dropin.backline-identity.service": after.encode(),
        "tmpfiles.extra": file_line("/run/claim.py", _CLAIM, mode="0700").encode(),
    }
