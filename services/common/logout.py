"""`backline logout`: forget a session that `backline login` has kept."""

from __future__ import annotations

import argparse

from services.common.errors import Exit

SUMMARY = "forget the session of a service, or all of them"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline logout`."""
    root = argparse.ArgumentParser(prog=prog, description="Forget sessions that `backline login` has kept.")
    root.add_argument("url", nargs="?", metavar="URL", help="https://HOST; every session when absent")
    root.add_argument("--json", action="store_true", help="what happened as JSON")
    root.set_defaults(run=_logout)
    return root


def _logout(arguments: argparse.Namespace) -> int:
    import msgspec

    from services.common import saved_sessions

    known = saved_sessions.load(saved_sessions.file_of())
    wanted = [saved_sessions.address_of(arguments.url)] if arguments.url else sorted(known)
    gone = [address for address in wanted if saved_sessions.save(address, None)]
    if arguments.json:
        print(msgspec.json.encode({"forgotten": gone}).decode())
    else:
        print(f"forgotten: {', '.join(gone)}" if gone else "there was no session")
    return int(Exit.OK)
