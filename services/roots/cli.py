"""`backline root`: the versions on a root file server, and which one a channel points to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import asking_options, gc_options, print_json, service_options
from services.common.errors import BusyError, Exit, MissingError

if TYPE_CHECKING:
    from services.common.versions import Ref
    from services.roots.client import Pointer, RootsClient

SUMMARY = "versions on a root file server: list, stage, remove, collect; switch and roll back a channel"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline root`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description="Versions on this root file server. `switch` and `rollback` move a channel's pointer, on gw: "
        "nothing on a root file server moves.",
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("roots")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path of a root file server's service")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("version", metavar="[ROLE/]VERSION", help="the role is nfsroot when absent")

    commands.add_parser("list", parents=[asking], help="versions here, and how it stands with them").set_defaults(
        run=_list
    )
    stage = commands.add_parser("stage", parents=[asking, named], help="pull a published version now, and wait for it")
    stage.set_defaults(run=_stage)
    remove = commands.add_parser("rm", parents=[asking, named], help="remove a version that nobody uses")
    remove.set_defaults(run=_remove)
    collect = commands.add_parser("gc", parents=[asking, gc_options()], help="remove every version that nobody uses")
    collect.set_defaults(run=_collect)

    moving = asking_options("unix:/path or https://host of netboot")
    moving.add_argument("--channel", default="stable", metavar="CHANNEL", help="stable when absent")
    moving.add_argument("--why", default="", metavar="TEXT", help="for the history")
    switch = commands.add_parser("switch", parents=[moving], help="have a channel's machines boot a version")
    switch.add_argument("version", metavar="VERSION")
    switch.add_argument(
        "--commit-within", type=int, metavar="SECONDS", help="back by itself unless it is committed in that time"
    )
    switch.set_defaults(run=_switch)
    back = commands.add_parser("rollback", parents=[moving], help="have them boot the version before it again")
    back.set_defaults(run=_rollback)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    import logging

    from services.common.access import Access
    from services.common.feed.client import Follower
    from services.common.serve import serve
    from services.common.settings import read
    from services.roots.app import TOPIC, make_app
    from services.roots.held import Folder
    from services.roots.keeper import Keeper
    from services.roots.schema import Settings

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request of ours helps nobody
    settings = read(Settings, section="roots", file=arguments.config)
    keeper = Keeper(settings, Folder(settings.folder))
    follower = Follower(settings.depot, topics=[TOPIC], tls=settings.tls)
    app = make_app(keeper, follower, access=Access(settings.access))
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _client(arguments: argparse.Namespace, *, seconds: float = 30.0) -> RootsClient:
    from services.roots.client import SOCKET, RootsClient

    if not arguments.address and not Path(SOCKET.removeprefix("unix:")).exists():
        hint = "do it on one of them, as root; `switch` and `rollback` are for gw"
        raise MissingError("roots.elsewhere", "this host is no root file server", hint=hint)
    return RootsClient(arguments.address or SOCKET, seconds=seconds)


def _ref(text: str) -> Ref:
    """Raises UsageError("store.name")."""
    from services.common.versions import make_ref

    role, _, version = text.rpartition("/")
    return make_ref(role or "nfsroot", version)


def _list(arguments: argparse.Namespace) -> int:
    from services.common.versions import human

    with _client(arguments) as client:
        found = client.roots()
    if arguments.json:
        return print_json(found)
    for root in found.roots:
        state = root.state.value
        if root.state.value == "pulling":
            state = f"pulling: {human(root.moved)} of {human(root.total)}"
        elif root.state.value == "held":
            state = "held, confirmed" if root.confirmed else "held, netboot does not know yet"
        print(
            f"{root.role}/{root.version}  {human(root.size):>10}  {state}" + (f": {root.detail}" if root.detail else "")
        )
    print(f"{human(found.free)} free")
    for problem in found.problems:
        print(f"!! {problem}")
    return int(Exit.OK)


def _stage(arguments: argparse.Namespace) -> int:
    from services.roots.client import STAGE_SECONDS

    ref = _ref(arguments.version)
    with _client(arguments, seconds=STAGE_SECONDS) as client:
        root = client.stage(ref.role, ref.version)
    if arguments.json:
        return print_json(root)
    print(f"{ref} is here, {'and confirmed' if root.confirmed else 'and not confirmed yet'}")
    return int(Exit.OK)


def _remove(arguments: argparse.Namespace) -> int:
    ref = _ref(arguments.version)
    with _client(arguments, seconds=300.0) as client:
        client.remove(ref.role, ref.version)
    if not arguments.json:
        print(f"removed {ref}")
    return int(Exit.OK)


def _collect(arguments: argparse.Namespace) -> int:
    from services.common.collecting import gc_request, print_collected

    request = gc_request(arguments)
    with _client(arguments, seconds=3600.0) as client:
        answer = client.collect(request)
    if arguments.json:
        return print_json(answer)
    return print_collected(answer, plan=arguments.plan)


def _switch(arguments: argparse.Namespace) -> int:
    from services.roots.client import NETBOOT, Pointers, Switch

    with Pointers(arguments.address or NETBOOT) as pointers:
        switch = Switch(version=arguments.version, why=arguments.why, commit_within=arguments.commit_within)
        pointer = pointers.switch(arguments.channel, switch)
    if pointer.current != arguments.version:
        raise BusyError("roots.switch", f"channel {pointer.name} points to {pointer.current}, not {arguments.version}")
    return _pointed(arguments, pointer)


def _rollback(arguments: argparse.Namespace) -> int:
    from services.roots.client import NETBOOT, Pointers, Rollback

    with Pointers(arguments.address or NETBOOT) as pointers:
        pointer = pointers.rollback(arguments.channel, Rollback(why=arguments.why))
    if pointer.current is None:
        raise MissingError("roots.rollback", f"channel {pointer.name} points nowhere now: there was no version before")
    return _pointed(arguments, pointer)


def _pointed(arguments: argparse.Namespace, pointer: Pointer) -> int:
    if arguments.json:
        return print_json(pointer)
    trial = "" if pointer.committed else ", until it is committed or time is up"
    print(f"channel {pointer.name}: {pointer.current}{trial}; before it: {pointer.previous or 'none'}")
    print("its machines boot that when they start next")
    return int(Exit.OK)
