"""The typed client of a root file server's service, and of the pointers that its command moves. Both block."""

from __future__ import annotations

import msgspec

from services.common.client import Call, Client, Nothing, path_of
from services.common.collecting import GcAnswer, GcRequest
from services.roots.schema import Holds, Root, Roots

__all__ = ["NETBOOT", "SOCKET", "STAGE_SECONDS", "Holds", "Pointers", "Roots", "RootsClient"]

SOCKET = "unix:/run/backline/roots.sock"
NETBOOT = "unix:/run/backline/netboot.sock"
STAGE_SECONDS = 3 * 3600.0


def roots_call() -> Call[Roots]:
    return Call("GET", "/v1/roots", Roots)


def stage_call(role: str, version: str) -> Call[Root]:
    return Call("POST", path_of("v1", "roots", role, version, "stage"), Root)


def remove_call(role: str, version: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "roots", role, version), Nothing)


def hold_call(holds: Holds) -> Call[Holds]:
    return Call("PUT", "/v1/holds", Holds, body=holds)


def gc_call(request: GcRequest) -> Call[GcAnswer]:
    return Call("POST", "/v1/gc", GcAnswer, body=request)


class RootsClient(Client):
    """A root file server, blocking. Errors are those of `services.common.client`."""

    def roots(self) -> Roots:
        """This server and its versions."""
        return self.send(roots_call())

    def stage(self, role: str, version: str) -> Root:
        """Pull a version; returns when it is here."""
        return self.send(stage_call(role, version))

    def hold(self, holds: Holds) -> Holds:
        """Have these versions held, and no others beside what channels and pins want."""
        return self.send(hold_call(holds))

    def remove(self, role: str, version: str) -> None:
        """Remove a version that nobody uses."""
        self.send(remove_call(role, version))

    def collect(self, request: GcRequest) -> GcAnswer:
        """Remove what nobody uses."""
        return self.send(gc_call(request))


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """Where a channel shall point to."""

    version: str
    why: str
    commit_within: int | None


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """Point a channel to its previous version."""

    why: str


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """A channel afterwards."""

    name: str
    current: str | None
    previous: str | None
    committed: bool
    commit_by: float | None


class Pointers(Client):
    """The pointers of channels, in netboot. Blocking."""

    def switch(self, channel: str, switch: Switch) -> Pointer:
        """Point a channel to a version: one step."""
        return self.send(Call("POST", path_of("v1", "channels", channel, "switch"), Pointer, body=switch))

    def rollback(self, channel: str, rollback: Rollback) -> Pointer:
        """Point it to its previous version: one step."""
        return self.send(Call("POST", path_of("v1", "channels", channel, "rollback"), Pointer, body=rollback))
