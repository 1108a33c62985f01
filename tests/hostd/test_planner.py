"""From what is to what is wished for: the steps get there, there is nothing left to do, and all of it can be undone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InputError
from services.hostd.desired import Desired, UnitWish, check, installs
from services.hostd.planner import Original, Plan, Seen, merged, plan, simulate
from tests.hostd.wishes import INSTALLED, PLAIN, documents, hosts

NGINX = Seen("loaded", "inactive", "disabled", fragment="/usr/lib/systemd/system/nginx.service")


def of(**units: UnitWish) -> Desired:
    return Desired({f"{name}.service": wish for name, wish in units.items()})


def steps(seen: dict[str, Seen], desired: Desired, originals: dict[str, Original] | None = None) -> list[str]:
    return [str(step) for step in plan(seen, desired, originals or {}).steps]


def fulfilled(seen: dict[str, Seen], desired: Desired) -> list[str]:
    """What is not as it is wished for; written without the planner."""
    wrong = []
    for name, wish in desired.units.items():
        unit = seen.get(name, Seen())
        if wish.running is not None and wish.running != (unit.active in ("active", "activating")):
            wrong.append(f"{name} is {unit.active}")
        if wish.enabled is not None and wish.enabled != (unit.file_state == "enabled"):
            wrong.append(f"{name} is {unit.file_state}")
        if (wish.file, wish.drop_ins) != (unit.file, unit.drop_ins):
            wrong.append(f"{name} has other files")
    wrong += [f"{name} has files" for name, unit in seen.items() if unit.ours and name not in desired.units]
    return wrong


def state(seen: dict[str, Seen]) -> dict[str, tuple[bool, bool, object]]:
    """What a document can change of a host."""
    return {name: (unit.up, unit.enabled, unit.drop_ins) for name, unit in seen.items() if unit.fragment}


def applied(seen: dict[str, Seen], desired: Desired, originals: dict[str, Original]) -> tuple[dict[str, Seen], Plan]:
    planned = plan(seen, desired, originals)
    return simulate(seen, planned.steps), planned


@given(hosts(), documents())
def test_a_plan_reaches_what_is_wished_for(host: dict[str, Seen], desired: Desired) -> None:
    after, _ = applied(host, desired, {})
    assert fulfilled(after, desired) == []


@given(hosts(), documents(), documents())
def test_a_plan_reaches_what_is_wished_for_from_another_generation(
    host: dict[str, Seen], first: Desired, second: Desired
) -> None:
    between, planned = applied(host, first, {})
    after, _ = applied(between, second, planned.originals)
    assert fulfilled(after, second) == []


@given(hosts(), documents(), documents())
def test_a_plan_of_what_is_reached_is_empty(host: dict[str, Seen], first: Desired, second: Desired) -> None:
    between, one = applied(host, first, {})
    assert plan(between, first, one.originals) == Plan([], one.originals)
    after, two = applied(between, second, one.originals)
    assert plan(after, second, two.originals) == Plan([], two.originals)


@given(hosts(), st.lists(documents(), max_size=4))
def test_the_empty_document_gives_the_host_back_as_it_was(host: dict[str, Seen], way: list[Desired]) -> None:
    seen, originals = host, dict[str, Original]()
    for desired in way:
        seen, planned = applied(seen, desired, originals)
        originals = planned.originals
    after, planned = applied(seen, Desired(), originals)
    assert state(after) == state(host)
    assert planned.originals == {}


@given(hosts(), documents(), documents(), st.data())
def test_from_wherever_a_plan_breaks_off_there_is_a_way_back(
    host: dict[str, Seen], first: Desired, second: Desired, data: st.DataObject
) -> None:
    between, one = applied(host, first, {})
    forward = plan(between, second, one.originals)
    broken = simulate(between, forward.steps[: data.draw(st.integers(0, len(forward.steps)))])
    known = merged(one.originals, forward.originals)
    after = simulate(broken, plan(broken, first, known).steps)
    assert fulfilled(after, first) == []
    assert state(after) == state(between)


@given(hosts(), documents())
def test_steps_come_in_their_order(host: dict[str, Seen], desired: Desired) -> None:
    order = ["stop", "reset", "disable", "files", "reload", "enable", "run"]
    names = {"write": "files", "remove": "files", "start": "run", "restart": "run"}
    kinds = [step.kind.value for step in plan(host, desired, {}).steps]
    places = [order.index(names.get(kind, kind)) for kind in kinds]
    assert places == sorted(places)
    assert kinds.count("reload") == int("write" in kinds or "remove" in kinds)


@given(hosts(), documents())
def test_a_plan_survives_being_written_down(host: dict[str, Seen], desired: Desired) -> None:
    planned = plan(host, desired, {})
    assert msgspec.json.decode(msgspec.json.encode(planned), type=Plan) == planned
    assert msgspec.json.decode(msgspec.json.encode(desired), type=Desired) == desired


def test_a_new_unit_is_written_loaded_enabled_and_started() -> None:
    desired = of(own=UnitWish(enabled=True, running=True, file=INSTALLED))
    assert steps({}, desired) == [
        "write the file of own.service",
        "reload systemd",
        "enable own.service",
        "start own.service",
    ]


def test_what_is_wished_for_no_more_is_taken_back() -> None:
    host = {"nginx.service": NGINX}
    after, planned = applied(host, of(nginx=UnitWish(enabled=True, running=True)), {})
    assert planned.originals == {"nginx.service": Original(enabled=False, running=False)}
    assert steps(after, Desired(), planned.originals) == ["stop nginx.service", "disable nginx.service"]


def test_what_no_document_wished_for_is_left_alone() -> None:
    assert steps({"nginx.service": NGINX}, of(nginx=UnitWish(running=True))) == ["start nginx.service"]
    assert steps({"nginx.service": NGINX}, Desired()) == []


def test_what_runs_is_restarted_for_a_new_drop_in_and_what_does_not_is_not() -> None:
    wish = of(nginx=UnitWish(drop_ins={"10-a": "[Unit]\n"}))
    up = msgspec.structs.replace(NGINX, active="active")
    files = ["write drop-in 10-a of nginx.service", "reload systemd"]
    assert steps({"nginx.service": NGINX}, wish) == files
    assert steps({"nginx.service": up}, wish) == [*files, "restart nginx.service"]


def test_what_has_failed_and_shall_not_run_is_forgotten() -> None:
    seen = {"nginx.service": msgspec.structs.replace(NGINX, active="failed")}
    assert steps(seen, of(nginx=UnitWish(running=False))) == ["reset nginx.service"]
    own = {"own.service": Seen("loaded", "failed", "static", PLAIN)}
    assert steps(own, Desired()) == ["reset own.service", "remove the file of own.service", "reload systemd"]


def test_a_slice_is_not_restarted_with_all_that_is_in_it() -> None:
    seen = {"users.slice": Seen("loaded", "active", "static", fragment="/usr/lib/x")}
    wish = Desired({"users.slice": UnitWish(drop_ins={"10-a": "[Slice]\n"})})
    assert steps(seen, wish) == ["write drop-in 10-a of users.slice", "reload systemd"]


def test_links_are_made_anew_when_a_file_changes() -> None:
    host = {"own.service": Seen("loaded", "active", "enabled", INSTALLED, fragment="")}
    assert steps(host, of(own=UnitWish(enabled=True, file=INSTALLED + "Also=x.socket\n"))) == [
        "disable own.service",
        "write the file of own.service",
        "reload systemd",
        "enable own.service",
        "restart own.service",
    ]


@pytest.mark.parametrize(
    ("seen", "wish", "code"),
    [
        ({}, UnitWish(running=True), "plan.unknown"),
        ({}, UnitWish(enabled=True), "plan.unknown"),
        ({"u.service": NGINX}, UnitWish(file=PLAIN), "plan.foreign"),
        ({"u.service": Seen(foreign=["10-a"])}, UnitWish(drop_ins={"10-a": "[Unit]\n"}), "plan.foreign"),
        ({"u.service": Seen(foreign=[""])}, UnitWish(file=PLAIN), "plan.foreign"),
        ({"u.service": Seen(load="masked")}, UnitWish(running=True), "plan.masked"),
        ({"u.service": Seen("loaded", file_state="static")}, UnitWish(enabled=True), "plan.static"),
        ({}, UnitWish(enabled=True, file=PLAIN), "plan.static"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(seen: dict[str, Seen], wish: UnitWish, code: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(seen, of(u=wish), {})
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "wish", "code"),
    [
        ("a/b.service", UnitWish(), "desired.unit"),
        ("*.service", UnitWish(), "desired.unit"),
        ("dbus.service", UnitWish(running=False), "desired.protected"),
        ("backline-hostd-supervisor.socket", UnitWish(running=False), "desired.protected"),
        ("a.service", UnitWish(file=" \n"), "desired.text"),
        ("a.service", UnitWish(file="a\0"), "desired.text"),
        ("a.service", UnitWish(drop_ins={"x": ""}), "desired.text"),
        ("a@b.service", UnitWish(file=PLAIN), "desired.text"),
        ("a@.service", UnitWish(running=True), "desired.unit"),
        ("a@.service", UnitWish(running=True, file=PLAIN), "desired.unit"),
        ("a@.service", UnitWish(file="\0"), "desired.text"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(name: str, wish: UnitWish, code: str) -> None:
    with pytest.raises(InputError) as caught:
        check(Desired({name: wish}))
    assert caught.value.code == code


def test_what_an_install_section_is() -> None:
    assert installs(INSTALLED)
    assert not installs(PLAIN)
    assert not installs(PLAIN + "[Install]\n# WantedBy=x\n[Unit]\nAfter=y\n")
