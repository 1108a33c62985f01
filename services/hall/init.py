"""`backline init`: a new hall. A commented hall.toml, the hall's CA and a signing key.

Private keys go into the administrator's own configuration folder ($XDG_CONFIG_HOME/backline), never beside hall.toml.
Nothing that exists is ever lost: keys are kept and used again, hall.toml is refused, or with --force set aside.
Stopping in the middle leaves nothing half made; calling it again goes on.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import stat
import sys
import tempfile
from pathlib import Path

SUMMARY = "make a new hall: hall.toml, its CA, a signing key"
DOMAIN = "prolo"
NAME = "hall"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline init`."""
    root = argparse.ArgumentParser(prog=prog, description=SUMMARY)
    root.add_argument("dir", type=Path, nargs="?", default=Path(), metavar="DIR", help="where hall.toml goes")
    root.add_argument("--name", default=NAME, help=f"name of the hall ({NAME})")
    root.add_argument("--domain", default=DOMAIN, help=f"DNS domain of the hall ({DOMAIN})")
    secret = root.add_mutually_exclusive_group()
    secret.add_argument("--ask-passphrase", action="store_true", help="protect new keys with a passphrase, asked for")
    secret.add_argument("--passphrase-file", type=Path, metavar="FILE", help="protect the CA's key with its first line")
    root.add_argument("--force", action="store_true", help="set an existing hall.toml aside; keys are always kept")
    root.add_argument("--json", action="store_true", help="what was made as JSON")
    root.set_defaults(run=_run)
    return root


