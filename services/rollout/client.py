"""The typed client of the rollout service: `AsyncRolloutClient` for asyncio, `RolloutClient` that blocks."""

from __future__ import annotations

from services.common.client import AsyncClient, Call, Client, path_of
from services.rollout.schema import Plan, Reason, Rollout, Rollouts

SOCKET = "unix:/run/backline/rollout.sock"


def rollouts_call(channel: str | None = None, *, limit: int | None = None) -> Call[Rollouts]:
    return Call("GET", "/v1/rollouts", Rollouts, query={"channel": channel, "limit": limit})


def rollout_call(id: int) -> Call[Rollout]:
    return Call("GET", path_of("v1", "rollouts", str(id)), Rollout)


def start_call(plan: Plan) -> Call[Rollout]:
    return Call("POST", "/v1/rollouts", Rollout, body=plan)


def change_call(id: int, what: str, why: str = "") -> Call[Rollout]:
    return Call("POST", path_of("v1", "rollouts", str(id), what), Rollout, body=Reason(why=why))


class RolloutClient(Client):
    """Blocking. Errors are those of `services.common.client`."""

    def rollouts(self, channel: str | None = None, *, limit: int | None = None) -> Rollouts:
        """The newest first."""
        return self.send(rollouts_call(channel, limit=limit))

    def rollout(self, id: int) -> Rollout:
        """One."""
        return self.send(rollout_call(id))

    def start(self, plan: Plan) -> Rollout:
        """Begin one."""
        return self.send(start_call(plan))

    def pause(self, id: int, why: str = "") -> Rollout:
        """Hold it where it is."""
        return self.send(change_call(id, "pause", why))

    def resume(self, id: int) -> Rollout:
        """Go on."""
        return self.send(change_call(id, "resume"))

    def abort(self, id: int, why: str = "") -> Rollout:
        """Take it back."""
        return self.send(change_call(id, "abort", why))


class AsyncRolloutClient(AsyncClient):
    """For asyncio. Errors are those of `services.common.client`."""

    async def rollouts(self, channel: str | None = None, *, limit: int | None = None) -> Rollouts:
        """The newest first."""
        return await self.send(rollouts_call(channel, limit=limit))

    async def start(self, plan: Plan) -> Rollout:
        """Begin one."""
        return await self.send(start_call(plan))
