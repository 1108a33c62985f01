"""Boots: what machines were answered, the credentials of each, and what became of it. One transaction a call.

A boot is decided inside the transaction that writes its record, and answered after that: whoever moves a pointer moves
it before a boot or after it, never in the middle, and no machine runs a version that no record names.

The credentials of a boot are given once, within `claim_seconds` of its record, to the address that mdb gives its
machine. The boot's id is all that a claim shows: it is random, and stands on the machine's own command line alone.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from netboot import decide
from netboot.decide import Decision
from netboot.leases import LEASE_SECONDS
from netboot.machines import Known
from netboot.models import BootlogRow, BootRow, HostKeyRow, outbox
from netboot.schema import Boot, Bootlog, Outcome, Report, Stage
from netboot.store import Store
from services.common.codec import to_builtins
from services.common.errors import AccessError, BusyError, InputError, MissingError
from services.common.feed.wire import Item, Kind, Record
from services.common.signing import PublicKey

logger = logging.getLogger(__name__)

BOOTS = "boots"
TOPICS = frozenset({BOOTS})
CLAIM_SECONDS = 120.0
BOOTS_KEPT = 100
"""Boots of one machine that are kept; older ones go."""
LOGS_KEPT = 5
"""Logs of one boot that are kept; more are refused."""
LOG_CHARACTERS = 256 * 1024
_INSERT = BootRow.__table__.insert()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Asked:
    """A machine's question: who it is, and the address it asked from."""

    machine: Known
    asked_from: str


@dataclass(frozen=True)
class Answered:
    """The decision on a question, under the id of the boot record that was written."""

    boot: str
    machine: Known
    decision: Decision


