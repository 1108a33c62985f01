"""Which publications are taken, and which refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from services.common import statement as statements
from services.common.errors import IntegrityError
from services.common.statement import Publication, Statement
from services.common.versions import Ref
from services.roots import plan as plans
from services.roots.plan import Plan
from services.roots.schema import Memory, Seen

ONE, TWO, THREE = "20260101.000000000001", "20260102.000000000002", "20260103.000000000003"


def publication(id: int, version: str, *, sequence: int | None = None, **more: object) -> Publication:
    values = {"channel": "stable", "role": "nfsroot", **{key: more[key] for key in ("channel", "role") if key in more}}
    statement = Statement(
        sequence=id if sequence is None else sequence,
        version=version,
        manifest_sha256="0" * 64,
        published_at="2026-01-31T12:00:00Z",
        by="alice",
        **values,  # type: ignore[arg-type]
    )
    to = more.get("to", [])
    assert isinstance(to, list)
    signatures = ["bad"] if more.get("bad") else ["good"]
    return Publication(id=id, statement=statements.encode(statement).decode(), signatures=signatures, to=to)


def verify(publication: Publication, last: int) -> Statement:
    """As the real one, with signatures that are words."""
    if publication.signatures != ["good"]:
        raise IntegrityError("publish.signature", "nobody's")
    statement = statements.decode(publication.statement)
    if statement.sequence <= last:
        raise IntegrityError("publish.sequence", "an old one")
    return statement


def make(
    *publications: Publication,
    memory: Memory | None = None,
    pointers: Mapping[str, Collection[str]] | None = None,
    fresh: Collection[int] = (),
) -> Plan:
    return plans.make(
        publications, memory or Memory(), host="rhfs01", pointers=pointers or {}, verify=verify, fresh=fresh
    )


def versions(plan: Plan) -> list[str]:
    return [each.ref.version for each in plan.wanted]


def refused(plan: Plan) -> list[tuple[int, str]]:
    return [(each.publication.id, each.error.code) for each in plan.refused]


def test_the_newest_of_a_channel_is_taken() -> None:
    plan = make(publication(1, ONE), publication(2, TWO))
    assert versions(plan) == [TWO]
    assert plan.memory.channels["stable"] == Seen(sequence=2, wants={"nfsroot": 2})


def test_each_channel_has_its_own_sequence() -> None:
    plan = make(publication(1, ONE, sequence=7), publication(2, TWO, sequence=1, channel="next"))
    assert sorted(versions(plan)) == [ONE, TWO]


def test_what_was_accepted_once_is_wanted_after_a_restart() -> None:
    first = publication(1, ONE)
    memory = make(first).memory
    again = make(first, memory=memory)
    assert versions(again) == [ONE]
    assert again.refused == []


def test_an_old_statement_under_a_new_number_is_refused_and_changes_nothing() -> None:
    memory = make(publication(1, ONE), publication(2, TWO)).memory
    replayed = publication(3, ONE, sequence=1)
    plan = make(publication(1, ONE), publication(2, TWO), replayed, memory=memory, fresh=[3])
    assert versions(plan) == [TWO]
    assert refused(plan) == [(3, "publish.sequence")]
    assert plan.memory == memory


def test_a_bad_signature_is_refused_and_the_one_before_stays() -> None:
    plan = make(publication(1, ONE), publication(2, TWO, bad=True))
    assert versions(plan) == [ONE]
    assert refused(plan) == [(2, "publish.signature")]
    assert plan.memory.channels["stable"].sequence == 1


def test_a_statement_that_cannot_be_read_is_refused_by_name() -> None:
    broken = Publication(id=9, statement='{"channel": "stable"}', signatures=["good"])
    assert refused(make(broken, publication(1, ONE))) == [(9, "publish.statement")]


def test_what_is_for_other_servers_is_not_taken_and_counts_all_the_same() -> None:
    plan = make(publication(1, ONE, to=["rhfs02"]))
    assert versions(plan) == []
    assert plan.memory.channels["stable"].sequence == 1
    assert versions(make(publication(1, ONE, to=["rhfs01", "rhfs02"]))) == [ONE]


def test_versions_of_servers_are_not_for_root_file_servers() -> None:
    plan = make(publication(1, ONE), publication(2, TWO, role="gw"))
    assert versions(plan) == [ONE]
    assert plan.memory.channels["stable"].sequence == 2


def test_a_new_server_takes_what_pointers_name_from_older_statements() -> None:
    plan = make(publication(1, ONE), publication(2, TWO), publication(3, THREE), pointers={ONE: ["channel stable"]})
    assert sorted(versions(plan)) == [ONE, THREE]
    assert plan.reasons(Ref("nfsroot", ONE)) == ["named by channel stable"]
    assert plan.reasons(Ref("nfsroot", TWO)) == []


def test_what_pointers_name_has_to_be_signed_as_well() -> None:
    plan = make(publication(1, ONE, bad=True), publication(2, TWO), pointers={ONE: ["channel stable"]})
    assert versions(plan) == [TWO]
    assert refused(plan) == [(1, "publish.signature")]
