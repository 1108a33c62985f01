"""The typed client of mdb: `AsyncMdb` for asyncio, `Mdb` that blocks; the calls are described once."""

from __future__ import annotations

from services.common.client import AsyncClient, Call, Client, Nothing, path_of
from services.mdb.schema import (
    Audit,
    Code,
    Edited,
    Edits,
    Format,
    Imported,
    Machine,
    MachinePatch,
    Machines,
    NewMachine,
    NewSwitch,
    Pools,
    Registration,
    Scalar,
    Switch,
    Switches,
    SwitchPatch,
    Variable,
    VariablesList,
    VariableValue,
)

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


def take_call(content: bytes, format: Format, *, dry: bool = False) -> Call[Imported]:
    return Call("POST", "/v1/import", Imported, query={"dry": str(dry).lower()}, text=(format.media_type, content))


def export_call(format: Format, query: str = "") -> Call[Nothing]:
    return Call("GET", "/v1/export", Nothing, query={"format": format.value, "q": query})


def code_call(id: int) -> Call[Code]:
    return Call("POST", path_of("v1", "machines", str(id), "code"), Code)


def register_call(asked: Registration) -> Call[Machine]:
    return Call("POST", "/v1/register", Machine, body=asked)


def switches_call() -> Call[Switches]:
    return Call("GET", "/v1/switches", Switches)


def create_switch_call(switch: NewSwitch) -> Call[Switch]:
    return Call("POST", "/v1/switches", Switch, body=switch)


def change_switch_call(id: int, patch: SwitchPatch, *, match: int | None = None) -> Call[Switch]:
    return Call("PATCH", path_of("v1", "switches", str(id)), Switch, body=patch, headers=_match(match))


def delete_switch_call(id: int, *, match: int | None = None) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "switches", str(id)), Nothing, headers=_match(match))


def settings_call() -> Call[VariablesList]:
    return Call("GET", "/v1/settings", VariablesList)


def set_call(key: str, value: Scalar) -> Call[Variable]:
    return Call("PUT", path_of("v1", "settings", key), Variable, body=VariableValue(value=value))


def pools_call() -> Call[Pools]:
    return Call("GET", "/v1/pools", Pools)


def audit_call(
    machine: int | None = None,
    *,
    topic: str | None = None,
    key: str | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> Call[Audit]:
    query = {"machine": machine, "topic": topic, "key": key, "before": before, "limit": limit}
    return Call("GET", "/v1/audit", Audit, query=query)


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

    def take(self, content: bytes, format: Format, *, dry: bool = False) -> Imported:
        """Import machines from a table; with `dry`, only tell what would change."""
        return self.send(take_call(content, format, dry=dry))

    def export(self, format: Format, query: str = "") -> bytes:
        """Machines as a table."""
        return self.fetch(export_call(format, query))

    def code(self, id: int) -> Code:
        """A code with which a machine registers again."""
        return self.send(code_call(id))

    def register(self, asked: Registration) -> Machine:
        """Register a machine, as netboot does."""
        return self.send(register_call(asked))

    def switches(self) -> list[Switch]:
        """Every switch."""
        return self.send(switches_call()).switches

    def create_switch(self, switch: NewSwitch) -> Switch:
        """Add a switch."""
        return self.send(create_switch_call(switch))

    def change_switch(self, id: int, patch: SwitchPatch, *, match: int | None = None) -> Switch:
        """Change a switch; with `match`, only while its revision is that one."""
        return self.send(change_switch_call(id, patch, match=match))

    def delete_switch(self, id: int, *, match: int | None = None) -> None:
        """Remove a switch."""
        self.send(delete_switch_call(id, match=match))

    def settings(self) -> list[Variable]:
        """What is changed while the hall runs."""
        return self.send(settings_call()).settings

    def set(self, key: str, value: Scalar) -> Variable:
        """Change a setting."""
        return self.send(set_call(key, value))

    def pools(self) -> Pools:
        """The pools of addresses."""
        return self.send(pools_call())

    def audit(
        self,
        machine: int | None = None,
        *,
        topic: str | None = None,
        key: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> Audit:
        """Who changed what, the newest first."""
        return self.send(audit_call(machine, topic=topic, key=key, before=before, limit=limit))


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

    async def register(self, asked: Registration) -> Machine:
        """Register a machine, as netboot does."""
        return await self.send(register_call(asked))

    async def switches(self) -> list[Switch]:
        """Every switch."""
        return (await self.send(switches_call())).switches

    async def settings(self) -> list[Variable]:
        """What is changed while the hall runs."""
        return (await self.send(settings_call())).settings
