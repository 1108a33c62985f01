"""Machines that register themselves through netboot, and the codes with which an administrator lets a known one do so
again. Part of `store`, within its transactions.

What is refused here is read on the screen of a machine that boots: one short line, ASCII, no markup. A code is good
once, for `CODE_SECONDS`, and for the machine that it was made for; only its hash is kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from services.common.errors import BusyError, InputError, MissingError
from services.common.history import Changed
from services.common.names import label_problem, normal_mac
from services.mdb import variables
from services.mdb.edits import Create, Edit, Update
from services.mdb.history import CODES, log
from services.mdb.models import CodeRow, NameRow, outbox
from services.mdb.rows import find, load
from services.mdb.schema import Actor, Code, MachinePatch, MachineType, NewMachine, Registration

CODE_SECONDS = 15 * 60.0
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # no pair that looks alike on a bad screen
_HALF = 5  # 31^10 codes: 15 minutes are too short to guess one, however fast


def make_code(session: Session, actor: Actor, id: int, now: float) -> Code:
    """A new code for a machine; an older one of it is void. Raises MissingError("machine.unknown")."""
    outbox.lock(session)
    machine = load(session, [id]).get(id)
    if machine is None:
        raise MissingError("machine.unknown", f"there is no machine {id}")
    code = "-".join("".join(secrets.choice(_LETTERS) for _ in range(_HALF)) for _ in range(2))
    expires = now + CODE_SECONDS
    session.execute(delete(CodeRow).where((CodeRow.machine_id == id) | (CodeRow.expires <= now)))
    session.execute(
        insert(CodeRow), [{"digest": _digest(code), "machine_id": id, "expires": expires, "actor": actor.name}]
    )
    log(session, actor, [Changed(CODES, str(id), machine.hostname, None, {"expires": expires})], now)
    return Code(machine=id, hostname=machine.hostname, code=code, expires=expires)


def plan(session: Session, asked: Registration, now: float) -> tuple[Edit, Actor]:
    """What a registration edits, and in whose name; a code is used up, if the transaction is committed.

    Raises InputError("register.*"), BusyError("conflict.*").
    """
    origin = "local" if asked.address is None else str(asked.address)
    try:
        mac = normal_mac(asked.mac)
    except ValueError as error:
        raise InputError("register.mac", str(error)) from error
    asked = msgspec.structs.replace(asked, hostname=asked.hostname.lower(), room=asked.room.lower())
    for key, what in (("hostname", "a host name"), ("room", "a room")):
        if getattr(asked, key) and label_problem(getattr(asked, key)):
            code = "register.name" if key == "hostname" else "register.room"
            raise InputError(code, f"{what} has letters, digits and hyphens, 63 at most, no hyphen at an end")
    if asked.type is MachineType.SERVICE:
        raise InputError("register.type", "servers do not register themselves; add this one in mdb")
    if asked.code:
        return _again(session, asked, mac, origin, now)
    if not variables.load(session).allow_self_registration:
        raise InputError("register.off", "self registration is disabled; ask an administrator")
    if (owner := find(session, mac)) is not None:
        name = load(session, [owner])[owner].hostname
        raise BusyError("conflict.mac", f"this machine is {name} already; only a code changes it")
    if not asked.hostname:
        raise InputError("register.name", "a machine needs a host name")
    _free(session, asked.hostname)
    new = NewMachine(**{"type": MachineType.USER, **_given(asked, mac)})
    return Create(new), Actor("self registration", origin)


def _again(session: Session, asked: Registration, mac: str, origin: str, now: float) -> tuple[Edit, Actor]:
    row = session.execute(select(CodeRow).where(CodeRow.digest == _digest(asked.code))).scalar_one_or_none()
    if row is None or row.expires <= now:
        raise InputError("register.code", "this code is not good, or not any more; ask for a new one")
    machine = load(session, [row.machine_id])[row.machine_id]
    owner = find(session, mac)
    if owner not in (None, machine.id):
        assert owner is not None
        raise BusyError("conflict.mac", f"this machine is {load(session, [owner])[owner].hostname} already")
    if asked.hostname:
        _free(session, asked.hostname, machine.id)
    actor = Actor(f"code of {row.actor}", origin)
    session.execute(delete(CodeRow).where(CodeRow.digest == row.digest))
    log(session, actor, [Changed(CODES, str(machine.id), machine.hostname, {"expires": row.expires}, None)], now)
    return Update(machine.id, MachinePatch(**_given(asked, mac))), actor


def _free(session: Session, name: str, *owners: int) -> None:
    if session.scalar(select(NameRow.machine_id).where(NameRow.name == name)) not in (None, *owners):
        raise BusyError("conflict.name", f"{name} is another machine already; choose another name")


def _given(asked: Registration, mac: str) -> dict[str, Any]:
    names = ("hostname", "rfs", "hfs", "room", "type")
    return {"mac": mac, **{name: value for name in names if (value := getattr(asked, name)) not in (None, "")}}


def _digest(code: str) -> str:
    """Capitals, spaces and hyphens make no difference: it is typed by hand."""
    plain = re.sub(r"[\s-]", "", code.lower())
    return hashlib.sha256(plain.encode()).hexdigest()
