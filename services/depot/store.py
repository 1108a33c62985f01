"""What was published: rules and rows; no HTTP. One transaction a call, and one writer after the other.

A publication is taken when somebody whom hall.toml trusts has signed it for this hall, with the next number of its
channel, for a version that is here as a whole with the manifest that the statement means. What was taken stays: it is
the history of its channel, and the sequence that receivers check too.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.common import signing, statement
from services.common.codec import to_builtins
from services.common.database import Database
from services.common.errors import BusyError, InputError, MissingError, UsageError, nearest
from services.common.feed.server import Source
from services.common.feed.wire import Item, Kind
from services.common.signing import Signer
from services.common.statement import Statement
from services.common.versions import Ref
from services.depot.files import Files, Whole
from services.depot.models import ProgressRow, PublicationRow, outbox
from services.depot.schema import Channel, NewProgress, NewPublication, Progress, Publication, State

MIGRATIONS = Path(__file__).parent / "migrations"
TOPIC = "publications"
NUMBERS = "sequences.json"
"""In the depot's folder, after a restore: by channel, the number that its last publication has at least."""
TOLD = 500
"""How many of the newest publications a subscriber is told of that begins anew."""

_CLOCK: Callable[[], float] = time.time

Announce = Callable[[Whole, Statement], None]
"""Makes a version known to those who offer it, before its publication counts. Raises BacklineError."""


