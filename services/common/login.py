"""`backline login`: sign the challenge of a service with an SSH key, and keep the session for our clients."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import Exit, HostError, IntegrityError, MissingError, UsageError

if TYPE_CHECKING:
    from services.common.client import Client
    from services.common.sessions import Session
    from services.common.signing import PublicKey

SUMMARY = "log in to a service of the hall with an SSH key"

_HALLS = (Path("hall.toml"), Path("/run/backline/hall.toml"))
_KEYS = ("id_ed25519", "id_ed25519_sk")


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline login`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description="Log in to a service of the hall: sign its challenge with an SSH key that hall.toml lists for you. "
        "Every command of ours then uses the session for that address, until it ends or `backline logout`.",
    )
    root.add_argument("url", nargs="?", metavar="URL", help="https://HOST; mdb of the hall in ./hall.toml when absent")
    root.add_argument("--name", help="your name in hall.toml; whose key it is, or your user name, when absent")
    root.add_argument(
        "--key", type=Path, metavar="FILE", help="private key, or a .pub whose other half is in ssh-agent"
    )
    root.add_argument(
        "--ca", type=Path, metavar="FILE", help="the hall's CA certificate; that of hall.toml when absent"
    )
    root.add_argument("--hall", type=Path, metavar="FILE", help="another hall.toml than ./hall.toml")
    root.add_argument("--browser", action="store_true", help="print a link that opens the session in a browser, once")
    root.add_argument("--json", action="store_true", help="what happened as JSON")
    root.set_defaults(run=_login)
    return root


@dataclass(frozen=True)
class Known:
    """What a hall.toml says to somebody who logs in."""

    domain: str = ""
    ca: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    """Name and key, wire format in base64, of each administrator's keys."""

    def owner(self, key: PublicKey) -> str | None:
        """Whose key it is."""
        return next((name for name, blob in self.keys if blob == key.blob), None)


def read_hall(path: Path | None) -> Known:
    """The hall of `path`, else of ./hall.toml or this machine; an empty one where there is none."""
    from services.common import toml

    found = path or next((place for place in _HALLS if place.exists()), None)
    if found is None:
        return Known()
    data = toml.load(found, area="hall").data
    site, trust = _table(data.get("hall")), _table(data.get("trust"))
    people = data.get("administrators")
    keys = [
        (str(_table(person).get("name")), words[1])
        for person in (people if isinstance(people, list) else [])
        for line in _list(_table(person).get("keys"))
        if len(words := str(line).split()) > 1
    ]
    return Known(str(site.get("domain", "")), str(trust.get("ca", "")), tuple(keys))


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _login(arguments: argparse.Namespace) -> int:
    from services.common import saved_sessions
    from services.common.client import Client
    from services.common.saved_sessions import Saved
    from services.common.tls import TlsSettings

    known = read_hall(arguments.hall)
    if arguments.url is None and not known.domain:
        raise UsageError("login.address", "log in where?", hint="give https://HOST, or do it beside hall.toml")
    address = saved_sessions.address_of(arguments.url or f"https://mdb.{known.domain}")
    saved = saved_sessions.find(address)
    ca = _ca(arguments.ca, known, address, saved_sessions.file_of().parent)
    if ca is None and saved is not None and saved.ca is not None:
        ca = Path(saved.ca)
    with Client(address, tls=TlsSettings(ca=ca)) as client:
        link = None
        if arguments.browser and saved is not None and not (arguments.name or arguments.key):
            link = _link(client, saved.token, again=True)
        if link is None:
            session = _sign(client, address, arguments, known)
            saved = Saved(session.token, session.name, session.role, session.expires, str(ca) if ca else None)
            saved_sessions.save(address, saved)
            link = _link(client, session.token, again=False) if arguments.browser else None
    assert saved is not None
    _tell(address, saved, link, as_json=arguments.json)
    return int(Exit.OK)


