"""`backline hall`: check, render, apply and show hall.toml."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

SUMMARY = "check hall.toml, and bring it into force on this machine"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline hall`."""
    root = argparse.ArgumentParser(prog=prog, description=SUMMARY)
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "check", help="say whether a hall.toml is right, and what is wrong with file and line"
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--json", action="store_true", help="the answer as JSON")
    command.set_defaults(run=_check)

    command = commands.add_parser("render", help="show the files that a hall.toml gives a machine")
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--role", required=True, help="the machine's image: gw, rhfs, web, nfsroot...")
    command.add_argument("--host", required=True, help="the machine's host name")
    command.add_argument("--out", type=Path, metavar="DIR", help="write them below this new folder instead")
    command.add_argument("--json", action="store_true", help="the files as JSON")
    command.set_defaults(run=_render)

    for name, text in (
        ("apply", "bring this machine's hall.toml into force"),
        ("reload", "the same, for a machine that is up: without a hall.toml it fails"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--root", type=Path, default=Path("/"), metavar="DIR", help="a tree that nothing runs from"
        )
        command.add_argument("--json", action="store_true", help="what was done as JSON")
        command.set_defaults(run=_apply, must_exist=name == "reload")

    command = commands.add_parser("show", help="what is in force on this machine")
    command.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="the tree to look at")
    command.add_argument("--json", action="store_true", help="as JSON, with the hall itself")
    command.set_defaults(run=_show)

    command = commands.add_parser(
        "certificate", help="make a host's key and certificate with the hall's CA, on your own machine"
    )
    command.add_argument("host", metavar="HOST", help="a server of hall.toml")
    command.add_argument("--scope", metavar="SCOPE", help="what it may do, as in feed; without one it serves its names")
    command.add_argument("--days", type=int, default=365, metavar="N", help="how long it is good (default 365)")
    command.add_argument("--hall", type=Path, default=Path("hall.toml"), metavar="FILE", help="another hall.toml")
    command.add_argument("--out", type=Path, metavar="DIR", help="write it into this folder instead")
    command.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line opens the CA's key")
    command.add_argument("--json", action="store_true", help="what was made as JSON")
    command.set_defaults(run=_certificate)

    command = commands.add_parser(
        "state-key", help="make the key that archives of gw's state are sealed with, on your own machine, once"
    )
    command.add_argument("--hall", type=Path, default=Path("hall.toml"), metavar="FILE", help="another hall.toml")
    command.add_argument("--json", action="store_true", help="where it is as JSON")
    command.set_defaults(run=_state_key)

    command = commands.add_parser("fields", help="every field of hall.toml, as a table in Markdown")
    command.set_defaults(run=_fields)
    return root


