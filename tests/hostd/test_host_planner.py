"""The plan of a whole host: machines and roots as of units, it gets there, nothing is left, and it can be undone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InputError
from services.hostd.desired import Desired, MachineWish, check
from services.hostd.host_planner import HostSeen, Originals, Plan, merged, plan, simulate
from services.hostd.machines_planner import MachineBefore, MachineSeen, MachinesSeen
from services.hostd.machines_schema import Card, Resources
from services.hostd.roots_planner import RootsSeen
from tests.hostd.wishes import HELD, ROOTS, VERSIONS, whole_documents, whole_hosts

OLD, NEW, NEWER, NEWEST = VERSIONS
NONE = Originals()
RUNNING = MachineSeen(role="db", version=OLD, active="active")
WISH = MachineWish(role="db", version=OLD)
change = msgspec.structs.replace
few = settings(max_examples=40)


def unfulfilled(seen: HostSeen, desired: Desired) -> list[str]:
    """What is not as it is wished for; written without the planner."""
    assert seen.machines is not None
    assert seen.roots is not None
    wrong = []
    for name, wish in desired.machines.items():
        found = seen.machines.machines.get(name)
        if found is None or found.wish() != wish or (found.active in ("active", "activating")) != wish.running:
            wrong.append(f"{name} is {found}, not {wish}")
        if found is not None and found.changing:
            wrong.append(f"{name} is being changed")
    wrong += [f"{root} is not held" for root in desired.roots if root not in seen.roots.held]
    if sorted(seen.roots.holds) != sorted(desired.roots) and not seen.roots.silent:
        wrong.append(f"it is to hold {seen.roots.holds}")
    return wrong + [f"{path} is not served" for path in desired.exports if path not in (seen.roots.exports or [])]


def applied(seen: HostSeen, desired: Desired, originals: Originals) -> tuple[HostSeen, Plan]:
    planned = plan(seen, desired, originals)
    return simulate(seen, planned.steps), planned


@few
@given(whole_hosts(), whole_documents())
def test_a_plan_reaches_what_is_wished_for(host: HostSeen, desired: Desired) -> None:
    after, _ = applied(host, desired, NONE)
    assert unfulfilled(after, desired) == []


@few
@given(whole_hosts(), whole_documents(), whole_documents())
def test_a_plan_of_what_is_reached_is_empty(host: HostSeen, first: Desired, second: Desired) -> None:
    between, one = applied(host, first, NONE)
    assert plan(between, first, one.originals) == Plan([], one.originals)
    after, two = applied(between, second, one.originals)
    assert unfulfilled(after, second) == []
    assert plan(after, second, two.originals) == Plan([], two.originals)


@few
@given(whole_hosts(), st.lists(whole_documents(), max_size=3))
def test_the_empty_document_leaves_the_machines_that_were_there_before(host: HostSeen, way: list[Desired]) -> None:
    seen, originals = host, NONE
    for desired in way:
        seen, planned = applied(seen, desired, originals)
        originals = planned.originals
    after, planned = applied(seen, Desired(), originals)
    assert host.machines is not None
    assert after.machines is not None
    assert set(after.machines.machines) == set(host.machines.machines)
    assert planned.originals == NONE
    for name, before in host.machines.machines.items():
        now = after.machines.machines[name]
        assert (now.network, now.resources, now.folders) == (before.network, before.resources, before.folders)
        if not before.changing:
            assert now.wanted == before.wanted


@few
@given(whole_hosts(), whole_documents(), whole_documents(), st.data())
def test_from_wherever_a_plan_breaks_off_there_is_a_way_back(
    host: HostSeen, first: Desired, second: Desired, data: st.DataObject
) -> None:
    between, one = applied(host, first, NONE)
    forward = plan(between, second, one.originals)
    broken = simulate(between, forward.steps[: data.draw(st.integers(0, len(forward.steps)))])
    known = merged(one.originals, forward.originals)
    after = simulate(broken, plan(broken, first, known).steps)
    assert unfulfilled(after, first) == []


@few
@given(whole_hosts(), whole_documents())
def test_a_plan_survives_being_written_down(host: HostSeen, desired: Desired) -> None:
    planned = plan(host, desired, NONE)
    assert msgspec.json.decode(msgspec.json.encode(planned), type=Plan) == planned
    assert msgspec.json.decode(msgspec.json.encode(desired), type=Desired) == desired


def iron(*, aside: dict[str, MachineSeen] | None = None, **machines: MachineSeen) -> HostSeen:
    return HostSeen({}, MachinesSeen(machines=machines, aside=aside or {}, held=HELD), None)


def steps(seen: HostSeen, desired: Desired, originals: Originals = NONE) -> list[str]:
    return [str(step) for step in plan(seen, desired, originals).steps]


def of(**wishes: MachineWish) -> Desired:
    return Desired(machines=wishes)


def test_a_machine_that_is_not_there_is_created_and_set_aside_when_no_document_wishes_for_it() -> None:
    after, planned = applied(iron(), of(one=WISH), NONE)
    assert [str(step) for step in planned.steps] == ["create machine one"]
    assert planned.originals.machines == {"one": MachineBefore()}
    assert steps(after, Desired(), planned.originals) == ["stop machine one", "set aside machine one"]


def test_a_machine_that_was_set_aside_comes_back_with_what_it_had() -> None:
    aside = change(RUNNING, wanted="stopped", active="inactive")
    assert steps(iron(aside={"one": aside}), of(one=change(WISH, version=NEW))) == [
        "bring back machine one",
        f"upgrade machine one to {NEW}",
    ]
    assert steps(iron(aside={"one": change(aside, role="web")}), of(one=WISH)) == ["create machine one"]


def test_the_version_before_is_gone_back_to_and_any_other_is_an_upgrade() -> None:
    seen = change(RUNNING, version=NEW, previous=OLD)
    assert steps(iron(one=seen), of(one=WISH)) == [f"revert machine one to {OLD}"]
    assert steps(iron(one=seen), of(one=change(WISH, version=NEWER))) == [f"upgrade machine one to {NEWER}"]


def test_limits_change_while_a_machine_runs_and_before_its_version_does() -> None:
    wish = change(WISH, version=NEW, resources=Resources(memory="2G"))
    assert steps(iron(one=RUNNING), of(one=wish)) == [
        "change limits of machine one",
        f"upgrade machine one to {NEW}",
    ]
    wish = change(WISH, network=[Card(kind="bridge", on="br0")])
    assert steps(iron(one=RUNNING), of(one=wish)) == ["change network and folders of machine one"]


def test_an_upgrade_under_way_is_awaited_or_taken_back() -> None:
    seen = change(RUNNING, version=NEW, previous=OLD, changing=True)
    assert steps(iron(one=seen), of(one=change(WISH, version=NEW))) == [f"upgrade machine one to {NEW}"]
    assert steps(iron(one=seen), of(one=WISH)) == [f"revert machine one to {OLD}"]


def test_a_machine_that_was_there_keeps_its_version_where_going_back_is_no_revert() -> None:
    known = Originals(machines={"one": MachineBefore(change(WISH, resources=Resources(memory="1G")))})
    seen = change(RUNNING, version=NEWER, previous=NEW)
    assert steps(iron(one=seen), Desired(), known) == ["change limits of machine one"]
    seen = change(seen, previous=OLD)
    assert steps(iron(one=seen), Desired(), known) == ["change limits of machine one", f"revert machine one to {OLD}"]


@pytest.mark.parametrize(
    ("seen", "desired", "code"),
    [
        (HostSeen(), of(one=WISH), "plan.iron"),
        (iron(), of(one=change(WISH, version="20270101.000000000001")), "plan.version"),
        (iron(one=change(RUNNING, role="web")), of(one=WISH), "plan.role"),
        (HostSeen(), Desired(roots=ROOTS), "plan.roots"),
        (HostSeen(), Desired(exports=["/images"]), "plan.roots"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(seen: HostSeen, desired: Desired, code: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(seen, desired, NONE)
    assert caught.value.code == code


def test_a_version_is_held_then_staged_and_let_go_by_holding_nothing() -> None:
    seen = HostSeen({}, None, RootsSeen(held=ROOTS[:1], exports=["/images"]))
    desired = Desired(roots=ROOTS[:2], exports=["/images"])
    assert steps(seen, desired) == [f"hold {ROOTS[0]}, {ROOTS[1]}", f"stage {ROOTS[1]}"]
    after, _ = applied(seen, desired, NONE)
    assert steps(after, Desired()) == ["hold no further version"]


def test_a_root_file_server_that_is_silent_is_asked_for_what_a_document_wishes_and_for_nothing_else() -> None:
    silent = HostSeen({}, None, RootsSeen(silent=True))
    assert steps(silent, Desired()) == []
    assert steps(silent, Desired(roots=ROOTS[:1])) == [f"hold {ROOTS[0]}", f"stage {ROOTS[0]}"]


def test_an_export_that_is_not_served_is_served_again() -> None:
    assert steps(HostSeen({}, None, RootsSeen(exports=[])), Desired(exports=["/images"])) == ["export /images"]


def test_a_document_that_names_something_twice_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        check(Desired(roots=[ROOTS[0], ROOTS[0]]))
    assert caught.value.code == "desired.twice"
