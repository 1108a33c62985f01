"""`backline publish`: bring a version of the store to a hall, signed, and have a channel boot it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from services.common.errors import Exit, UsageError

SUMMARY = "bring a version to the hall, signed, and have a channel boot it"

SOCKETS = Path("/run/backline")
SECONDS = 120.0
_EPILOG = """\
Signed with your key (`build keys`), or that of --key, BACKLINE_PUBLISH_KEY or BACKLINE_BUILD_SIGNING_KEY; a .pub means
an agent's. What was cut off goes on where it was: give the same command again. The channel moves when every receiver
has confirmed, unless somebody else has moved it or published on it meanwhile; until then, nothing that runs changes.
"""


def _roles(prefix: str = "", **_: object) -> list[str]:
    from builder import config, settings

    return [role for role in config.published(settings.source_root()) if role.startswith(prefix)]


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline publish`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description=SUMMARY[0].upper() + SUMMARY[1:] + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = root.add_argument(
        "what", metavar="ROLE[@VERSION]", help="the version that was built last of a role, or another one of the store"
    )
    what.completer = _roles  # type: ignore[attr-defined]  # argcomplete's own protocol
    root.add_argument("--channel", required=True, metavar="CHANNEL", help="whose machines get it, as in stable")
    root.add_argument("--to", nargs="+", default=[], metavar="HOST", help="only these servers; all of role rhfs else")
    root.add_argument("--why", default="", metavar="TEXT", help="for the history")
    root.add_argument("--allow-downgrade", action="store_true", help="an older version, or one that was left, is meant")
    root.add_argument(
        "--commit-within",
        type=int,
        metavar="SECONDS",
        help="the channel moves back by itself unless it is committed within this time; committed at once else",
    )
    root.add_argument("--no-switch", action="store_true", help="only bring it: `backline rollout start` comes next")
    root.add_argument(
        "--wait", type=int, default=900, metavar="SECONDS", help="how long for receivers (default: %(default)s)"
    )
    root.add_argument(
        "--address", metavar="ADDRESS", help="the depot; gw's own socket, or https://depot.DOMAIN of ./hall.toml else"
    )
    root.add_argument("--netboot", metavar="ADDRESS", help="netboot, where it is not beside the depot")
    root.add_argument("--key", type=Path, metavar="FILE", help="your key, or a .pub of an agent's")
    root.add_argument("--store", metavar="FOLDER", help="folder of finished versions")
    root.add_argument("--quiet", action="store_true", help="no progress")
    root.add_argument("--json", action="store_true", help="print one JSON document")
    root.set_defaults(run=run)
    return root


def addresses(depot: str | None, netboot: str | None, *, sockets: Path = SOCKETS) -> tuple[str, str]:
    """Where depot and netboot are. Raises UsageError("publish.address") when nothing says so."""
    from services.common.login import read_hall

    if depot is None:
        if (sockets / "depot.sock").exists():
            depot = f"unix:{sockets}/depot.sock"
        elif domain := read_hall(None).domain:
            depot = f"https://depot.{domain}"
        else:
            hint = "give --address https://depot.DOMAIN, or do it beside hall.toml"
            raise UsageError("publish.address", "publish where?", hint=hint)
    return depot, netboot or _beside(depot)


def _beside(depot: str) -> str:
    """netboot of the hall whose depot is at an address. Raises UsageError("publish.address")."""
    parts = urlsplit(depot)
    if depot.startswith("unix:") and depot.endswith("/depot.sock"):
        return depot.removesuffix("depot.sock") + "netboot.sock"
    if parts.hostname is not None and parts.hostname.partition(".")[0] == "depot":
        return depot.replace("://depot", "://netboot", 1)
    raise UsageError("publish.address", f"where is netboot, if the depot is at {depot}?", hint="give --netboot ADDRESS")


def run(arguments: argparse.Namespace) -> int:
    """`backline publish ROLE[@VERSION] --channel CHANNEL`."""
    import msgspec

    from builder import publish, settings
    from builder.keys import Keyring
    from builder.store import Store
    from netboot.client import Netboot
    from services.common.progress import Progress
    from services.depot.client import Depot

    chosen = settings.load({"store": arguments.store} if arguments.store else None)
    store = Store(chosen.store_path)
    role, _, version = arguments.what.partition("@")
    wanted = publish.Wanted(
        ref=store.resolve(version, role=role) if version else store.resolve(role),
        channel=arguments.channel,
        to=arguments.to,
        why=arguments.why,
        allow_downgrade=arguments.allow_downgrade,
        switch=not arguments.no_switch,
        commit_within=arguments.commit_within,
    )
    depot_at, netboot_at = addresses(arguments.address, arguments.netboot)
    named = arguments.key or os.environ.get("BACKLINE_PUBLISH_KEY") or chosen.signing_key
    key = Path(named) if named else Keyring().default()
    progress = Progress(quiet=arguments.quiet)
    netboot: Callable[[], Netboot] = lambda: Netboot(netboot_at)  # noqa: E731
    with Depot(depot_at, seconds=SECONDS) as depot:
        publisher = publish.Publisher(store, depot, netboot, key=key, progress=progress)
        outcome = publisher.publish(wanted, deadline=time.monotonic() + arguments.wait)
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(outcome), indent=2).decode() + "\n")
    else:
        sys.stdout.write(publish.render(outcome))
    return int(Exit.OK)
