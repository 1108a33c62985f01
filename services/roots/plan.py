"""Which published versions this server takes, and which it refuses. Pure but for the signatures.

By channel, the newest statement of each role counts, by its sequence. A channel's sequence never goes back: what was
accepted once is remembered, and an old statement under a new number of the feed is refused by name. What netboot's
pointers name is taken as well, from whatever statement published it, so a server that is new in the hall catches up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from services.common import statement as statements
from services.common.errors import IntegrityError
from services.common.statement import Publication, Statement
from services.common.versions import Ref
from services.roots.schema import Memory, Seen

Verify = Callable[[Publication, int], Statement]
"""Verifies a publication against the last sequence. Raises IntegrityError."""


@dataclass(frozen=True)
class Wanted:
    """A version to hold, the publication that vouches for it, and why."""

    ref: Ref
    publication: Publication
    why: str


@dataclass(frozen=True)
class Refused:
    """A publication that is not acceptable."""

    publication: Publication
    ref: Ref | None
    error: IntegrityError


@dataclass
class Plan:
    """`wanted` is all that this server is to hold, held already or not; `memory` what is accepted now."""

    wanted: list[Wanted] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def reasons(self, ref: Ref) -> list[str]:
        """Why a version is wanted; empty when it is not."""
        return [each.why for each in self.wanted if each.ref == ref]


def serves(role: str) -> bool:
    """Whether seats boot a role: the others' versions are not for root file servers."""
    return role.startswith("nfsroot")


def make(
    publications: Iterable[Publication],
    memory: Memory,
    *,
    host: str,
    pointers: Mapping[str, Collection[str]],
    verify: Verify,
    fresh: Collection[int] = (),
    holds: Collection[str] = (),
) -> Plan:
    """The plan for `publications`, the whole feed. `pointers` says by version what names it ("channel stable").

    `holds` are further versions to have, as ROLE/VERSION, whatever their publications say of hosts.

    `fresh` are ids that have just come: with an old sequence, they are an old statement once more.
    """
    readable: list[tuple[Publication, Statement]] = []
    plan = Plan()
    for publication in sorted(publications, key=lambda each: each.id):
        try:
            readable.append((publication, statements.decode(publication.statement)))
        except IntegrityError as error:
            plan.refused.append(Refused(publication, None, error))
    channels = dict(memory.channels)
    for name in sorted({statement.channel for _, statement in readable}):
        own = [each for each in readable if each[1].channel == name]
        channels[name] = _channel(own, channels.get(name, Seen(sequence=0)), verify, fresh, plan)
    plan.memory = Memory(channels=channels)
    by_id = {publication.id: (publication, statement) for publication, statement in readable}
    for name, seen in sorted(channels.items()):
        for role, number in sorted(seen.wants.items()):
            if number not in by_id or not serves(role):
                continue
            publication, statement = by_id[number]
            if _for(publication, host):
                why = f"newest on channel {name}: number {statement.sequence}"
                plan.wanted.append(Wanted(Ref(role, statement.version), publication, why))
    _pointed(readable, pointers, host, verify, plan)
    _held(readable, holds, verify, plan)
    return plan


def _channel(
    own: list[tuple[Publication, Statement]], seen: Seen, verify: Verify, fresh: Collection[int], plan: Plan
) -> Seen:
    """What is accepted of one channel's publications; the newest that is good, of each role."""
    wants = dict(seen.wants)
    sequence = seen.sequence
    settled: set[str] = set()
    for publication, statement in sorted(own, key=lambda each: (each[1].sequence, each[0].id), reverse=True):
        new = statement.sequence > seen.sequence
        if not new and publication.id not in fresh:
            continue
        if new and statement.role in settled:
            continue  # something newer of its role is good
        try:
            verify(publication, seen.sequence)
        except IntegrityError as error:
            plan.refused.append(Refused(publication, Ref(statement.role, statement.version), error))
            continue
        settled.add(statement.role)
        sequence = max(sequence, statement.sequence)
        wants[statement.role] = publication.id
    return Seen(sequence=sequence, wants=wants)


def _pointed(
    readable: list[tuple[Publication, Statement]],
    pointers: Mapping[str, Collection[str]],
    host: str,
    verify: Verify,
    plan: Plan,
) -> None:
    for version, names in sorted(pointers.items()):
        vouching = [
            each for each in readable if each[1].version == version and serves(each[1].role) and _for(each[0], host)
        ]
        for publication, statement in reversed(vouching):
            try:
                verify(publication, 0)
            except IntegrityError as error:
                plan.refused.append(Refused(publication, Ref(statement.role, version), error))
                continue
            plan.wanted.append(Wanted(Ref(statement.role, version), publication, f"named by {', '.join(names)}"))
            break


def _held(readable: list[tuple[Publication, Statement]], holds: Collection[str], verify: Verify, plan: Plan) -> None:
    for name in sorted(holds):
        vouching = [each for each in readable if str(Ref(each[1].role, each[1].version)) == name]
        for publication, statement in reversed(vouching):
            try:
                verify(publication, 0)
            except IntegrityError as error:
                plan.refused.append(Refused(publication, Ref(statement.role, statement.version), error))
                continue
            why = "this host's document has it held"
            plan.wanted.append(Wanted(Ref(statement.role, statement.version), publication, why))
            break


def _for(publication: Publication, host: str) -> bool:
    return not publication.to or host in publication.to
