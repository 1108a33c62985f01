"""nft(8), the kernel's rules: what is shown to it is checked first, and loaded as one transaction or not at all."""

from __future__ import annotations

import json
import shutil
import time
from ipaddress import IPv4Address
from typing import Any

from services.common import process
from services.common.errors import HostError, InputError
from services.firewall.rules import COUNTERS, TABLE
from services.firewall.schema import Traffic

SECONDS = 10.0


class Nft:
    """The program. It needs CAP_NET_ADMIN."""

    def __init__(self) -> None:
        self.program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") or "nft"

    def load(self, text: str) -> None:
        """Check a transaction, then have the kernel take it. Raises InputError("firewall.refused"): nothing changed."""
        for words in (["-c", "-f", "-"], ["-f", "-"]):
            done = self._run(*words, stdin=text)
            if done.returncode != 0:
                said = "\n".join(done.stderr.strip().splitlines()[:5])
                raise InputError("firewall.refused", f"nft refuses the rules: {said}")

    def shape(self) -> str | None:
        """The table without addresses and counts, as nft prints it; None when there is none."""
        done = self._run("-s", "-t", "list", "table", *TABLE.split())
        return done.stdout if done.returncode == 0 else None

    def addresses(self, name: str) -> frozenset[IPv4Address]:
        """What is in a set now. Raises HostError("firewall.kernel")."""
        found = [each["set"] for each in self._json("list", "set", *TABLE.split(), name) if "set" in each]
        return frozenset(IPv4Address(each) for each in found[0].get("elem", [])) if found else frozenset()

    def counters(self) -> dict[str, Traffic]:
        """What was counted since the table was loaded. Raises HostError("firewall.kernel")."""
        found = [
            each["counter"] for each in self._json("list", "counters", "table", *TABLE.split()) if "counter" in each
        ]
        return {
            each["name"]: Traffic(packets=each["packets"], bytes=each["bytes"])
            for each in found
            if each["name"] in COUNTERS
        }

    def _json(self, *words: str) -> list[dict[str, Any]]:
        done = self._run("-j", *words)
        if done.returncode != 0:
            raise HostError("firewall.kernel", f"nft cannot read the rules: {done.stderr.strip()}")
        found: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
        return found

    def _run(self, *words: str, stdin: str | None = None) -> process.Completed:
        return process.run([self.program, *words], stdin=stdin, check=False, deadline=time.monotonic() + SECONDS)
