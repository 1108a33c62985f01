"""A seat's report to netboot: which boot this is, how far it came, and the public half of its ssh host key.

Of Python's standard library alone: it runs on every seat, while the first user wants to log in. netboot's address and
the boot's id stand on the kernel command line; the boot token, which the initrd claimed, is a systemd credential.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from services.common import process
from services.common.errors import HostError, InputError, MissingError
from services.common.identity import command_line

TOKEN = "backline.boot-token"
HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key.pub")
SECONDS = 10.0


@dataclass(frozen=True)
class Boot:
    """One start of this seat: who is told of it, its id, and what proves that it is ours."""

    netboot: str
    id: str
    token: str


@dataclass(frozen=True)
class System:
    """What systemd says once nothing is starting any more: its state (systemctl(1), is-system-running), what failed."""

    state: str
    failed: tuple[str, ...] = ()

    @property
    def detail(self) -> str:
        """In one line."""
        return f"{self.state}: {', '.join(self.failed)} failed" if self.failed else self.state


def find_boot(environ: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> Boot | None:
    """The boot of the system under `root`; None for one that netboot has not started.

    Raises HostError("seat.credential") when the token did not get here.
    """
    environ = os.environ if environ is None else environ
    words = command_line(_words(root))
    address, boot = words.get("backline.netboot", ""), words.get("backline.boot", "")
    if not address or not boot:
        return None
    try:
        token = (Path(environ["CREDENTIALS_DIRECTORY"]) / TOKEN).read_text().strip()
    except (KeyError, OSError) as error:
        raise HostError(
            "seat.credential",
            f"the credential {TOKEN} is not here",
            hint="`systemd-creds --system list` shows what the initrd handed over; its unit imports it from there",
        ) from error
    return Boot(address, boot, token)


def wait_for_system() -> System:
    """Wait until systemd has nothing left to start."""
    done = process.run(["systemctl", "is-system-running", "--wait"], check=False)  # fails for "degraded" too
    state = done.stdout.strip() or "unknown"
    if state == "unknown":
        raise HostError("seat.system", f"systemd does not say how far it is: {done.stderr.strip()}")
    argv = ["systemctl", "list-units", "--state=failed", "--no-legend", "--plain", "--full"]
    lines = process.run(argv, check=False).stdout.splitlines()
    return System(state, tuple(line.split()[0] for line in lines if line.strip()))


def document(system: System, host_key: Path = HOST_KEY) -> dict[str, str]:
    """What is reported: the stage "system", and the host key without its comment where there is one."""
    found = {"stage": "system", "detail": system.detail}
    if host_key.exists():
        found["ssh_host_key"] = " ".join(host_key.read_text().split()[:2])
    return found


def _words(root: Path) -> str:
    """The kernel's command line; in a container, PID 1's arguments are that, as systemd has it (proc_cmdline)."""
    if (root / "run/systemd/container").exists():
        with contextlib.suppress(OSError):  # hidden from a unit with ProtectProc=invisible: nobody to tell, then
            return (root / "proc/1/cmdline").read_text(errors="replace").replace("\0", " ")
        return ""
    return (root / "proc/cmdline").read_text(errors="replace")


def send(boot: Boot, what: Mapping[str, str]) -> None:
    """Send a report. Raises as `put`."""
    put(boot, "report", what)


def put(boot: Boot, path: str, what: Mapping[str, Any]) -> bytes:
    """PUT something about this boot, and return the answer.

    Raises MissingError("seat.netboot") when trying again may help, else InputError("seat.refused").
    """
    url = urlsplit(boot.netboot)
    if url.scheme != "http" or not url.hostname:
        raise InputError("seat.refused", f"backline.netboot={boot.netboot} on the command line is no http:// address")
    link = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=SECONDS)
    headers = {"Authorization": f"Bearer {boot.token}", "Content-Type": "application/json"}
    try:
        link.request("PUT", f"/v1/boots/{quote(boot.id)}/{path}", json.dumps(what).encode(), headers)
        answer = link.getresponse()
        content = answer.read(16384)
    except (OSError, http.client.HTTPException) as error:
        raise MissingError("seat.netboot", f"netboot at {boot.netboot} does not answer: {error}") from error
    finally:
        link.close()
    if answer.status >= 500 or answer.status in (408, 429):
        told = f"netboot at {boot.netboot} cannot take the {path}: {answer.status} {_text(content)}"
        raise MissingError("seat.netboot", told)
    if answer.status >= 300:
        told = f"netboot at {boot.netboot} refuses the {path}: {answer.status} {_text(content)}"
        raise InputError("seat.refused", told)
    return content


def _text(content: bytes) -> str:
    return content[:4096].decode(errors="replace")
