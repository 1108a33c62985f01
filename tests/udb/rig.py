"""udb as a process, as systemd starts it: two activated sockets, a database and a key of its own, administrators."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from services.common import main
from services.common.administrators import Administrator
from services.common.signing import new_key
from services.common.tokens import CREDENTIAL, Tokens
from services.common.users import UserGroup
from services.udb.client import Udb
from services.udb.eyes import Person
from services.udb.schema import NewUser, User
from services.udb.sealing import CREDENTIAL as SEAL
from services.udb.sealing import KEY_BYTES
from tests.common.access_rig import HTTPS, PROXY, Guarded
from tests.common.service_rig import Service, activated

UDB = [sys.executable, "-m", "services.common.main", "udb", "serve"]
CONFIGURATION = """
database = "{database}"
hall = "Finals"
private_groups = ["games"]
organizer_groups = ["news"]
[access]
administrators = "{administrators}"
"""
ME = Person.root("alice", "192.168.1.7")
ORGANIZER = Person.organizer("oli", "192.168.1.8")
NOBODY, GAMES, NEWS = (65534, 65534), (65534, 60), (65534, 9)
"""Users of this host: a stranger, and strangers in the groups of the private feed and of organizers."""


@contextlib.contextmanager
def serving(
    folder: Path,
    database: str = "",
    *,
    key: bool = True,
    tokens: bool = True,
    run: Path | None = None,
    htmx: Path | None = None,
) -> Iterator[Service]:
    """udb over a database, ready to answer; without `key` there is none for passwords, without `tokens` nobody
    logs in. Its socket is in `run`."""
    file = folder / "udb.toml"
    people = folder / "administrators.json"
    file.write_text(CONFIGURATION.format(database=database or f"sqlite:///{folder}/udb.db", administrators=people))
    if tokens:
        (folder / CREDENTIAL).write_bytes(bytes(range(32)))
    if key:
        (folder / SEAL).write_bytes(bytes(range(KEY_BYTES)))
    with contextlib.ExitStack() as stack:
        if run is None:
            run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backline-udb-")))
            run.chmod(0o711)
        for left in ("service.sock", "notify"):
            (run / left).unlink(missing_ok=True)
        env = {"CREDENTIALS_DIRECTORY": str(folder), **({"BACKLINE_UDB_HTMX": str(htmx)} if htmx else {})}
        yield stack.enter_context(activated(run, [*UDB, "--config", str(file)], env=env))


@contextlib.contextmanager
def hall(folder: Path) -> Iterator[Guarded]:
    """udb, with `ada` who is root and `oli` who is an organizer, and a user of each group."""
    public = new_key(folder / "ada", comment="ada")
    with serving(folder) as service:
        made = Guarded(service, folder, bytes(range(32)), Tokens(bytes(range(32))), public)
        made.administer(made.ada(), Administrator("oli", "organizer", [public.format()]))
        with Udb(service.unix) as client:
            for group in UserGroup:
                client.create(NewUser(login=f"one-{group.value}", group=group, password=f"secret of {group.value}"))
        yield made


def session_of(made: Guarded, name: str) -> dict[str, str]:
    """Headers of a request that a session of `name` sends over HTTPS; to be sent by nginx's user."""
    return {**HTTPS, "Authorization": f"Bearer {made.session(name=name)}", "Host": "udb"}


def ask_as(made: Guarded, name: str, path: str, *, method: str = "GET", body: object = None) -> tuple[int, str]:
    """Status and text of what udb answers the session of `name`."""
    answer = made.ask(path, method=method, ids=PROXY, headers=session_of(made, name), body=body)
    return answer.status, answer.text


def new(number: int, **more: object) -> NewUser:
    return NewUser(**{"login": f"team{number:02}", **more})  # type: ignore[arg-type]


def users(made: list[User | None]) -> list[User]:
    return [user for user in made if user is not None]


def command(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `backline udb`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.backline(["udb", *words])
    return code, out.getvalue(), err.getvalue()
