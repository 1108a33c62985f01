"""BIND's own programs, behind a protocol: what checks a zone, and what tells named of a new one.

`Programs` runs named-checkzone(1), named-checkconf(1) and rndc(8); `services.dns.fake` has a named of paper for tests.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from services.common import process
from services.common.errors import InputError, MissingError

CHECK_SECONDS = 30.0
TELL_SECONDS = 10.0
KEY = "rndc.key"
_SERIAL = re.compile(r"^serial: (\d+)$", re.MULTILINE)


class Bind(Protocol):
    """named and its tools, as the service needs them."""

    def check_zone(self, zone: str, file: Path) -> None:
        """Raises InputError("dns.zone") with what named would say against this zone file."""
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
    """The real ones, from this system, or from elsewhere behind `prefix` (such as nsenter in tests)."""

    def __init__(self, *, key: Path | None = None, prefix: Sequence[str] = ()) -> None:
        self.prefix = tuple(prefix)
        self.key = key or _credential()

    def check_zone(self, zone: str, file: Path) -> None:
        # As strict as named is with a primary zone, and in all else: what is only a warning there is a mistake here.
        strict = [option for letter in "knmMSr" for option in (f"-{letter}", "fail")]
        self._check("dns.zone", ["named-checkzone", "-i", "local", *strict, zone, str(file)], file)

    def check_conf(self, file: Path) -> None:
        self._check("dns.conf", ["named-checkconf", str(file)], file)

    def reconfigure(self) -> None:
        self._rndc("reconfig")

    def reload(self, zone: str, view: str) -> None:
        self._rndc("reload", zone, "IN", view)

    def serial(self, zone: str, view: str) -> int | None:
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


def _credential() -> Path:
    """The key of rndc: the credential that the unit loads, or the file itself."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder, KEY) if folder and Path(folder, KEY).exists() else Path("/etc/bind", KEY)


def _tail(text: str) -> str:
    """The last lines that a program printed, on one line, without what says nothing new."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return "; ".join(lines[-3:])[:500]
