"""A service whose doors need something: run by tests as a real process, and asked as several users."""

from __future__ import annotations

import argparse
import sys

import msgspec
from starlette.requests import Request

from services.common.access import Access, Caller, Role, caller_of, require
from services.common.access_settings import AccessSettings
from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.serve import serve
from services.common.settings import read
from services.common.tokens import Tokens


class Who(msgspec.Struct):
    """A caller, as a test compares it."""

    name: str
    roles: list[str]
    scopes: list[str]
    origin: str
    machine: int | None = None
    boot: str | None = None


def shown(caller: Caller) -> Who:
    roles = sorted(role.value for role in caller.roles)
    return Who(caller.name, roles, sorted(caller.scopes), caller.origin, caller.machine, caller.boot)


async def who(request: Request) -> Who:
    return shown(caller_of(request))


async def known(request: Request) -> Who:
    return shown(require(request))


async def change(request: Request) -> Who:
    return shown(require(request, Role.ROOT))


async def look(request: Request) -> Who:
    return shown(require(request, Role.ORGANIZER))


async def beat(request: Request) -> Who:
    return shown(require(request, scope="heartbeat"))


def make_app(groups: list[str]) -> Application:
    settings = read(AccessSettings, section="guarded")
    return create_app(
        service="guarded",
        access=Access(settings, groups={Role.ORGANIZER: groups}, tokens=Tokens.of_this_service()),
        routes=[
            Operation("GET", "/v1/who", who, summary="Who", answer=Who),
            Operation("GET", "/v1/known", known, summary="Known", answer=Who),
            Operation("POST", "/v1/change", change, summary="Change", answer=Who),
            Operation("GET", "/v1/look", look, summary="Look", answer=Who),
            Operation("POST", "/v1/beat", beat, summary="Beat", answer=Who),
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", action="append", default=[])
    return serve(make_app(parser.parse_args().group), mode=0o666)


if __name__ == "__main__":
    sys.exit(main())
