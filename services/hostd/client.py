"""The typed client of hostd: `AsyncHostd` for asyncio, `Hostd` that blocks; the calls are described once."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.client import AsyncClient, Call, Client, path_of
from services.common.identity import Version
from services.hostd.schema import Host, Journal, UnitDetail, Units

SOCKET = "unix:/run/backline/hostd.sock"


def host_call() -> Call[Host]:
    return Call("GET", "/v1/host", Host)


def version_call() -> Call[Version]:
    return Call("GET", "/version", Version)


def units_call(*, state: Sequence[str] = (), match: Sequence[str] = ()) -> Call[Units]:
    return Call("GET", "/v1/units", Units, query={"state": state, "match": match})


def unit_call(name: str) -> Call[UnitDetail]:
    return Call("GET", path_of("v1", "units", name), UnitDetail)


def journal_call(name: str, *, lines: int | None = None) -> Call[Journal]:
    return Call("GET", path_of("v1", "units", name, "journal"), Journal, query={"lines": lines})


class Hostd(Client):
    """hostd, blocking. Errors are those of `services.common.client`."""

    def host(self) -> Host:
        """The host's name, boot, role and version."""
        return self.send(host_call())

    def version(self) -> Version:
        """What hostd itself is."""
        return self.send(version_call())

    def units(self, *, state: Sequence[str] = (), match: Sequence[str] = ()) -> Units:
        """Loaded units in one of the states that fit one of the shell patterns."""
        return self.send(units_call(state=state, match=match))

    def unit(self, name: str) -> UnitDetail:
        """One unit."""
        return self.send(unit_call(name))

    def journal(self, name: str, *, lines: int | None = None) -> Journal:
        """The newest entries of a unit's journal; on the unix socket only."""
        return self.send(journal_call(name, lines=lines))


class AsyncHostd(AsyncClient):
    """hostd, for asyncio. Errors are those of `services.common.client`."""

    async def host(self) -> Host:
        """The host's name, boot, role and version."""
        return await self.send(host_call())

    async def version(self) -> Version:
        """What hostd itself is."""
        return await self.send(version_call())

    async def units(self, *, state: Sequence[str] = (), match: Sequence[str] = ()) -> Units:
        """Loaded units in one of the states that fit one of the shell patterns."""
        return await self.send(units_call(state=state, match=match))

    async def unit(self, name: str) -> UnitDetail:
        """One unit."""
        return await self.send(unit_call(name))

    async def journal(self, name: str, *, lines: int | None = None) -> Journal:
        """The newest entries of a unit's journal; on the unix socket only."""
        return await self.send(journal_call(name, lines=lines))
