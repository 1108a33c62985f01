"""The HTTP face of hostd, the same on its unix socket and on TCP, with one difference: journals.

Host, version, units and their states are for everybody who reaches a socket: any local user learns as much from
systemctl, and an administrator's tools need them from the LAN. Journals may hold anything, so they are given on the
unix socket alone, to those who could read them with journalctl: root, hostd's own user, and members of the groups of
setting `journal_groups`. The kernel says who that is (`services.common.access`). Nothing can be changed through hostd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.edge import Operation, read_query
from services.hostd.schema import Host, Journal, JournalQuery, UnitDetail, Units, UnitsQuery
from services.hostd.store import Store

JOURNALS_AT_ONCE = 4


class Hostd:
    """The handlers, around one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.journals = asyncio.Semaphore(JOURNALS_AT_ONCE)

    async def host(self, request: Request) -> Host:  # noqa: ARG002
        """The host's name, boot, role and version."""
        return self.store.host()

    async def units(self, request: Request) -> Units:
        """Loaded units with their states."""
        query = read_query(request, UnitsQuery)
        return await asyncio.to_thread(self.store.units, query)

    async def unit(self, request: Request) -> UnitDetail:
        """One unit, looked at closely."""
        return await asyncio.to_thread(self.store.unit, request.path_params["name"])

    async def journal(self, request: Request) -> Journal:
        """The newest journal entries of a unit; only on the unix socket, for root and the journal's groups."""
        require(request, Role.ORGANIZER)
        query = read_query(request, JournalQuery)
        async with self.journals:
            return await asyncio.to_thread(self.store.journal, request.path_params["name"], query)

    async def bus_answers(self) -> None:
        """Raises BusError when systemd cannot be asked."""
        await asyncio.to_thread(self.store.manager.list_units, patterns=["-.slice"])


def make_app(store: Store, *, journal_groups: Sequence[str]) -> Application:
    """hostd's application."""
    hostd = Hostd(store)
    unit_errors = [400, 404, 503]
    return create_app(
        service="hostd",
        access=Access(groups={Role.ORGANIZER: journal_groups}),
        description="What runs on this host: image, units, journals. Read-only.",
        identity=store.identity,
        checks={"bus": hostd.bus_answers},
        routes=[
            Operation("GET", "/v1/host", hostd.host, summary="This host", answer=Host),
            Operation("GET", "/v1/units", hostd.units, summary="Units", query=UnitsQuery, answer=Units, errors=[503]),
            Operation("GET", "/v1/units/{name}", hostd.unit, summary="A unit", answer=UnitDetail, errors=unit_errors),
            Operation(
                "GET",
                "/v1/units/{name}/journal",
                hostd.journal,
                summary="A unit's journal",
                query=JournalQuery,
                answer=Journal,
                errors=[401, 403, *unit_errors],
            ),
        ],
    )