class Store:
    """The depot's database, beside its folder. `signers_file` is read whenever somebody publishes."""

    def __init__(
        self,
        database: Database,
        files: Files,
        *,
        signers_file: Path,
        hall: str,
        receivers: Sequence[str] = (),
        clock: Callable[[], float] = _CLOCK,
    ) -> None:
        self.database = database
        self.files = files
        self.signers_file = signers_file
        self.hall = hall
        self.receivers = list(receivers)
        self.clock = clock
        self.source: Source = self._source
        self._numbers: dict[str, int] = {}
        self._publishing = threading.Lock()
        self._live: dict[tuple[int, str], Progress] = {}
        self._revisions: dict[int, int] = {}

    def prepare(self) -> None:
        """Make or move on the schema. Raises InputError("depot.numbers")."""
        self._numbers = _numbers(self.files.root / NUMBERS)
        self.database.migrate(MIGRATIONS)
        with self.database.write() as session:
            outbox.begin(session)

    def signers(self) -> list[Signer]:
        """Whom hall.toml trusts now."""
        return signing.read_signers(self.signers_file)

    # Publications

    def channel(self, name: str) -> Channel:
        """What was published on a channel; one that nobody has published on begins with number 1."""
        with self.database.read() as session:
            return self._channel(session, name)

    def _channel(self, session: Session, name: str) -> Channel:
        newest = (
            select(PublicationRow.role, func.max(PublicationRow.sequence).label("sequence"))
            .where(PublicationRow.channel == name)
            .group_by(PublicationRow.role)
            .subquery()
        )
        rows = session.execute(
            select(PublicationRow.role, PublicationRow.version, PublicationRow.sequence)
            .join(newest, (PublicationRow.sequence == newest.c.sequence) & (PublicationRow.role == newest.c.role))
            .where(PublicationRow.channel == name)
            .order_by(PublicationRow.sequence)
        ).all()
        last = rows[-1] if rows else None
        number = max(last.sequence if last else 0, self._numbers.get(name, 0))
        return Channel(
            hall=self.hall,
            channel=name,
            last_sequence=number,
            next_sequence=number + 1,
            version=last.version if last else None,
            versions={row.role: row.version for row in rows},
        )

    def publish(self, actor: str, new: NewPublication, announce: Announce) -> Publication:
        """Take a publication; the same statement once more is answered with what it became.

        Raises IntegrityError "publish.signature", "publish.statement", "publish.hall", "publish.sequence",
        "publish.manifest"; MissingError("depot.unknown"), UsageError("publish.downgrade"), InputError("publish.host"),
        and what `announce` raises.
        """
        given = statement.Publication(id=0, statement=new.statement, signatures=new.signatures, to=new.to)
        with self._publishing:
            signers = self.signers()
            signed_by = statement.signers_of(given, signers)
            said = statement.decode(new.statement)
            with self.database.read() as session:
                known = self._at(session, said)
                channel = self._channel(session, said.channel)
                left = select(PublicationRow.version).where(
                    PublicationRow.channel == said.channel, PublicationRow.role == said.role
                )
                earlier = set(session.scalars(left))
            if known is not None and known.statement == new.statement:
                return self.publication(known.id)
            said = statement.verify(given, signers, last_sequence=channel.last_sequence, hall=self.hall or None)
            if said.sequence != channel.next_sequence:
                message = f"the next number of channel {said.channel} is {channel.next_sequence}, not {said.sequence}"
                raise BusyError("publish.sequence", message, hint="ask for the number, and sign again")
            whole = self._need(said)
            back = statement.downgrade(said.version, channel.versions.get(said.role), earlier)
            if back is not None and not said.allow_downgrade:
                raise UsageError("publish.downgrade", back, hint="--allow-downgrade, if that is meant")
            for host in new.to:
                if host not in self.receivers:
                    hint = nearest(host, self.receivers) or f"receivers: {', '.join(self.receivers) or 'none'}"
                    raise InputError("publish.host", f"{host} receives no versions", hint=hint)
            announce(whole, said)
            return self._enter(actor, new, said, signed_by)

    def _need(self, said: Statement) -> Whole:
        whole = self.files.need(Ref(said.role, said.version))
        statement.check_manifest(said, self.files.path(whole.ref, "manifest.json").read_bytes())
        return whole

    def _at(self, session: Session, said: Statement) -> PublicationRow | None:
        found = select(PublicationRow).where(
            PublicationRow.channel == said.channel, PublicationRow.sequence == said.sequence
        )
        return session.scalar(found)

    def _enter(self, actor: str, new: NewPublication, said: Statement, signed_by: list[str]) -> Publication:
        row = PublicationRow(
            channel=said.channel,
            sequence=said.sequence,
            role=said.role,
            version=said.version,
            statement=new.statement,
            signatures=json.dumps(new.signatures),
            to=json.dumps(new.to),
            signed_by=json.dumps(signed_by),
            published_by=actor,
            at=self.clock(),
        )
        with self.database.write() as session:
            session.add(row)
            session.flush()
            record = _record(row)
            outbox.append(session, [(TOPIC, str(row.id), Kind.CREATED, record)])
        return self._view(row, [])

    def publication(self, id: int) -> Publication:
        """One publication. Raises MissingError("publish.unknown")."""
        with self.database.read() as session:
            row = session.get(PublicationRow, id)
            if row is None:
                raise MissingError("publish.unknown", f"there is no publication {id}")
            return self._view(row, self._progress(session, [id]))

    def publications(self, *, channel: str | None = None, since: int = 0, limit: int = 100) -> list[Publication]:
        """The newest first, at most `limit`."""
        found = select(PublicationRow).where(PublicationRow.id > since).order_by(PublicationRow.id.desc()).limit(limit)
        if channel is not None:
            found = found.where(PublicationRow.channel == channel)
        with self.database.read() as session:
            rows = list(session.scalars(found))
            progress = self._progress(session, [row.id for row in rows])
        return [self._view(row, [each for each in progress if each[0] == row.id]) for row in rows]

    @contextlib.contextmanager
    def no_publishing(self) -> Iterator[None]:
        """Nothing is published during the block: what it deletes is not what a publication was just checked against."""
        with self._publishing:
            yield

    def was_published(self, ref: Ref) -> bool:
        """Whether some channel ever got this version."""
        found = select(PublicationRow.id).where(PublicationRow.role == ref.role, PublicationRow.version == ref.version)
        with self.database.read() as session:
            return session.scalar(found.limit(1)) is not None

    def pulling(self, ref: Ref, *, since: float) -> list[str]:
        """The receivers that were fetching this version when they spoke last, if that was after `since`."""
        ids = select(PublicationRow.id).where(PublicationRow.role == ref.role, PublicationRow.version == ref.version)
        with self.database.read() as session:
            words = self._progress(session, list(session.scalars(ids)))
        return sorted({word.host for _, word in words if not word.state.final and word.at >= since})

    def published(self, ref: Ref) -> list[str]:
        """The channels whose last version of its role this one is."""
        with self.database.read() as session:
            names = list(session.scalars(select(PublicationRow.channel).distinct().order_by(PublicationRow.channel)))
            return [name for name in names if self._channel(session, name).versions.get(ref.role) == ref.version]

    def _view(self, row: PublicationRow, progress: Iterable[tuple[int, Progress]]) -> Publication:
        to = json.loads(row.to)
        return Publication(
            id=row.id,
            statement=row.statement,
            signatures=json.loads(row.signatures),
            to=to,
            signed_by=json.loads(row.signed_by),
            published_by=row.published_by,
            at=row.at,
            receivers=to or self.receivers,
            progress=[each for _, each in progress],
            revision=self._revisions.get(row.id, 0),
        )

    # Receivers

    def progress(self, id: int, host: str, new: NewProgress) -> Progress:
        """Take a receiver's word. Only another state is written down: bytes are counted in memory.

        Raises MissingError("publish.unknown"), InputError("publish.host").
        """
        if host not in self.publication(id).receivers:
            raise InputError("publish.host", f"publication {id} is not for {host}")
        said = Progress(host=host, at=self.clock(), **msgspec.structs.asdict(new))
        before = self._live.get((id, host))
        self._live[id, host] = said
        if before is None or before.state is not new.state or new.state.final:
            with self.database.write() as session:
                row = session.get(ProgressRow, (id, host)) or ProgressRow(publication=id, host=host)
                for name, value in to_builtins_of(new).items():
                    setattr(row, name, value)
                row.at = said.at
                session.add(row)
        self._revisions[id] = self._revisions.get(id, 0) + 1
        return said

    def _progress(self, session: Session, ids: Sequence[int]) -> list[tuple[int, Progress]]:
        rows = session.scalars(
            select(ProgressRow)
            .where(ProgressRow.publication.in_(ids))
            .order_by(ProgressRow.publication, ProgressRow.host)
        )
        return [(row.publication, self._live.get((row.publication, row.host)) or _word(row)) for row in rows]

    # The feed

    def _source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        if TOPIC in topics:
            newest = select(PublicationRow).order_by(PublicationRow.id.desc()).limit(TOLD)
            for row in reversed(list(session.scalars(newest))):
                yield Item(TOPIC, str(row.id), _record(row))


def _numbers(path: Path) -> dict[str, int]:
    """What a restore has left (`backline state`): publications after the archive are not in the database any more, but
    root file servers have seen their numbers, and would take no other statement under one of them."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise InputError("depot.numbers", f"this is not what a restore writes: {error}", where=str(path)) from error


def _record(row: PublicationRow) -> dict[str, object]:
    """What the feed tells: a `services.common.statement.Publication`."""
    made = statement.Publication(
        id=row.id, statement=row.statement, signatures=json.loads(row.signatures), to=json.loads(row.to)
    )
    return to_builtins_of(made)


def to_builtins_of(struct: msgspec.Struct) -> dict[str, object]:
    """A struct's fields as plain data."""
    plain = to_builtins(struct)
    assert isinstance(plain, dict)
    return plain


def _word(row: ProgressRow) -> Progress:
    return Progress(
        host=row.host,
        bytes=row.bytes,
        total=row.total,
        full=row.full,
        state=State(row.state),
        detail=row.detail,
        at=row.at,
    )