def _check(arguments: argparse.Namespace) -> int:
    from services.hall import keys, load

    hall = load.load(arguments.file)
    notes = []
    if not any(person.keys for person in hall.administrators):
        notes.append("no administrator has a key: nobody can log in to a machine")
    if not hall.trust.signers:
        notes.append("no signer is trusted: no image is accepted")
    days = (keys.ca_expiry(hall.trust.ca) - time.time()) / 86400
    if days < 90:
        notes.append(f"the CA certificate {'has ended' if days < 0 else f'ends in {days:.0f} days'}")
    counts = {"networks": len(hall.networks), "hosts": len(hall.hosts), "administrators": len(hall.administrators)}
    if arguments.json:
        print(json.dumps({"ok": True, "name": hall.site.name, "domain": hall.site.domain, **counts, "notes": notes}))
        return 0
    print(f"{arguments.file}: right ({', '.join(f'{count} {what}' for what, count in counts.items())})")
    for note in notes:
        print(f"  note: {note}")
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from services.common.errors import UsageError
    from services.hall import load, verify
    from services.hall.generations import inside
    from services.hall.host import host_errors
    from services.hall.render import identify, render

    hall = load.load(arguments.file)
    files = render(hall, identify(hall, arguments.role, arguments.host))
    verify.check(files)
    if arguments.json:
        print(
            json.dumps(
                {path: {"content": f.content, "mode": f"{f.mode:04o}", "link": f.link} for path, f in files.items()}
            )
        )
        return 0
    if arguments.out is None:
        for path, file in files.items():
            print(f"==> {path}" + (f" -> {file.content}\n" if file.link else f" ({file.mode:04o})\n{file.content}"))
        return 0
    with host_errors():
        if arguments.out.exists() and any(arguments.out.iterdir()):
            raise UsageError("hall.out", "the folder is not empty", where=str(arguments.out), hint="name a new one")
        for path, file in files.items():
            target = inside(arguments.out, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.link:
                target.symlink_to(file.content)
            else:
                target.write_text(file.content)
                target.chmod(file.mode)
    print(f"{len(files)} files in {arguments.out}")
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    import msgspec

    from services.common.errors import InputError
    from services.hall.apply import OVERRIDE, apply
    from services.hall.daemons import Daemons, Live, Offline
    from services.hall.host import host_errors

    daemons: Daemons = Live() if arguments.root == Path("/") else Offline()
    with host_errors():
        outcome = apply(arguments.root, daemons)
    if arguments.json:
        print(msgspec.json.encode(outcome).decode())
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not outcome.configured:
        if arguments.must_exist:
            raise InputError("hall.missing", f"{outcome.reason}", hint=f"put one into {OVERRIDE}")
        print(f"not configured: {outcome.reason}; this machine offers nothing to the network", file=sys.stderr)
    elif not arguments.json:
        changes = f"{len(outcome.changed)} files changed" if outcome.changed else "nothing changed"
        told = f", told {', '.join(outcome.told)}" if outcome.told else ""
        print(f"{outcome.hostname} ({outcome.role}) from {outcome.source}: set {outcome.generation}, {changes}{told}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import msgspec

    from services.common import toml
    from services.hall.apply import in_force
    from services.hall.generations import Generations

    outcome = in_force(arguments.root)
    generation = Generations(arguments.root).current()
    if arguments.json:
        document = msgspec.to_builtins(outcome)
        if generation is not None:
            parsed = toml.TomlDocument(generation.source, path=generation.path / "hall.toml", area="hall")
            document |= {"hall": parsed.data, "files": sorted(generation.files())}
        print(msgspec.json.encode(document).decode())
        return 0
    if generation is None:
        print(f"not configured: {outcome.reason}")
        return 0
    print(f"{outcome.hostname} ({outcome.role}): set {outcome.generation}")
    for target in sorted(generation.files()):
        print(f"  {target}")
    return 0


def _certificate(arguments: argparse.Namespace) -> int:
    from services.common.errors import MissingError, UsageError
    from services.hall import certificates, init, load
    from services.hall.host import host_errors

    if arguments.days < 1:
        raise UsageError("hall.days", "a certificate is good for a day at least")
    hall = load.load(arguments.hall)
    folder = init.config_folder() / "halls" / hall.site.name
    with host_errors():
        try:
            key = (folder / "ca.key").read_bytes()
        except FileNotFoundError as error:
            hint = "certificates are made where `backline init` was run"
            raise MissingError("hall.ca", "the hall's CA key is not here", where=str(folder), hint=hint) from error
        passphrase = init.passphrase_of(key, arguments.passphrase_file)
        authority = certificates.Authority.open(key, hall.trust.ca.encode(), passphrase=passphrase)
        pem = certificates.for_host(hall, authority, arguments.host, scope=arguments.scope, days=arguments.days)
        target = arguments.out or folder / "certificates" / arguments.host
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = certificates.credential(arguments.scope)
        init.write_private(target / name, pem)
    if arguments.json:
        print(json.dumps({"file": str(target / name), "credential": name, "days": arguments.days}))
        return 0
    print(f"made   {target / name}")
    print(f"next: install -m 600 it as /etc/credstore/{name} of {arguments.host}, and start what uses it again")
    return 0


def _state_key(arguments: argparse.Namespace) -> int:
    import secrets

    from services.hall import certificates, init, load
    from services.hall.host import host_errors

    hall = load.load(arguments.hall)
    folder = init.config_folder() / "halls" / hall.site.name
    path = folder / certificates.STATE_KEY
    with host_errors():
        made = not path.exists()  # never another one: nobody could open what is sealed with the first
        if made:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            init.write_private(path, f"{secrets.token_hex(32)}\n".encode())
    if arguments.json:
        print(json.dumps({"file": str(path), "credential": certificates.STATE_KEY, "made": made}))
        return 0
    print(f"{'made  ' if made else 'there: '} {path}")
    print(f"next: install -m 600 it as /etc/credstore/{certificates.STATE_KEY} of gw, and keep it beside the CA's key:")
    print("nobody can open an archive without it")
    return 0


def _fields(arguments: argparse.Namespace) -> int:
    from services.hall.reference import field_table

    del arguments
    print(field_table(), end="")
    return 0