class Boots:
    """The boot records of a store."""

    def __init__(self, store: Store, *, claim_seconds: float = CLAIM_SECONDS) -> None:
        self.store = store
        self.claim_seconds = claim_seconds

    # Deciding

    def answer(self, asked: Sequence[Asked]) -> list[Answered]:
        """Decide and write down, in one transaction, what each machine is answered."""
        store = self.store
        with store.write() as session:
            pointers, now = store.current(session), store.clock()
            answers = []
            for each in asked:
                decision = decide.decide(
                    each.machine,
                    store.machines,
                    pointers,
                    now=now,
                    asked_from=each.asked_from,
                    aliens=store.aliens,
                )
                answers.append(Answered(secrets.token_hex(16), each.machine, decision))
            rows = [_columns(answer, each.asked_from, now) for answer, each in zip(answers, asked, strict=True)]
            session.connection().execute(_INSERT, rows)
            outbox.append(session, [_told(_struct(row)) for row in rows])
        return answers

    def why(self, machine: Known, *, asked_from: str = "") -> tuple[list[decide.Rule], Decision]:
        """Every rule, and what `answer` would decide now; nothing is written."""
        store = self.store
        with store.database.read() as session:
            pointers, now = store.current(session), store.clock()
        decision = decide.decide(machine, store.machines, pointers, now=now, asked_from=asked_from, aliens=store.aliens)
        return decide.rules(machine, pointers, now), decision

    # Looking

    def recent(self, *, machine: int | None = None, limit: int = 50) -> list[Boot]:
        """The newest first."""
        query = select(BootRow).order_by(BootRow.at.desc(), BootRow.id).limit(limit)
        if machine is not None:
            query = query.where(BootRow.machine == machine)
        with self.store.database.read() as session:
            return [_boot(row) for row in session.scalars(query)]

    def one(self, id: str) -> Boot:
        """Raises MissingError("boot.unknown")."""
        with self.store.database.read() as session:
            return _boot(_need(session, id))

    def logs(self, *, machine: int | None = None, limit: int = 20) -> list[Bootlog]:
        """What failing initrds sent, the newest first."""
        query = select(BootlogRow).order_by(BootlogRow.id.desc()).limit(limit)
        if machine is not None:
            query = query.where(BootlogRow.machine == machine)
        with self.store.database.read() as session:
            return [
                Bootlog(**{name: getattr(row, name) for name in Bootlog.__struct_fields__})
                for row in session.scalars(query)
            ]

    def known_hosts(self, domain: str) -> str:
        """The ssh host keys of machines as sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT", under mdb's names and addresses."""
        with self.store.database.read() as session:
            keys = session.execute(select(HostKeyRow.machine, HostKeyRow.key).order_by(HostKeyRow.machine)).all()
        lines = []
        for id, key in keys:
            machine = self.store.machines.by_id(id)
            if machine is not None:
                full = [f"{name}.{domain}" for name in machine.names] if domain else []
                lines.append(f"{','.join([*machine.names, *full, machine.ip])} {key}\n")
        return "".join(lines)

    # What becomes of a boot

    def claim(self, id: str, origin: str) -> Boot:
        """Hand out the credentials of a boot, which is only ever done once.

        Raises MissingError("boot.unknown"), AccessError("boot.address"), BusyError("boot.claimed"),
        MissingError("boot.late"). Whoever is refused is counted in the record.
        """
        now = self.store.clock()
        with self.store.write() as session:
            row = _need(session, id)
            if row.outcome != Outcome.BOOT.value:
                raise MissingError("boot.unknown", "this boot was refused, and has no credentials")
            refusal = _refusal(row, origin, now, self.claim_seconds)
            if refusal is None:
                row.claimed_at, row.claimed_from = now, origin
            else:
                row.refused_claims += 1
            self._tell(session, row)
            boot = _boot(row)
        if refusal is not None:
            raise refusal
        return boot

    def report(self, id: str, report: Report) -> Boot:
        """Note how far a boot is. Raises MissingError("boot.unknown"), InputError("report.key")."""
        key = _host_key(report.ssh_host_key) if isinstance(report.ssh_host_key, str) else None
        now = self.store.clock()
        with self.store.write() as session:
            row = _need(session, id)
            row.stage, row.stage_at, row.stage_detail = report.stage.value, now, _text(report.detail)
            if key is not None and self._newest(session, row.machine) == id:
                session.merge(HostKeyRow(machine=row.machine, key=key, boot=id, at=now))
            self._tell(session, row)
            return _boot(row)

    def of_token(self, id: str, machine: int, version: str) -> Boot:
        """The boot that a machine's token names, which runs `version`.

        One that is not on record, since the tables were restored from before it, gets its record again: the token is
        the hall's own word. Raises MissingError("boot.unknown") where not even the machine or its version is known.
        """
        store, now = self.store, self.store.clock()
        with store.database.read() as session:
            row, pointers = session.get(BootRow, id), store.current(session)
            if row is not None:
                return _boot(row)
        known, found = store.machines.by_id(machine), pointers.versions.get(version)
        if known is None or found is None:
            raise MissingError("boot.unknown", "netboot knows no boot of this id")
        decision = Decision(Outcome.BOOT, "heartbeat", "its record was lost; its heartbeat brought it back", found)
        with store.write() as session:
            if session.get(BootRow, id) is None:
                columns = _columns(Answered(id, known, decision), "", now)
                session.connection().execute(_INSERT, [columns])
                outbox.append(session, [_told(_struct(columns))])
            return _boot(_need(session, id))

    def log(self, id: str, origin: str, content: bytes) -> Boot:
        """Keep what a failing initrd sent: the reason in its first line, then its journal.

        Raises MissingError("boot.unknown"), BusyError("rate.boot").
        """
        text = _text(content.decode(errors="replace"))[:LOG_CHARACTERS]
        reason = text.partition("\n")[0].strip()[:500]
        now = self.store.clock()
        with self.store.write() as session:
            row = _need(session, id)
            count = session.scalar(select(func.count()).select_from(BootlogRow).where(BootlogRow.boot == id))
            if (count or 0) >= LOGS_KEPT:
                raise BusyError("rate.boot", f"this boot has sent {LOGS_KEPT} logs, which is enough")
            line = {"boot": id, "machine": row.machine, "sent_from": origin, "at": now, "reason": reason, "text": text}
            session.execute(insert(BootlogRow), [line])
            row.stage, row.stage_at, row.stage_detail = Stage.FAILED.value, now, reason
            self._tell(session, row)
            return _boot(row)

    def prune(self) -> int:
        """Drop boots beyond `BOOTS_KEPT` of a machine, and logs of boots that are gone. Returns how many boots."""
        number = func.row_number().over(partition_by=BootRow.machine, order_by=(BootRow.at.desc(), BootRow.id))
        with self.store.database.read() as session:
            ranked = select(BootRow.id, number.label("number")).subquery()
            old = select(ranked.c.id).join(BootRow, BootRow.id == ranked.c.id).where(ranked.c.number > BOOTS_KEPT)
            silent = BootRow.seen.is_(None) | (BootRow.seen < self.store.clock() - LEASE_SECONDS)
            gone = list(session.scalars(old.where(silent)))  # whoever asks in a machine's name ends no lease of it
        for begin in range(0, len(gone), 500):
            part = gone[begin : begin + 500]
            with self.store.write() as session:
                session.execute(delete(BootRow).where(BootRow.id.in_(part)))
                session.execute(delete(BootlogRow).where(BootlogRow.boot.in_(part)))
        return len(gone)

    # The feed

    def source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        """The last boot of each machine (`services.common.feed.server.Source`)."""
        if BOOTS in topics:
            newest = select(BootRow.machine, func.max(BootRow.at).label("at")).group_by(BootRow.machine).subquery()
            last = select(BootRow).join(newest, (BootRow.machine == newest.c.machine) & (BootRow.at == newest.c.at))
            for row in session.scalars(last):
                yield Item(BOOTS, str(row.machine), _public(_boot(row)))

    def _newest(self, session: Session, machine: int) -> str | None:
        newest = select(BootRow.id).where(BootRow.machine == machine).order_by(BootRow.at.desc()).limit(1)
        return session.scalar(newest)

    def _tell(self, session: Session, row: BootRow) -> None:
        """Tell the feed of a change, when it is about the last boot of its machine."""
        session.flush()
        if self._newest(session, row.machine) == row.id:
            outbox.append(session, [_told(_boot(row))])


