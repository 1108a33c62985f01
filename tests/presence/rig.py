"""Presence as a process beside mdb and udb, with machines that ask through nginx."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx2

from services.common.database import Database
from services.common.process import run
from services.common.tokens import CREDENTIAL, Tokens
from services.common.users import UserGroup
from services.mdb.client import Mdb
from services.mdb.schema import Machine, MachineType, NewMachine
from services.presence.client import Presence
from services.presence.store import Store
from services.udb.client import Udb
from services.udb.schema import NewUser, UserPatch
from tests.common.service_rig import Service, activated
from tests.mdb import rig as mdb_rig
from tests.netboot.rig import KEY, ask, until
from tests.udb import rig as udb_rig

PRESENCE = [sys.executable, "-m", "services.common.main", "presence", "serve"]
GAMES = (65534, 60)
"""Ids of a stranger in the group that brings heartbeats here."""
CONFIGURATION = """
database = "sqlite:///{folder}/presence.db"
mdb = "{mdb}"
udb = "{udb}"
memory = "{folder}"
heartbeat_groups = ["games"]
tries = 5
"""


@dataclass
class Hall:
    """Running services, and the machines and users that were made."""

    folder: Path
    presence: Service
    mdb: Service
    udb: Service
    machines: dict[str, Machine] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    """Boots of machines that have real ones."""

    def machine(self, name: str, type: MachineType = MachineType.USER, *, alias: str | None = None) -> Machine:
        """A new machine of mdb."""
        number = len(self.machines) + 1
        with Mdb(self.mdb.unix) as mdb:
            address = f"192.168.0.{number}" if type is MachineType.USER else f"192.168.1.{number}"
            new = NewMachine(
                hostname=name,
                mac=f"52:54:00:00:01:{number:02x}",
                ip=IPv4Address(address),
                type=type,
                aliases=[alias] if alias else [],
            )
            self.machines[name] = mdb.create(new)
        return self.machines[name]

    def user(self, login: str, group: UserGroup = UserGroup.USER, *, password: str | None = "secret") -> None:
        """A new user of udb, or a user's new password."""
        with Udb(self.udb.unix) as udb:
            if login in self.ids:
                udb.change(self.ids[login], UserPatch(password=password))
            else:
                self.ids[login] = udb.create(NewUser(login=login, group=group, password=password)).id

    def no_user(self, login: str) -> None:
        """A user is deleted."""
        with Udb(self.udb.unix) as udb:
            udb.delete(self.ids.pop(login))

    def token(self, name: str, start: int = 0) -> str:
        """What a machine has of a boot."""
        machine = self.machines[name]
        real = self.boots.get(name, boot(machine.id, start))
        return Tokens(KEY).for_machine(name, machine=machine.id, boot=real, seconds=600)

    def asks(
        self, name: str, path: str, body: object, *, start: int = 0, secure: bool = True, origin: str | None = None
    ) -> dict[str, Any]:
        """What a machine is answered; its status as `status`."""
        address = origin or str(self.machines[name].ip)
        token = self.token(name, start)
        answer = ask(self.presence, path, origin=address, method="POST", body=body, token=token, secure=secure)
        return {**(json.loads(answer.text) if answer.text else {}), "status": answer.status}

    def auth(
        self, name: str, login: str, password: str | None = "secret", *, remote: bool = False, **how: Any
    ) -> dict[str, Any]:
        body = {"login": login, "password": password, "stage": "auth", **({"remote": True} if remote else {})}
        return self.asks(name, "/v1/login", body, **how)

    def account(self, name: str, login: str, **how: Any) -> dict[str, Any]:
        return self.asks(name, "/v1/login", {"login": login, "password": None, "stage": "account"}, **how)

    def logs_in(self, name: str, login: str) -> None:
        """Both stages, which have to go well."""
        for answer in (self.auth(name, login), self.account(name, login)):
            assert answer["allowed"], answer

    def leaves(self, name: str, login: str) -> None:
        assert self.asks(name, "/v1/logout", {"login": login})["status"] == 204

    def beats(self, *beats: tuple[str, Sequence[str]], start: int = 0) -> list[tuple[str, int]]:
        """netboot passes heartbeats on, and is not root. Who has to end what, and on which machine."""
        made = [
            {
                "machine": self.machines[name].id,
                "hostname": name,
                "boot": boot(self.machines[name].id, start),
                "users": list(users),
            }
            for name, users in beats
        ]
        status, text = call(self.presence, "/v1/heartbeats", {"beats": made}, ids=GAMES)
        assert status == 200
        return [(each["login"], each["machine"]) for each in json.loads(text)["ends"]]

    def where(self) -> dict[str, str]:
        """Who is logged in where."""
        with Presence(self.presence.unix) as client:
            return {each.login: each.hostname for each in client.sessions().sessions}

    def heard(self) -> int:
        """How many heartbeats presence has taken."""
        text = httpx2.get(f"{self.presence.http}/metrics").text
        return int(float(text.partition("\nbackline_presence_heartbeats_total ")[2].split()[0]))

    def knows(self, *logins: str) -> None:
        """Wait until presence knows these users, and every machine."""

        def known() -> bool:
            metrics = httpx2.get(f"{self.presence.http}/metrics").text
            return f"backline_presence_users {float(len(self.ids))}" in metrics

        until(known)


def boot(machine: int, start: int = 0) -> str:
    return f"{machine:016x}{start:016x}"


def call(service: Service, path: str, body: object = None, *, ids: tuple[int, int]) -> tuple[int, str]:
    """Status and text of an answer to a process of these ids on the unix socket."""
    argv = ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups", "curl", "--silent"]
    argv += ["--write-out", "\n%{http_code}", *(["--json", json.dumps(body)] if body is not None else [])]
    folder = os.open(service.socket.parent, os.O_PATH)
    try:
        where = f"/proc/self/fd/{folder}/{service.socket.name}"
        found = run([*argv, "--unix-socket", where, f"http://presence{path}"], pass_fds=(folder,)).stdout
    finally:
        os.close(folder)
    text, _, status = found.rpartition("\n")
    return int(status), text


@contextlib.contextmanager
def serving_presence(folder: Path, mdb: str, udb: str) -> Iterator[Service]:
    """Presence over what is in its folder."""
    own = folder / "presence"
    own.mkdir(exist_ok=True)
    for left in ("service.sock", "notify"):
        (own / left).unlink(missing_ok=True)
    file = own / "presence.toml"
    file.write_text(CONFIGURATION.format(folder=own, mdb=mdb, udb=udb))
    (own / CREDENTIAL).write_bytes(KEY)
    with activated(own, [*PRESENCE, "--config", str(file)], env={"CREDENTIALS_DIRECTORY": str(own)}) as service:
        own.chmod(0o711)
        yield service


def used(folder: Path) -> None:
    """Have presence begin with a database that is not new: a new one lets nobody in for a while."""
    (folder / "presence").mkdir(exist_ok=True)
    with Database(f"sqlite:///{folder}/presence/presence.db") as database:
        Store(database).prepare()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Hall]:
    """All three, whose presence is not new any more."""
    for name in ("mdb", "udb"):
        (folder / name).mkdir(exist_ok=True)
    with (
        mdb_rig.serving(folder / "mdb", f"sqlite:///{folder}/mdb/mdb.db") as mdb,
        udb_rig.serving(folder / "udb") as udb,
    ):
        used(folder)
        with serving_presence(folder, mdb.unix, udb.unix) as presence:
            yield Hall(folder, presence, mdb, udb)
