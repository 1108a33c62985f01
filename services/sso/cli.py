"""`backline sso`: run the service. What it knows, it tells nginx alone; `backline presence list` is for people."""

from __future__ import annotations

import argparse

from services.common.commands import service_options

SUMMARY = "tells nginx who sits at an address"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline sso`."""
    root = argparse.ArgumentParser(prog=prog, description="Tells nginx who sits at an address, and nobody else.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    serve = commands.add_parser("serve", parents=[service_options("sso")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access
    from services.common.serve import serve
    from services.common.settings import read
    from services.sso.app import make_app, make_who
    from services.sso.quick import Counts, quick
    from services.sso.schema import Settings

    settings = read(Settings, section="sso", file=arguments.config)
    who, access, counts = make_who(settings), Access(settings.access), Counts()
    # Everybody may connect: whom it answers is decided by who the kernel says it is.
    return serve(
        make_app(who, access, counts),
        listen=arguments.listen,
        mode=0o666,
        grace_seconds=settings.grace_seconds,
        http=quick(who, access, counts),
    )