def config_folder() -> Path:
    """The administrator's own configuration folder (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "backline"


def _run(arguments: argparse.Namespace) -> int:
    from services.common.errors import UsageError
    from services.common.names import domain_problem, label_problem
    from services.hall import ca
    from services.hall.host import host_errors

    for option, problem in (("--name", label_problem(arguments.name)), ("--domain", domain_problem(arguments.domain))):
        if problem:
            raise UsageError("init.name", f"{option}: {problem}")
    target = arguments.dir / "hall.toml"
    config = config_folder()
    resolved = arguments.dir.resolve()
    if resolved == config.resolve() or config.resolve() in resolved.parents:
        raise UsageError(
            "init.folder", "private keys live in this folder; hall.toml goes elsewhere", where=str(resolved)
        )
    if os.path.lexists(target) and not arguments.force:
        raise UsageError(
            "init.exists",
            "there is a hall here already; nothing was changed",
            where=str(target),
            hint="edit it, take another folder, or --force to set it aside (keys are kept in any case)",
        )
    passphrase = _passphrase(arguments)

    authority = config / "halls" / arguments.name
    with host_errors():
        _private_folder(config)
        certificate, new_ca = ca.keep(authority, arguments.name, arguments.domain, passphrase=passphrase)
        signer, signing, public, new_key = _signing_key(config, ask=arguments.ask_passphrase)
        found, skipped = _ssh_keys(Path.home() / ".ssh")
        text = proposal(arguments.name, arguments.domain, certificate, (signer, public), found)
        backup = _place(target, text)

    made = {
        "hall": str(target),
        "set_aside": str(backup) if backup else None,
        "ca_certificate": str(authority / "ca.pem"),
        "ca_key": str(authority / "ca.key"),
        "ca_new": new_ca,
        "signing_key": str(signing),
        "signing_key_new": new_key,
        "administrator_keys": found,
        "skipped": skipped,
    }
    if arguments.json:
        print(json.dumps(made))
        return 0
    print(f"made   {target}")
    if backup:
        print(f"kept   {backup} (the hall.toml that was there)")
    print(
        f"{'made' if new_ca else 'kept'}   {authority}/ca.key, ca.pem: the hall's CA; keep a copy of the key in a safe"
    )
    print(f"{'made' if new_key else 'kept'}   {signing}: signs the images that this hall accepts")
    for name, reason in skipped.items():
        print(f"note: {name} is no key for administrators: {reason}", file=sys.stderr)
    if not found:
        print("note: no SSH public key was found; add one to [[administrators]], or nobody can log in", file=sys.stderr)
    print(f"next: read {target}, change what does not fit, then `backline hall check {target}`")
    return 0


def _private_folder(path: Path) -> None:
    """Make the folder for private keys, 0700; one that others may write to is refused."""
    from services.common.errors import HostError

    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        hint = f"chmod 700 {path}, as its owner"
        raise HostError("init.unsafe", "others may write to the folder of private keys", where=str(path), hint=hint)
    path.chmod(0o700)


def _passphrase(arguments: argparse.Namespace) -> bytes | None:
    from services.common.errors import UsageError

    if arguments.ask_passphrase:
        phrase = getpass.getpass("Passphrase for the CA's key: ")
        if not phrase or phrase != getpass.getpass("Again: "):
            raise UsageError("init.passphrase", "the passphrases are empty or differ; nothing was made")
        return phrase.encode()
    return None if arguments.passphrase_file is None else _read_passphrase(arguments.passphrase_file)


def passphrase_of(key: bytes, file: Path | None) -> bytes | None:
    """The passphrase that opens a private key (PEM): of `file`, or asked for; None for a key without one."""
    if b"ENCRYPTED" not in key:
        return None
    return getpass.getpass("Passphrase of the CA's key: ").encode() if file is None else _read_passphrase(file)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file of the administrator's in one step, 0600, on disk when this returns."""
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(aside).rename(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _read_passphrase(path: Path) -> bytes:
    from services.common.errors import InputError

    file = str(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("init.passphrase", f"cannot be read: {error}", where=file) from error
    if not lines or not lines[0]:
        raise InputError("init.passphrase", "its first line is empty", where=file)
    return str(lines[0]).encode()


def _signing_key(config: Path, *, ask: bool) -> tuple[str, Path, str, bool]:
    """The administrator's signing key: name, path, public key's line, and whether it was made just now.

    The same folder as `build keys` has: keys/NAME, `default-key` names the one that signs, `allowed_signers` says who
    is trusted. Raises UsageError("key.ambiguous") when there are several and no default.
    """
    from services.common import signing
    from services.common.errors import UsageError

    keys, chosen = config / "keys", config / "default-key"
    names = {path.name.removesuffix(".pub") for path in keys.glob("*")} if keys.is_dir() else set()
    names = {name for name in names if signing.valid_name(name)}
    if chosen.exists():
        names = {chosen.read_text().strip()}
    if len(names) > 1:
        message = f"which of your keys signs: {', '.join(sorted(names))}?"
        raise UsageError("key.ambiguous", message, where=str(keys), hint="`build keys default NAME` chooses one")
    new = not names
    name = names.pop() if names else _user()
    path = keys / name
    if new:
        public = signing.new_key(path, comment=f"{name} signs images", ask_passphrase=ask)
    else:
        public = signing.read_public(path)
    signers = signing.read_signers(config / "allowed_signers")
    if new or not signers:  # a key that was rotated out on purpose is not trusted again
        signing.write_signers(config / "allowed_signers", [*signers, signing.Signer(name, public)])
    return name, path, public.format(), new


def _user() -> str:
    """The administrator's login name, as far as it can name a signer."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return re.sub(r"[^A-Za-z0-9._@-]", "-", name).strip(".-_@")[:64] or "administrator"


def _ssh_keys(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The public keys in ~/.ssh that administrators may use, and why others may not, by file name."""
    from services.common.ssh_keys import check_ssh_key

    found: list[str] = []
    skipped: dict[str, str] = {}
    for path in sorted(folder.glob("*.pub")):
        if path.name.endswith("-cert.pub"):
            continue
        try:
            line = check_ssh_key(path.read_text())
        except (OSError, ValueError) as error:
            skipped[path.name] = str(error)
        else:
            found += [line] if line not in found else []
    return found, skipped


def _time_zone() -> str:
    """This machine's time zone by name, or UTC."""
    from services.hall.rules import time_zone_exists

    name = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    return name if time_zone_exists(name) else "UTC"


def proposal(name: str, domain: str, certificate: str, signer: tuple[str, str], administrator_keys: list[str]) -> str:
    """The text of a hall.toml, checked."""
    import jinja2

    from services.common import toml
    from services.hall import load

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # TOML, not HTML: every value goes through the filter below
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["toml"] = lambda text: json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    text = environment.get_template("hall.toml.j2").render(
        name=name,
        domain=domain,
        time_zone=_time_zone(),
        ca=certificate,
        signer=signer[0],
        signer_key=signer[1],
        administrator=_user(),
        administrator_keys=administrator_keys,
    )
    load.check(toml.TomlDocument(text, path=Path("hall.toml"), area="hall"))
    return text


def _place(target: Path, text: str) -> Path | None:
    """Put hall.toml into place in one step; what was there gets another name, which is returned."""
    from services.common.errors import UsageError

    target.parent.mkdir(parents=True, exist_ok=True)
    backup = None
    descriptor, name = tempfile.mkstemp(prefix=".hall.toml.", dir=target.parent)
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        if os.path.lexists(target):
            backup = next(
                path
                for number in range(1, 10000)
                if not os.path.lexists(path := target.with_name(f"hall.toml.{number}"))
            )
            os.link(target, backup, follow_symlinks=False)
            aside.rename(target)
        else:
            os.link(aside, target)
    except FileExistsError as error:
        raise UsageError("init.exists", "another process is making this hall", where=str(target)) from error
    finally:
        aside.unlink(missing_ok=True)
    return backup
