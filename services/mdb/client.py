"""The typed client of mdb: `AsyncMdb` for asyncio, `Mdb` that blocks; the calls are described once."""

from __future__ import annotations

from services.common.client import AsyncClient, Call, Client, Nothing, path_of
from services.mdb.schema import Audit, Edited, Edits, Machine, MachinePatch, Machines, NewMachine, Pools

SOCKET = "unix:/run/backline/mdb.sock"


def machines_call(query: str = "", *, limit: int | None = None, offset: int | None = None) -> Call[Machines]:
    return Call("GET", "/v1/machines", Machines, query={"q": query or None, "limit": limit, "offset": offset})


def machine_call(name: int | str) -> Call[Machine]:
    return Call("GET", path_of("v1", "machines", str(name)), Machine)


def create_call(machine: NewMachine) -> Call[Machine]:
    return Call("POST", "/v1/machines", Machine, body=machine)


def change_call(id: int, patch: MachinePatch, *, match: int | None = None) -> Call[Machine]:
    return Call("PATCH", path_of("v1", "machines", str(id)), Machine, body=patch, headers=_match(match))


def delete_call(id: int, *, match: int | None = None) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "machines", str(id)), Nothing, headers=_match(match))


def edit_call(edits: Edits) -> Call[Edited]:
    return Call("POST", "/v1/edits", Edited, body=edits)


def pools_call() -> Call[Pools]:
    return Call("GET", "/v1/pools", Pools)


def audit_call(machine: int | None = None, *, before: int | None = None, limit: int | None = None) -> Call[Audit]:
    return Call("GET", "/v1/audit", Audit, query={"machine": machine, "before": before, "limit": limit})


def _match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"if-match": f'"{revision}"'}


class Mdb(Client):
    """mdb, blocking. Errors are those of `services.common.client`."""

    def machines(self, query: str = "", *, limit: int | None = None, offset: int | None = None) -> Machines:
        """Machines that a query finds."""
        return self.send(machines_call(query, limit=limit, offset=offset))

    def machine(self, name: int | str) -> Machine:
        """One machine by id, or by exact name, MAC or address."""
        return self.send(machine_call(name))

    def create(self, machine: NewMachine) -> Machine:
        """Add a machine."""
        return self.send(create_call(machine))

    def change(self, id: int, patch: MachinePatch, *, match: int | None = None) -> Machine:
        """Change a machine; with `match`, only while its revision is that one."""
        return self.send(change_call(id, patch, match=match))

    def delete(self, id: int, *, match: int | None = None) -> None:
        """Remove a machine."""
        self.send(delete_call(id, match=match))

    def edit(self, edits: Edits) -> Edited:
        """Many edits, all of them or none."""
        return self.send(edit_call(edits))

    def pools(self) -> Pools:
        """The pools of addresses."""
        return self.send(pools_call())

    def audit(self, machine: int | None = None, *, before: int | None = None, limit: int | None = None) -> Audit:
        """Who changed what, the newest first."""
        return self.send(audit_call(machine, before=before, limit=limit))


class AsyncMdb(AsyncClient):
    """mdb, for asyncio. Errors are those of `services.common.client`."""

    async def machines(self, query: str = "", *, limit: int | None = None, offset: int | None = None) -> Machines:
        """Machines that a query finds."""
        return await self.send(machines_call(query, limit=limit, offset=offset))

    async def machine(self, name: int | str) -> Machine:
        """One machine by id, or by exact name, MAC or address."""
        return await self.send(machine_call(name))

    async def edit(self, edits: Edits) -> Edited:
        """Many edits, all of them or none."""
        return await self.send(edit_call(edits))
