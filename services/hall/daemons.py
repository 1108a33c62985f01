"""What the daemons of a machine say to a set of files, and telling them of a new one.

`Live` talks to the machine that we run on; `Offline` is for a tree that no machine runs from, and for tests.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Set
from pathlib import Path
from typing import Protocol

from services.common import process
from services.common.errors import InputError
from services.hall import edge, render
from services.hall.generations import inside

PATIENCE = 30.0  # seconds for a check or a request; none of them does real work
# networkd reloads as `networkctl reload` does (Type=notify-reload); networkctl itself refuses to run in another network
# namespace, and our unit has its own.
_UNITS = {
    "systemd-networkd.service": render.NETWORKD,
    "systemd-resolved.service": render.RESOLVED,
    "ssh.service": render.SSHD,
    "chrony.service": render.CHRONY,
    "backline-mdb.service": render.MDB,
    "backline-depot.service": render.DEPOT,
    "backline-dhcp.service": render.DHCP,
    "backline-dns.service": render.DNS,
    "backline-firewall.service": render.FIREWALL,
    "backline-overview.service": render.OVERVIEW,
    "backline-identity.service": render.IDENTITY,
    "backline-roots.service": render.ROOTS,
    "backline-sso.service": render.SSO,
    "backline-usermap.service": render.USERMAP,
    "backline-state-keeper.service": render.STATE,
    "backline-udb.service": render.UDB,
    "nginx.service": str(Path(edge.CONFIGURATION).parent),
}


class Daemons(Protocol):
    """The machine as `services.hall.apply` needs it."""

    def hostname(self) -> str:
        """The host name that the machine has now."""
        ...

    def set_hostname(self, name: str) -> None:
        """Give it the (transient) host name `name`."""
        ...

    def check(self, files: Path) -> None:
        """Ask each daemon that can check its configuration below `files`. Raises InputError("hall.refused")."""
        ...

    def tell(self, changed: Set[str]) -> list[str]:
        """Tell the daemons that run of changed targets; returns who was told. Raises ProcessFailed."""
        ...


class Offline:
    """A tree that no machine runs from: nothing to ask, nobody to tell."""

    def __init__(self, hostname: str = "localhost") -> None:
        self.name = hostname

    def hostname(self) -> str:
        return self.name

    def set_hostname(self, name: str) -> None:
        self.name = name

    def check(self, files: Path) -> None:
        pass

    def tell(self, changed: Set[str]) -> list[str]:
        del changed
        return []


class Live:
    """The machine that we run on."""

    def hostname(self) -> str:
        return socket.gethostname()

    def set_hostname(self, name: str) -> None:
        # The kernel's name is what hostnamed calls transient; no bus is needed this early, and no file is left.
        socket.sethostname(name)

    def check(self, files: Path) -> None:
        check_sshd(inside(files, render.SSHD))
        check_chrony(inside(files, render.CHRONY))
        if inside(files, edge.CONFIGURATION).exists():
            check_nginx(files)

    def tell(self, changed: Set[str]) -> list[str]:
        units = [unit for unit, place in _UNITS.items() if any(target.startswith(place) for target in changed)]
        if not units or program("systemctl") is None:
            return []
        # Not all are active: at boot none is, they start after us.
        states = process.run(["systemctl", "is-active", *units], check=False, deadline=_soon()).stdout.split()
        active = [unit for unit, state in zip(units, states, strict=False) if state == "active"]
        if active:
            # Without --no-block a reload within a transaction could wait for itself.
            process.run(["systemctl", "try-reload-or-restart", "--no-block", *active], deadline=_soon())
        return active


def _soon() -> float:
    return time.monotonic() + PATIENCE


def program(name: str) -> str | None:
    """The path of a daemon, also where PATH lacks the sbin folders."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin")


def check_sshd(config: Path) -> None:
    """Let sshd read its drop-in (sshd(8) -G). Raises InputError("hall.refused").

    -G, not -t: that one wants host keys, a user sshd and /run/sshd, which are not there this early. Where there is no
    sshd, or one before 9.3 that does not know -G, nothing is said.
    """
    sshd = program("sshd")
    if sshd is not None and sshd_knows_g(sshd):
        _ask("sshd", [sshd, "-G", "-f", str(config)])


def sshd_knows_g(sshd: str) -> bool:
    """Whether this sshd can check a configuration without being set up (OpenSSH 9.3)."""
    return "option -- " not in process.run([sshd, "-G", "-f", "/dev/null"], check=False, deadline=_soon()).stderr


def check_chrony(config: Path) -> None:
    """Let chronyd read its drop-in (chronyd(8) -p). Raises InputError("hall.refused"); without a chronyd nothing."""
    chronyd = program("chronyd")
    if chronyd is not None:
        _ask("chronyd", [chronyd, "-p", "-f", str(config)])


def check_nginx(files: Path) -> None:
    """Let nginx read its servers (nginx(8) -t). Raises InputError("hall.refused"); without an nginx nothing.

    It reads a copy: a test of nginx opens what it would listen on and the certificate, and this early there is neither
    a network nor the credential of its unit.
    """
    nginx = program("nginx")
    if nginx is None:
        return
    with tempfile.TemporaryDirectory(prefix="backline-nginx-") as folder:
        text = inside(files, edge.CONFIGURATION).read_text()
        text = re.sub(r"\blisten (\d+)(?: ssl)?\b", rf"listen unix:{folder}/\1", text)
        text = re.sub(r"\bssl_certificate(?:_key)? [^;]*;", "", text)
        text = text.replace(edge.CA, str(inside(files, render.CA)))
        kept = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        whole = f"user root; pid {folder}/pid; error_log stderr; events {{}} http {{ {kept} access_log off;\n{text} }}"
        Path(folder, "nginx.conf").write_text(whole)
        _ask("nginx", [nginx, "-t", "-q", "-e", "stderr", "-p", folder, "-c", f"{folder}/nginx.conf"])


def _ask(daemon: str, argv: list[str]) -> None:
    try:
        process.run(argv, deadline=_soon())
    except process.ProcessFailed as error:
        said = "\n".join(error.completed.stderr.strip().splitlines()[-5:])
        raise InputError(
            "hall.refused", f"{daemon} refuses its rendered configuration: {said}", hint=error.hint
        ) from error
