"""The typed client of presence: `AsyncPresence` for asyncio, `Presence` that blocks."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.client import AsyncClient, Call, Client, Nothing
from services.presence.schema import Answer, Beat, Beats, Ends, Logout, NewLogin, Sessions

SOCKET = "unix:/run/backline/presence.sock"


def login_call(new: NewLogin, token: str) -> Call[Answer]:
    return Call("POST", "/v1/login", Answer, body=new, headers={"authorization": f"Bearer {token}"})


def logout_call(login: str, token: str | None = None) -> Call[Nothing]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return Call("POST", "/v1/logout", Nothing, body=Logout(login=login), headers=headers)


def sessions_call() -> Call[Sessions]:
    return Call("GET", "/v1/sessions", Sessions)


def heartbeats_call(beats: Sequence[Beat]) -> Call[Ends]:
    return Call("POST", "/v1/heartbeats", Ends, body=Beats(beats=list(beats)))


class Presence(Client):
    """Blocking. Errors are those of `services.common.client`."""

    def login(self, new: NewLogin, token: str) -> Answer:
        """Ask for a login on the machine of a token."""
        return self.send(login_call(new, token))

    def logout(self, login: str, token: str | None = None) -> None:
        """End a session: that on the machine of a token, or, for root, wherever it is."""
        self.send(logout_call(login, token))

    def sessions(self) -> Sessions:
        """Who is where."""
        return self.send(sessions_call())

    def heartbeats(self, beats: Sequence[Beat]) -> Ends:
        """Pass heartbeats on. Whose sessions have ended where they are named."""
        return self.send(heartbeats_call(beats))


class AsyncPresence(AsyncClient):
    """For asyncio. Errors are those of `services.common.client`."""

    async def login(self, new: NewLogin, token: str) -> Answer:
        """Ask for a login on the machine of a token."""
        return await self.send(login_call(new, token))

    async def sessions(self) -> Sessions:
        """Who is where."""
        return await self.send(sessions_call())

    async def heartbeats(self, beats: Sequence[Beat]) -> Ends:
        """Pass heartbeats on. Whose sessions have ended where they are named."""
        return await self.send(heartbeats_call(beats))
