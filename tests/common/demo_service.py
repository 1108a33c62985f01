"""A service made of the house's base, with handlers that behave well and badly. Run by tests as a real process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from services.common import log, peer
from services.common.app import Application, create_app
from services.common.edge import Operation, read_body, read_query
from services.common.errors import BusyError, HostError, InputError, MissingError
from services.common.identity import ImageIdentity
from services.common.process import run
from services.common.serve import serve, stopping


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    """A thing that is sent in."""

    name: Annotated[str, msgspec.Meta(max_length=8)]
    size: int = 0


class ThingQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which things."""

    count: Annotated[int, msgspec.Meta(ge=0, description="How many")] = 1
    tag: list[str] = []


class Answer(msgspec.Struct):
    """What the demo says."""

    text: str = ""
    thing: Thing | None = None
    peer: peer.Peer | None = None
    variables: dict[str, str] = {}


async def echo(request: Request) -> Answer:
    """Gives back what came in."""
    return Answer(thing=await read_body(request, Thing))


async def things(request: Request) -> Answer:
    query = read_query(request, ThingQuery)
    return Answer(text=f"{query.count} {'+'.join(query.tag)}", variables={"id": request.path_params["id"]})


async def fail(request: Request) -> Answer:
    match request.path_params["kind"]:
        case "bug":
            raise RuntimeError("a secret of the source")
        case "missing":
            raise MissingError("thing.unknown", "there is no such thing", hint="look again", where="/etc/secret:1")
        case "busy":
            raise BusyError("thing.busy", "somebody is at it")
        case "input":
            raise InputError("thing.wrong", "that is wrong")
        case _:
            run(["sh", "-c", "echo secret >&2; exit 3"])
    raise AssertionError


async def whoami(request: Request) -> Answer:
    listen = {key: value for key, value in os.environ.items() if key.startswith("LISTEN")}
    return Answer(text=log.request_id.get() or "", peer=peer.peer_of(request), variables=listen)


async def slow(request: Request) -> Answer:
    """Ends when SIGUSR1 says so, or never."""
    print("slow began", flush=True)
    await request.app.state.release.wait()
    return Answer(text="slow")


async def block(request: Request) -> Answer:
    """Stops the event loop for a second, as a bug would."""
    threading.Event().wait(1.0)
    return Answer()


async def stream(request: Request) -> Response:
    stop = stopping(request)

    async def lines() -> AsyncIterator[str]:
        yield "begin\n"
        await stop.wait()
        yield "end\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def broken_stream(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        yield "begin\n"
        raise RuntimeError("in the middle")

    return StreamingResponse(lines(), media_type="text/plain")


class Switch:
    """A readiness check that a request turns off."""

    def __init__(self) -> None:
        self.fails = False

    async def check(self) -> None:
        if self.fails:
            raise HostError("store.down", "the store is down")

    async def turn(self, request: Request) -> None:
        self.fails = request.path_params["state"] == "failing"


def make_app(*, fail_start: str = "") -> Application:
    switch = Switch()

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[Mapping[str, object]]:
        if fail_start == "expected":
            raise InputError("demo.settings", "the settings are wrong", hint="right them", where="demo.toml:3")
        if fail_start == "bug":
            raise RuntimeError("a bug")
        app.state.release = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, app.state.release.set)
        yield {}

    return create_app(
        service="demo",
        lifespan=lifespan,
        identity=ImageIdentity("gw", "20260101.abc"),
        checks={"store": switch.check},
        max_body_size=1000,
        routes=[
            Operation("POST", "/v1/echo", echo, summary="Echo", body=Thing, answer=Answer),
            Operation(
                "POST",
                "/v1/large",
                echo,
                summary="Echo more",
                body=Thing,
                answer=Answer,
                name="large",
                max_body_size=50,
            ),
            Operation("GET", "/v1/things/{id}", things, summary="Things", query=ThingQuery, answer=Answer),
            Operation("GET", "/v1/fail/{kind}", fail, summary="Fail", answer=Answer, errors=[404]),
            Operation("GET", "/v1/whoami", whoami, summary="Who", answer=Answer),
            Operation("GET", "/v1/slow", slow, summary="Slow", answer=Answer),
            Operation("GET", "/v1/block", block, summary="Block", answer=Answer),
            Operation("GET", "/v1/stream", stream, summary="Stream", media_type="text/plain"),
            Operation("GET", "/v1/broken", broken_stream, summary="Broken", media_type="text/plain"),
            Operation("POST", "/v1/switch/{state}", switch.turn, summary="Switch", status=204, name="switch"),
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", action="append", default=[])
    parser.add_argument("--grace", type=int, default=10)
    parser.add_argument("--header-seconds", type=float)
    parser.add_argument("--max-tcp", type=int)
    parser.add_argument("--fail-start", default="")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    peer.HEADER_SECONDS = arguments.header_seconds or peer.HEADER_SECONDS
    peer.MAX_TCP = arguments.max_tcp or peer.MAX_TCP
    app = make_app(fail_start=arguments.fail_start)
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=arguments.grace)


if __name__ == "__main__":
    from services.common.errors import BacklineError
    from services.common.main import report

    try:
        sys.exit(main())
    except BacklineError as error:
        report(error, as_json=False)
        sys.exit(int(error.exit))