def _refusal(
    row: BootRow, origin: str, now: float, claim_seconds: float
) -> AccessError | BusyError | MissingError | None:
    if origin != row.address:
        told = f"the credentials of this boot are for {row.address}, and {origin} asks"
        return AccessError("boot.address", told)
    if row.claimed_at is not None:
        return BusyError(
            "boot.claimed",
            f"the credentials of this boot were given {now - row.claimed_at:.0f} s after it was answered",
            hint="start the machine again; if nobody did so twice, somebody else is on its address",
        )
    if now > row.at + claim_seconds:
        return MissingError("boot.late", f"this boot was answered {now - row.at:.0f} s ago: start the machine again")
    return None


def _host_key(text: str) -> str:
    """Kind and key, without the comment: this becomes part of a line of known_hosts. Raises InputError."""
    try:
        if not text.isprintable():
            raise InputError("report.key", "it is not one line")
        return " ".join(PublicKey.parse(text).format().split()[:2])
    except InputError as error:
        raise InputError("report.key", f"the ssh host key is none: {error.message}") from error


def _need(session: Session, id: str) -> BootRow:
    row = session.get(BootRow, id)
    if row is None:
        raise MissingError("boot.unknown", "netboot knows no boot of this id")
    return row


def _text(text: str) -> str:
    """Without what PostgreSQL's text cannot hold."""
    return text.replace("\0", "")


def _columns(answer: Answered, asked_from: str, now: float) -> dict[str, Any]:
    machine, decision = answer.machine, answer.decision
    version = decision.version if decision.boots else None
    return {
        "id": answer.boot,
        "machine": machine.id,
        "hostname": machine.hostname[:63],
        "mac": (machine.mac or "")[:17],
        "address": machine.ip[:45],
        "asked_from": asked_from[:45],
        "outcome": decision.outcome.value,
        "rule": decision.rule[:80],
        "detail": _text(decision.detail),
        "version": version.version if version else None,
        "role": version.role if version else None,
        "rfs": decision.servers[0].rfs if decision.servers else None,
        "servers": " ".join(server.address for server in decision.servers),
        "at": now,
        "claimed_at": None,
        "claimed_from": None,
        "refused_claims": 0,
        "stage": None,
        "stage_at": None,
        "stage_detail": "",
        "seen": None,
    }


def _boot(row: BootRow) -> Boot:
    return _struct({name: getattr(row, name) for name in Boot.__struct_fields__})


def _struct(row: dict[str, Any]) -> Boot:
    values = {**row, "outcome": Outcome(row["outcome"]), "servers": row["servers"].split()}
    return Boot(**{**values, "stage": Stage(row["stage"]) if row["stage"] else None})


def _told(boot: Boot) -> tuple[str, str, Kind, Record]:
    return BOOTS, str(boot.machine), Kind.UPDATED, _public(boot)


def _public(boot: Boot) -> Record:
    """A boot as the feed carries it: without its id, which opens its credentials for two minutes."""
    plain = to_builtins(boot)
    assert isinstance(plain, dict)
    del plain["id"]
    return plain
