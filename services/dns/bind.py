"""BIND's own programs, behind a protocol: what checks a zone, and what tells named of a new one.

`Programs` runs named-checkzone(1), named-checkconf(1) and rndc(8); `services.dns.fake` has a named of paper for tests.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdataclass
import dns.rdatatype

from services.common import process
from services.common.errors import InputError, MissingError
from services.dns.zones import HALL

CHECK_SECONDS = 30.0
TELL_SECONDS = 10.0
ASK_SECONDS = 2.0
PORT = 53
KEY = "rndc.key"
_SERIAL = re.compile(r"^serial: (\d+)$", re.MULTILINE)


class Bind(Protocol):
    """named and its tools, as the service needs them."""

    def check_zone(self, zone: str, file: Path) -> None:
        """Raises InputError("dns.zone") with what named would say against this zone file."""
        ...

    def check_zones(self, files: Mapping[tuple[str, str], Path]) -> bool:
        """Are the files of zones, by view and name, all good? One look at all; `check_zone` says what is not."""
        ...

    def check_conf(self, file: Path) -> None:
        """Raises InputError("dns.conf") with what named would say against this named.conf."""
        ...

    def reconfigure(self) -> None:
        """Have named read named.conf again, and load zones that are new. Raises MissingError("dns.named")."""
        ...

    def reload(self, zone: str, view: str) -> None:
        """Have named load one zone again. Raises MissingError("dns.named")."""
        ...

    def serial(self, zone: str, view: str) -> int | None:
        """The serial that named serves; None when it has no such zone. Raises MissingError("dns.named")."""
        ...


class Programs:
    """The real ones, from this system, or from elsewhere behind `prefix` (such as nsenter in tests).

    With `server`, the serials of the hall's view are asked of named itself there: rndc takes thirty times as long.
    """

    def __init__(self, *, key: Path | None = None, prefix: Sequence[str] = (), server: str | None = None) -> None:
        self.prefix = tuple(prefix)
        self.key = key or _credential()
        self.server = server

    def check_zone(self, zone: str, file: Path) -> None:
        # As strict as named is with a primary zone, and in all else: what is only a warning there is a mistake here.
        strict = [option for letter in "knmMSr" for option in (f"-{letter}", "fail")]
        self._check("dns.zone", ["named-checkzone", "-i", "local", *strict, zone, str(file)], file)

    def check_zones(self, files: Mapping[tuple[str, str], Path]) -> bool:
        # named.conf's own defaults for primary zones, and the warnings that are mistakes here.
        strict = "check-dup-records fail; check-mx fail; check-mx-cname fail; check-srv-cname fail; check-sibling no;"
        text = f"options {{ {strict} }};\n"
        for number, ((_, zone), file) in enumerate(files.items()):  # a view each: names are in several views
            text += f'view "v{number}" {{ zone "{zone}" {{ type primary; file "{file}"; }}; }};\n'
        beside = next(iter(files.values())).with_name("check.new")
        beside.write_text(text)
        done = self._run(["named-checkconf", "-z", str(beside)], seconds=CHECK_SECONDS)
        beside.unlink()
        return done.returncode == 0

    def check_conf(self, file: Path) -> None:
        self._check("dns.conf", ["named-checkconf", str(file)], file)

    def reconfigure(self) -> None:
        self._rndc("reconfig")

    def reload(self, zone: str, view: str) -> None:
        self._rndc("reload", zone, "IN", view)

    def serial(self, zone: str, view: str) -> int | None:
        if self.server is not None and view == HALL:
            return serial_at(self.server, zone)
        done = self._run(self._control("zonestatus", zone, "IN", view))
        if done.returncode == 0:
            found = _SERIAL.search(done.stdout)
            return int(found[1]) if found else None
        said = _tail(done.stderr)
        if "not found" in said or "no matching zone" in said or "not loaded" in said:
            return None
        raise MissingError("dns.named", f"named does not answer: {said}", hint="systemctl status named")

    def _control(self, *words: str) -> list[str]:
        return ["rndc", "-s", "127.0.0.1", "-k", str(self.key), *words]

    def _rndc(self, *words: str) -> None:
        done = self._run(self._control(*words))
        if done.returncode != 0:
            raise MissingError("dns.named", f"rndc {words[0]}: {_tail(done.stderr)}", hint="systemctl status named")

    def _check(self, code: str, argv: list[str], file: Path) -> None:
        done = self._run(argv, seconds=CHECK_SECONDS)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).replace(f"{file}:", "line ").strip()
            # The first line is the mistake; what follows says that it is one.
            raise InputError(code, said.partition("\n")[0][:500] or process.explain_exit(done.returncode))

    def _run(self, argv: list[str], *, seconds: float = TELL_SECONDS) -> process.Completed:
        """Raises MissingError("dns.named") for one that takes too long."""
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        try:
            return process.run(
                [*self.prefix, *argv],
                env={"PATH": path, "LC_ALL": "C.UTF-8"},
                check=False,
                deadline=time.monotonic() + seconds,
            )
        except process.ProcessFailed as error:
            raise MissingError("dns.named", error.message.partition("\n")[0], hint="systemctl status named") from error


def serial_at(server: str, zone: str) -> int | None:
    """The serial that a server gives for a zone of its own; None when it has none. Raises MissingError("dns.named")."""
    name = dns.name.from_text(zone)
    query = dns.message.make_query(name, "SOA", flags=0)
    try:
        # Connected, so that the kernel says at once when nobody listens there (udp(7)), and takes no other's word.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0)
            asking.connect((server, PORT))
            answer = dns.query.udp(query, server, port=PORT, timeout=ASK_SECONDS, ignore_unexpected=True, sock=asking)
    except (OSError, dns.exception.DNSException) as error:
        why = str(error) or type(error).__name__
        raise MissingError("dns.named", f"named does not answer: {why}", hint="systemctl status named") from error
    found = answer.get_rrset(dns.message.ANSWER, name, dns.rdataclass.IN, dns.rdatatype.SOA)
    if found is None or not answer.flags & dns.flags.AA:
        return None
    return int(found[0].serial)


def _credential() -> Path:
    """The key of rndc: the credential that the unit loads, or the file itself."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder, KEY) if folder and Path(folder, KEY).exists() else Path("/etc/bind", KEY)


def _tail(text: str) -> str:
    """The last lines that a program printed, on one line, without what says nothing new."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return "; ".join(lines[-3:])[:500]
