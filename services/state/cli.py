"""`backline state`: save what gw cannot make again, see how copies stand, restore it on this or another host."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import json_option, moment, one_line, print_json
from services.common.errors import BacklineError, Exit, HostError, MissingError, UsageError, nearest

if TYPE_CHECKING:
    from services.state.restore import Restored
    from services.state.schema import Copy, Settings

SUMMARY = "gw's state: save it, see its copies, fetch one, restore it"
CONFIG = Path("/run/backline/state.toml")
HALL_TOML = Path("/run/backline/hall/current/hall.toml")
UNIT = "backline-state-restore.service"
START_SECONDS = 120.0
_TRIES = 3


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline state`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description="What gw cannot make again: databases, leases, keys. On gw, as root. What to do when gw is lost: "
        "docs/state.md.",
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help=f"settings; {CONFIG} where that exists")
    asking = argparse.ArgumentParser(add_help=False, parents=[common])
    json_option(asking)

    command = commands.add_parser("save", parents=[asking], help="save everything into a new archive, now")
    command.add_argument("--why", default="asked for", metavar="TEXT", help="for the archive's manifest")
    command.set_defaults(run=_save)

    command = commands.add_parser("list", parents=[asking], help="archives here, copies elsewhere, and what is wrong")
    command.add_argument("--from", dest="host", metavar="HOST", help="the copies that a root file server keeps instead")
    command.set_defaults(run=_list)

    command = commands.add_parser("show", parents=[asking], help="verify an archive, and say what is in it")
    command.add_argument("archive", metavar="ARCHIVE", help="a name of `list`, or a file")
    command.add_argument("--hall", action="store_true", help="print the hall.toml that was in force instead")
    command.set_defaults(run=_show)

    command = commands.add_parser("fetch", parents=[asking], help="fetch a copy from a root file server")
    command.add_argument("--from", dest="host", required=True, metavar="HOST", help="a root file server of hall.toml")
    command.add_argument("archive", nargs="?", metavar="ARCHIVE", help="the newest of the gw that was lost when absent")
    command.set_defaults(run=_fetch)

    command = commands.add_parser(
        "restore", parents=[asking], help="replace everything here by what an archive has; goes on after a kill"
    )
    command.add_argument("archive", nargs="?", metavar="ARCHIVE", help="what was fetched last when absent")
    command.add_argument("--abandon", action="store_true", help="take back a restore that cannot go on")
    command.set_defaults(run=_restore)

    command = commands.add_parser("finish", parents=[common], help="bring a restore to its end (systemd does)")
    command.set_defaults(run=_finish)

    command = commands.add_parser("serve", parents=[common], help="run the service (systemd does)")
    command.add_argument("--listen", action="append", default=[], metavar="ADDRESS", help="unix:/path or host:port")
    command.set_defaults(run=_serve)
    return root


def _settings(arguments: argparse.Namespace) -> Settings:
    from services.common.settings import read
    from services.state.schema import Settings

    file = arguments.config or (CONFIG if CONFIG.exists() else None)
    return read(Settings, section="state", file=file)


def _save(arguments: argparse.Namespace) -> int:
    from services.common.identity import read_identity
    from services.common.versions import human
    from services.state import save
    from services.state.seal import credential, read_key

    role = credential("backline.role")
    identity = read_identity({"CREDENTIALS_DIRECTORY": str(role.parent)} if role is not None else {})

    hall = HALL_TOML.read_text() if HALL_TOML.exists() else ""
    done = save.save(_settings(arguments), why=arguments.why, key=read_key(), identity=identity, hall_toml=hall)
    if arguments.json:
        return print_json(done)
    how = "sealed" if done.sealed else "NOT sealed, readable for root alone, and copied nowhere: docs/state.md"
    print(f"saved {done.name}, {human(done.size)}, {how}")
    return int(Exit.OK)


def _list(arguments: argparse.Namespace) -> int:
    from services.common.versions import human
    from services.state.client import SOCKET, StateClient

    settings = _settings(arguments)
    if arguments.host is not None:
        copies = _copies(settings, arguments.host)
        if arguments.json:
            return print_json(copies)
        for copy in copies:
            print(f"{copy.name}  {human(copy.size):>10}  received {moment(copy.received)}")
        return int(Exit.OK)
    with StateClient(SOCKET) as client:
        state = client.state()
    if arguments.json:
        return print_json(state)
    for save in state.saves:
        print(f"{save.name}  {human(save.size):>10}  {moment(save.at)}  {'sealed' if save.sealed else 'not sealed'}")
    for receiver in state.receivers:
        why = f": {one_line(receiver.problem)}" if receiver.problem else ""
        print(f"{receiver.host}: {receiver.newest or 'no copy'}{why}")
    for problem in state.problems:
        print(f"!! {one_line(problem)}")
    return int(Exit.OK)


def _show(arguments: argparse.Namespace) -> int:
    import tempfile

    from services.common.versions import human
    from services.state.archive import read_manifest
    from services.state.seal import read_key

    settings = _settings(arguments)
    with tempfile.TemporaryDirectory() as work:
        manifest = read_manifest(_find(settings, arguments.archive), Path(work), read_key())
    if arguments.hall:
        print(manifest.hall_toml, end="")
        return int(Exit.OK)
    if arguments.json:
        return print_json(manifest)
    print(f"{manifest.hall} ({manifest.domain}): {manifest.host}, {manifest.role} {manifest.version}")
    print(f"saved {moment(manifest.saved_at)}: {manifest.why}")
    for part in manifest.parts:
        size = human(sum(entry.size for entry in part.entries))
        schemas = [f"{each.dialect}, schema {each.revision or 'empty'}" for each in part.entries if each.dialect]
        print(f"  {part.name:<10} {len(part.entries):>5} entries {size:>10}  {'; '.join([part.folder, *schemas])}")
    return int(Exit.OK)


def _client_of(settings: Settings, host: str) -> tuple[str, str]:
    """Name and address of a root file server. Raises UsageError("state.host")."""
    from services.state.copying import receivers

    known = receivers(settings)
    if host not in known:
        hint = nearest(host, list(known)) or f"there are: {', '.join(known) or 'none'}"
        raise UsageError("state.host", f"{host} is no root file server of this hall", hint=hint)
    return host, known[host]


def _copies(settings: Settings, host: str) -> list[Copy]:
    from services.state.client import StateClient
    from services.state.copying import tls_of

    _, address = _client_of(settings, host)
    with StateClient(address, tls=tls_of(settings)) as client:
        return client.copies(settings.host).copies


def _find(settings: Settings, archive: str | None) -> Path:
    """The file of an archive. Raises MissingError("state.archive")."""
    from services.state.copying import folder_of_fetched

    fetched = folder_of_fetched(settings)
    if archive is None:
        found = sorted(fetched.glob("*.state"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise MissingError(
                "state.archive", "nothing was fetched", hint="backline state fetch --from HOST, or name an archive"
            )
        return found[-1]
    if "/" in archive:
        return Path(archive)
    places = [Path(archive), fetched / archive, settings.folder / archive]
    return next((path for path in places if path.is_file()), places[-1])


def _fetch(arguments: argparse.Namespace) -> int:
    from services.state.client import StateClient
    from services.state.copying import folder_of_fetched, tls_of
    from services.state.kept import newest
    from services.state.save import line_of

    settings = _settings(arguments)
    copies = _copies(settings, arguments.host)
    if arguments.archive is not None:
        copy = next((each for each in copies if each.name == arguments.archive), None)
    else:
        copy = newest(copies, not_of=line_of())
    if copy is None:
        hint = f"backline state list --from {arguments.host}"
        raise MissingError("state.copy", f"{arguments.host} has no such copy of {settings.host}", hint=hint)
    folder = folder_of_fetched(settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / copy.name
    _, address = _client_of(settings, arguments.host)
    with StateClient(address, tls=tls_of(settings)) as client:
        client.get(copy, target)
    if arguments.json:
        return print_json({"file": str(target), "copy": copy})
    print(f"fetched {copy.name}, which {arguments.host} has since {moment(copy.received)}")
    print("next: backline state restore")
    return int(Exit.OK)


def _restore(arguments: argparse.Namespace) -> int:
    import sys

    from services.state.restore import Restore
    from services.state.seal import read_key
    from services.state.units import Systemd

    settings = _settings(arguments)
    units = Systemd()
    restore = Restore(settings, units)
    if arguments.abandon:
        restore.abandon()
        print("what was there before is in its place again")
        return int(Exit.OK)
    journal = restore.under_way()
    if journal is None:
        numbers, unheard = _numbers(settings)
        for host, why in unheard.items():
            print(f"warning: {host} does not say how far publications were: {why}", file=sys.stderr)
        journal = restore.begin(_find(settings, arguments.archive), read_key(), numbers=numbers)
    elif arguments.archive is not None and Path(arguments.archive).name != journal.archive:
        restore.begin(_find(settings, arguments.archive), read_key(), numbers={})  # refuses, with words
    from services.common.process import run

    for _ in range(_TRIES):  # whoever is killed is started again by systemd, and we wait for that one
        run(["systemctl", "start", UNIT], check=False)
        if restore.under_way() is None:
            break
    else:
        raise HostError(
            "state.unfinished",
            f"the restore of {journal.archive} has stopped",
            hint=f"journalctl -u {UNIT}; then `backline state restore` goes on, `--abandon` takes it back",
        )
    failed = _wait_for_services()
    kept = _kept(journal.id)
    if arguments.json:
        return print_json({"archive": journal.archive, "saved_at": journal.saved_at, "kept": kept, "failed": failed})
    print(f"restored {journal.archive}: everything is as it was at {moment(journal.saved_at)}")
    for path in kept:
        print(f"  what was there before is in {path}")
    if failed:
        raise HostError("state.units", f"these do not run: {', '.join(failed)}", hint="systemctl --failed")
    return int(Exit.OK)


def _kept(id: str) -> list[str]:
    from services.state.restore import replaced

    return [str(path) for path in replaced() if path.name.endswith(id)]


def _wait_for_services() -> list[str]:
    """Wait until everybody who has to run does; those who have failed."""
    from services.state.parts import STARTED
    from services.state.units import Systemd

    return Systemd().join(STARTED, deadline=time.monotonic() + START_SECONDS)


def _numbers(settings: Settings) -> tuple[dict[str, int], dict[str, str]]:
    """How far publications are by channel, as root file servers and this host's depot say; and who says nothing."""
    from services.state.client import StateClient
    from services.state.copying import receivers, tls_of
    from services.state.sequences import of_this_host

    found = of_this_host()
    unheard: dict[str, str] = {}
    for host, address in receivers(settings).items():
        try:
            with StateClient(address, seconds=5.0, tls=tls_of(settings)) as client:
                channels = client.sequences().channels
        except BacklineError as error:
            unheard[host] = error.message
            continue
        for channel, number in channels.items():
            found[channel] = max(number, found.get(channel, 0))
    return found, unheard


def _finish(arguments: argparse.Namespace) -> int:
    from services.state.restore import Restore
    from services.state.units import Systemd

    done: Restored = Restore(_settings(arguments), Systemd()).finish()
    print(f"restored {done.archive}")
    for path in done.kept:
        print(f"what was there before is in {path}")
    return int(Exit.OK)


def _serve(arguments: argparse.Namespace) -> int:
    import logging
    import os

    from services.common.access import Access
    from services.common.serve import serve
    from services.common.tls import HALL_CA, server_context
    from services.state.app import make_app

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request of ours helps nobody
    settings = _settings(arguments)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    certificate = Path(folder, "backline.tls") if folder else None
    tls = None
    if certificate is not None and certificate.exists() and HALL_CA.exists():
        tls = server_context(certificate, HALL_CA)
    app = make_app(settings, access=Access(settings.access))
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds, tls=tls)