def _tell(address: str, saved: object, link: str | None, *, as_json: bool) -> None:
    import msgspec

    from services.common.saved_sessions import Saved

    assert isinstance(saved, Saved)
    if as_json:
        answer = {"address": address, "name": saved.name, "role": saved.role, "expires": saved.expires}
        print(msgspec.json.encode(answer | ({"link": address + link} if link else {})).decode())
        return
    until = datetime.fromtimestamp(saved.expires, UTC).astimezone()
    print(f"{saved.name} is logged in at {address} as {saved.role} until {until:%H:%M}")
    if link:
        print(f"open this in your browser within a minute:\n  {address}{link}")


def _ca(given: Path | None, known: Known, address: str, folder: Path) -> Path | None:
    """The CA file to believe: the one given, or a copy of hall.toml's for hosts of its domain or any address."""
    if given is not None:
        if not given.exists():
            raise MissingError("login.ca", "no such file", where=str(given))
        return given.resolve()
    if not known.ca:
        return None
    host = address.removeprefix("https://").rpartition(":")[0] or address.removeprefix("https://")
    if not (host.endswith(f".{known.domain}") or host[:1].isdigit()):
        return None
    path = folder / f"{hashlib.sha256(known.ca.encode()).hexdigest()[:16]}.pem"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(known.ca)
    except OSError as error:
        raise HostError("login.keep", f"cannot keep the CA's certificate: {error.strerror}", where=str(path)) from error
    return path


def _sign(client: Client, address: str, arguments: argparse.Namespace, known: Known) -> Session:
    from services.common.client import Call
    from services.common.sessions import NAMESPACE, Asked, Challenge, Session, Signed
    from services.common.signing import sign

    with chosen_key(arguments.key, known) as (key, public):
        name = arguments.name or known.owner(public) or getpass.getuser()
        challenge = client.send(Call("POST", "/v1/session/challenge", Challenge, body=Asked(name))).challenge
        host = address.removeprefix("https://")
        if not challenge.startswith(f"{NAMESPACE} {host} {name} "):
            raise IntegrityError("login.challenge", f"the challenge is not for {name} at {host}", where=address)
        signature = sign(challenge.encode(), key, NAMESPACE).decode()
    return client.send(Call("POST", "/v1/session", Session, body=Signed(challenge, signature)))


def _link(client: Client, token: str, *, again: bool) -> str | None:
    """A link for the browser; None when the session of `token` is not good any more and we may log in `again`."""
    from services.common.client import Call
    from services.common.problem import RemoteError
    from services.common.sessions import Link

    try:
        call = Call("POST", "/v1/session/link", Link, headers={"authorization": f"Bearer {token}"})
        return client.send(call).path
    except RemoteError as error:
        if again and error.problem.status == 401:
            return None
        raise


@contextmanager
def chosen_key(given: Path | None, known: Known) -> Iterator[tuple[Path, PublicKey]]:
    """The key to sign with, as a file that ssh-keygen takes, and its public half.

    The one given; else, of ~/.ssh and the agent, one that hall.toml lists, else the first. Raises
    MissingError("login.key").
    """
    from services.common.signing import read_public

    if given is not None:
        yield given, read_public(given)
        return
    files = [path for name in _KEYS if (path := Path.home() / ".ssh" / name).exists()]
    candidates = [(path, read_public(path)) for path in files]
    with tempfile.TemporaryDirectory(prefix="backline-login-") as folder:
        for number, public in enumerate(_agent_keys()):
            path = Path(folder, f"{number}.pub")
            path.write_text(f"{public.format()}\n")
            candidates.append((path, public))
        listed = [each for each in candidates if known.owner(each[1]) is not None]
        if not candidates:
            hint = "give --key FILE, or add a key to your agent: ssh-add"
            raise MissingError("login.key", "there is no Ed25519 key in ~/.ssh or in the agent", hint=hint)
        yield (listed or candidates)[0]


def _agent_keys() -> Sequence[PublicKey]:
    """The Ed25519 keys of ssh-agent (ssh-add(1) -L)."""
    from services.common import process
    from services.common.errors import InputError
    from services.common.signing import PublicKey

    found = []
    try:
        listed = process.run(["ssh-add", "-L"], check=False)
    except HostError:  # no ssh-add
        return []
    for line in listed.stdout.splitlines() if listed.returncode == 0 else []:
        try:
            found.append(PublicKey.parse(line))
        except InputError:
            continue
    return found
