"""gw's side of copies: each new sealed archive goes to every root file server, again until it is there.

One thread does one thing after the other; what it knows of a server is that server's own word, so nothing is kept on
disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from services.common.errors import BacklineError
from services.common.tls import TlsSettings
from services.state import retention
from services.state.client import CREDENTIAL, PORT, StateClient
from services.state.schema import Receiver, Save, Settings, State, parse_name
from services.state.seal import credential
from services.state.shelf import listing

logger = logging.getLogger(__name__)

NEW_GW_SECONDS = 3600.0
"""How long a gw that has just been started may be without an archive."""


def receivers(settings: Settings) -> Mapping[str, str]:
    """Addresses of root file servers' state services by host."""
    pairs = (text.partition("=") for text in settings.receivers)
    return {host: address if ":" in address else f"https://{address}:{PORT}" for host, _, address in pairs}


def tls_of(settings: Settings) -> TlsSettings:
    """What we show to root file servers: the settings' certificate, else this host's credential."""
    if settings.tls.certificate is not None:
        return settings.tls
    return TlsSettings(ca=settings.tls.ca, certificate=credential(CREDENTIAL))


class Copying:
    """Brings archives to root file servers. `copy` is called now and then, by one thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.monotonic = monotonic
        self.began = monotonic()
        self.known = {host: Receiver(host=host) for host in receivers(settings)}
        self._warned: set[str] = set()

    def copy(self) -> None:
        """Let every root file server have the newest archive; what fails is noted, and done again by the next call."""
        newest = next((save for save in listing(self.settings.folder) if save.sealed), None)
        for host, address in receivers(self.settings).items():
            before = self.known[host]
            if newest is not None and before.newest == newest.name and before.problem is None:
                continue
            try:
                self.known[host] = self._copy_to(host, address, newest)
            except (BacklineError, OSError) as error:
                text = str(error)
                if before.problem != text:
                    logger.warning("no copy at %s: %s", host, text)
                self.known[host] = Receiver(host=host, newest=before.newest, at=before.at, problem=text)
        for problem in self.problems():
            if problem not in self._warned:
                logger.warning("%s", problem)
        self._warned = set(self.problems())

    def _copy_to(self, host: str, address: str, newest: Save | None) -> Receiver:
        with StateClient(address, tls=tls_of(self.settings)) as client:
            have = {copy.name for copy in client.copies(self.settings.host).copies}
            if newest is not None and newest.name not in have:
                client.put(self.settings.host, self.settings.folder / newest.name)
                have.add(newest.name)
                logger.info("%s has %s", host, newest.name)
        line = parsed.line if newest is not None and (parsed := parse_name(newest.name)) else None
        ours = [name for text in have if (name := parse_name(text)) is not None and name.line == line]
        last = max(ours, key=retention.moment, default=None)
        at = None if last is None else retention.moment(last).timestamp()
        return Receiver(host=host, newest=None if last is None else str(last), at=at)

    def state(self) -> State:
        """All that is known."""
        return State(
            host=self.settings.host,
            saves=listing(self.settings.folder),
            receivers=list(self.known.values()),
            problems=self.problems(),
        )

    def save_age(self) -> float | None:
        """Seconds since the newest archive was saved."""
        saves = listing(self.settings.folder)
        return None if not saves else max(0.0, self.clock() - saves[0].at)

    def copy_age(self, host: str) -> float | None:
        """Seconds since the newest archive that a root file server has was saved."""
        at = self.known[host].at
        return None if at is None else max(0.0, self.clock() - at)

    def problems(self) -> list[str]:
        """What an administrator has to look at, in words."""
        found = []
        saves = listing(self.settings.folder)
        young = self.monotonic() - self.began < NEW_GW_SECONDS
        if not saves:
            return [] if young else ["nothing was ever saved here: systemctl status backline-state.service"]
        if (age := self.save_age()) is not None and self._overdue(age):
            found.append(f"the newest archive is {_hours(age)} old: systemctl status backline-state.service")
        if not saves[0].sealed:
            found.append("archives are not sealed, so none leaves this host: backline hall state-key, docs/state.md")
            return found
        if not self.known:
            found.append("there is no root file server that could have a copy")
        for host, known in self.known.items():
            age = self.copy_age(host)
            if age is None and young and known.problem is None:
                continue
            if age is None or self._overdue(age):
                why = f": {known.problem}" if known.problem else ""
                found.append(f"{host} has {'no copy' if age is None else f'a copy that is {_hours(age)} old'}{why}")
        return found

    def _overdue(self, age: float) -> bool:
        return age > self.settings.overdue_seconds


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def folder_of_fetched(settings: Settings) -> Path:
    """Where archives are that were fetched from a root file server."""
    return settings.folder / "fetched"
