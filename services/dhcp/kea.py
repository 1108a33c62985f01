"""Kea's control socket, and the checker of its program (Kea's manual, "Management API" and "kea-dhcp4 -t").

A command is one JSON object on a connection of its own, the answer another. `result` 0 is success, 3 "nothing found".
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Protocol

import msgspec

from services.common import process
from services.common.errors import BacklineError, IntegrityError, MissingError

SECONDS = 30.0
_EMPTY = 3
_LIVE = 0  # a lease's state: 1 is declined, 2 expired


class Refused(BacklineError):
    """Kea will not have a configuration, or a command; the message is Kea's own."""


class KeaLease(msgspec.Struct, frozen=True, rename="kebab"):
    """A lease as hook lease_cmds tells it."""

    ip_address: IPv4Address = msgspec.field(name="ip-address")
    hw_address: str = msgspec.field(name="hw-address", default="")
    hostname: str = ""
    cltt: int = 0
    valid_lft: int = msgspec.field(name="valid-lft", default=0)
    state: int = 0
    subnet_id: int = msgspec.field(name="subnet-id", default=0)

    @property
    def ends(self) -> int:
        """Seconds since the epoch."""
        return self.cltt + self.valid_lft


@dataclass(frozen=True)
class Running:
    """The process that answers: another pid, or an earlier reload, means that it may have another configuration."""

    pid: int
    reloaded: float
    """Seconds since the epoch, to the second or so."""


class Checker(Protocol):
    """Whoever can say what Kea thinks of a configuration."""

    def test(self, configuration: bytes) -> str | None:
        """Why Kea refuses it, or None."""
        ...


class Kea:
    """Kea at work, behind its control socket."""

    def __init__(self, path: Path, *, seconds: float = SECONDS) -> None:
        self.path = path
        self.seconds = seconds

    def ask(self, command: str, arguments: bytes = b"") -> dict[str, Any]:
        """The answer to a command, `arguments` being JSON. Raises MissingError("kea.down"), IntegrityError."""
        question = b'{"command":%s%s}' % (
            json.dumps(command).encode(),
            b',"arguments":' + arguments if arguments else b"",
        )
        deadline = time.monotonic() + self.seconds
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(self.seconds)
                connection.connect(str(self.path))
                connection.sendall(question)
                connection.shutdown(socket.SHUT_WR)
                pieces = []
                while True:
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    piece = connection.recv(1 << 20)
                    if not piece:
                        break
                    pieces.append(piece)
        except OSError as error:
            reason = error.strerror or str(error)
            raise MissingError(
                "kea.down", f"Kea does not answer on {self.path}: {reason}", hint="systemctl status kea-dhcp4-server"
            ) from error
        try:
            answer = json.loads(b"".join(pieces))
        except ValueError as error:
            raise MissingError("kea.down", "Kea ended before it had answered") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("result"), int):
            raise IntegrityError("kea.answer", f"Kea answered {command} with something else")
        return answer

    def test(self, configuration: bytes) -> str | None:
        """Why Kea refuses a configuration, or None (config-test)."""
        answer = self.ask("config-test", configuration)
        return None if answer["result"] == 0 else str(answer.get("text", "no reason given"))

    def set(self, configuration: bytes) -> str:
        """Give Kea a configuration (config-set), and return its hash of it. Raises Refused("kea.refused")."""
        answer = self.ask("config-set", configuration)
        if answer["result"] != 0:
            raise Refused("kea.refused", str(answer.get("text", "no reason given")))
        return str((answer.get("arguments") or {}).get("hash", ""))

    def hash(self) -> str:
        """The hash of the configuration that Kea has. It is that of the content, however it got there."""
        return str((self.ask("config-hash-get").get("arguments") or {}).get("hash", ""))

    def running(self) -> Running:
        """Who answers."""
        told = self.ask("status-get").get("arguments") or {}
        return Running(int(told.get("pid", 0)), time.time() - float(told.get("reload", 0)))

    def leases(self) -> list[KeaLease]:
        """Every lease that has not ended."""
        return self._leases("lease4-get-all")

    def leases_of(self, mac: str) -> list[KeaLease]:
        """Those of one MAC address."""
        return self._leases("lease4-get-by-hw-address", {"hw-address": mac})

    def lease(self, address: IPv4Address) -> KeaLease | None:
        """The one of an address."""
        answer = self.ask("lease4-get", json.dumps({"ip-address": str(address)}).encode())
        return _lease(answer["arguments"]) if answer["result"] == 0 else None

    def end_lease(self, address: IPv4Address) -> bool:
        """Forget the lease of an address; False when there was none."""
        return bool(self.ask("lease4-del", json.dumps({"ip-address": str(address)}).encode())["result"] == 0)

    def _leases(self, command: str, arguments: Mapping[str, str] | None = None) -> list[KeaLease]:
        answer = self.ask(command, json.dumps(arguments).encode() if arguments else b"")
        if answer["result"] not in (0, _EMPTY):
            raise Refused("kea.command", f"{command}: {answer.get('text', 'no reason given')}")
        now = time.time()
        found = [_lease(each) for each in (answer.get("arguments") or {}).get("leases", [])]
        return [lease for lease in found if lease.state == _LIVE and lease.ends > now]


def _lease(told: object) -> KeaLease:
    from services.common.codec import convert

    try:
        return convert(told, KeaLease)
    except msgspec.ValidationError as error:
        raise IntegrityError("kea.answer", f"Kea told of a lease that cannot be read: {error}") from error


class Offline:
    """Kea's program itself, while no Kea runs: `kea-dhcp4 -t` on a file."""

    def __init__(self, folder: Path, program: str = "kea-dhcp4", *, seconds: float = SECONDS) -> None:
        self.folder = folder
        self.program = program
        self.seconds = seconds

    def test(self, configuration: bytes) -> str | None:
        """Why Kea refuses a configuration, or None. Raises HostError("process.missing")."""
        file = self.folder / "test.json"
        file.write_bytes(configuration)
        # Its lock file keeps lines of several processes apart in one log file; here is neither.
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
        try:
            done = process.run(
                [self.program, "-t", file],
                env={"PATH": path, "KEA_LOCKFILE_DIR": "none"},
                check=False,
                deadline=time.monotonic() + self.seconds,
            )
        finally:
            file.unlink(missing_ok=True)
        if done.returncode == 0:
            return None
        said = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        errors = [line for line in said if "ERROR" in line or "rror encountered" in line] or said[-1:]
        return errors[-1].strip() if errors else f"it ended with exit code {done.returncode}"
