"""The bus adapter against a real dbus-daemon, and its fake: the same behaviour from both."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.bus.fake import FakeSystemd, Fault, make_unit
from services.common.bus.jobs import JobFailed, end_of, finish
from services.common.bus.manager import SystemdManager, transient_properties
from services.common.bus.model import (
    BusError,
    JobRemoved,
    Resync,
    TransientService,
    UnitChanged,
    is_unit_name,
    unit_from_path,
    unit_to_path,
)
from services.common.bus.signals import QUEUE, SystemdEvents, _EventQueue, decode_signal
from services.common.errors import MissingError, UsageError
from tests.common.bus_rig import SYSTEMD, SystemdOnBus, bus_daemon, spoof_to_everybody

UNITS = [
    make_unit("nginx.service", "Web server"),
    make_unit("bad.service", active="failed", sub="failed"),
    make_unit("getty@tty1.service"),
]


@pytest.fixture
def bare_address(tmp_path: Path) -> Iterator[str]:
    with bus_daemon(tmp_path) as address:
        yield address


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bus_daemon(tmp_path_factory.mktemp("bus")) as address:
        yield address


@pytest.fixture(scope="module")
def shared(address: str) -> Iterator[SystemdOnBus]:
    with SystemdOnBus(address, UNITS) as systemd:
        yield systemd


@pytest.fixture
def systemd(shared: SystemdOnBus) -> SystemdOnBus:
    shared.reset()
    return shared


def soon() -> float:
    return time.monotonic() + 10


def within(scenario: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await scenario()

    return asyncio.run(bounded())


def test_units_are_listed_by_name(systemd: SystemdOnBus, address: str) -> None:
    units = SystemdManager(address).list_units()
    assert [unit.name for unit in units] == ["bad.service", "getty@tty1.service", "nginx.service"]
    assert (units[0].load, units[0].active, units[0].sub) == ("loaded", "failed", "failed")


def test_states_and_patterns_reach_systemd(systemd: SystemdOnBus, address: str) -> None:
    SystemdManager(address).list_units(states=["failed", "active"], patterns=["n*"])
    assert systemd.calls()[-1] == ("ListUnitsByPatterns", [["failed", "active"], ["n*"]])


def test_one_unit_alone_and_none_at_all_are_lists_too(systemd: SystemdOnBus, address: str) -> None:
    manager = SystemdManager(address)
    assert [unit.name for unit in manager.list_units(states=["failed"])] == ["bad.service"]
    assert manager.list_units(states=["reloading"]) == []


def test_a_unit_is_read_with_all_that_is_shown_of_it(systemd: SystemdOnBus, address: str) -> None:
    assert SystemdManager(address).unit("getty@tty1.service") == UNITS[2]


def test_a_unit_that_does_not_exist_is_missing(systemd: SystemdOnBus, address: str) -> None:
    with pytest.raises(MissingError, match=r"there is no unit no\.service"):
        SystemdManager(address).unit("no.service")
    with pytest.raises(MissingError, match=r"there is no unit no\.service"):
        SystemdManager(address).start("no.service")


def test_what_systemd_refuses_says_so(systemd: SystemdOnBus, address: str) -> None:
    systemd.deny()
    with pytest.raises(BusError) as caught:
        SystemdManager(address).stop("nginx.service")
    assert caught.value.code == "bus.denied"


def test_a_pattern_is_no_unit_to_stop(address: str) -> None:
    with pytest.raises(UsageError):
        SystemdManager(address).stop("*.service")


def test_no_bus_is_unreachable_and_leaves_no_descriptor(tmp_path: Path) -> None:
    manager = SystemdManager(f"unix:path={tmp_path}/none")
    with pytest.raises(BusError):
        manager.list_units()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(BusError) as caught:
        manager.list_units()
    assert caught.value.code == "bus.unreachable"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_bus_without_systemd_is_no_crash(bare_address: str) -> None:
    with pytest.raises(BusError):
        SystemdManager(bare_address).list_units()


def test_a_transient_service_arrives_as_it_was_described(systemd: SystemdOnBus, address: str) -> None:
    service = TransientService(
        "job-1.service",
        ["/bin/echo", "a b"],
        user="nobody",
        environment={"A": "1"},
        remain_after_exit=True,
        properties={"MemoryMax": 1 << 30, "After": ["network.target"], "CollectMode": "inactive-or-failed"},
    )
    assert SystemdManager(address).start_transient(service) == "/org/freedesktop/systemd1/job/1"
    member, (name, mode, properties, others) = systemd.calls()[-1]
    assert (member, name, mode, others) == ("StartTransientUnit", "job-1.service", "fail", [])
    values = dict(properties)
    assert values["ExecStart"] == [["/bin/echo", ["/bin/echo", "a b"], False]]
    assert (values["User"], values["Environment"], values["RemainAfterExit"]) == ("nobody", ["A=1"], True)
    assert (values["MemoryMax"], values["After"]) == (1 << 30, ["network.target"])


def test_a_transient_service_of_no_absolute_program_is_refused() -> None:
    with pytest.raises(UsageError):
        transient_properties(TransientService("x.service", ["echo"]))


def test_a_property_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="MemoryMox"):
        transient_properties(TransientService("x.service", ["/bin/echo"], properties={"MemoryMox": 1}))


def test_events_begin_with_a_resync_and_then_follow(systemd: SystemdOnBus, address: str) -> None:
    async def scenario() -> list[object]:
        async with SystemdEvents(address).subscribe() as events:
            seen: list[object] = [await anext(events)]
            await asyncio.to_thread(systemd.change, "nginx.service", "failed", "failed")
            await asyncio.to_thread(SystemdManager(address).start, "getty@tty1.service")
            return [*seen, await anext(events), await anext(events)]

    assert within(scenario) == [
        Resync(),
        UnitChanged("nginx.service", "failed", "failed"),
        JobRemoved("/org/freedesktop/systemd1/job/1", "getty@tty1.service", "done"),
    ]


def test_events_come_back_after_the_bus_did(tmp_path: Path) -> None:
    async def scenario() -> list[object]:
        async with contextlib.AsyncExitStack() as stack:
            with contextlib.ExitStack() as first:
                address = first.enter_context(bus_daemon(tmp_path))
                first.enter_context(SystemdOnBus(address, UNITS))
                events = await stack.enter_async_context(SystemdEvents(address).subscribe())
                seen: list[object] = [await anext(events)]
            with contextlib.ExitStack() as second:
                systemd = second.enter_context(SystemdOnBus(second.enter_context(bus_daemon(tmp_path)), UNITS))
                seen.append(await anext(events))
                await asyncio.to_thread(systemd.change, "nginx.service", "active", "running")
                seen.append(await anext(events))
                return seen

    assert within(scenario) == [Resync(), Resync(), UnitChanged("nginx.service", "active", "running")]


def test_a_systemd_that_was_replaced_is_a_resync(bare_address: str) -> None:
    async def scenario() -> list[object]:
        with SystemdOnBus(bare_address, UNITS):
            subscription = SystemdEvents(bare_address).subscribe()
            events = await subscription.__aenter__()
            seen: list[object] = [await anext(events)]
        with SystemdOnBus(bare_address, UNITS):
            seen.append(await anext(events))
            await subscription.__aexit__(None, None, None)
        return seen

    assert within(scenario) == [Resync(), Resync()]


def test_a_signal_that_another_process_sends_to_us_is_not_believed(systemd: SystemdOnBus, address: str) -> None:
    async def scenario() -> object:
        async with SystemdEvents(address).subscribe() as events:
            await anext(events)
            await spoof_to_everybody(address, [7, "/job/7", "nginx.service", "failed"])
            await asyncio.to_thread(systemd.change, "nginx.service", "active", "running")
            return await anext(events)

    assert within(scenario) == UnitChanged("nginx.service", "active", "running")


def test_subscribing_to_no_bus_is_unreachable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with SystemdEvents(f"unix:path={tmp_path}/none").subscribe():
            pass

    with pytest.raises(BusError):
        within(scenario)


def test_a_bus_that_hangs_up_while_we_say_hello_does_not_hang_us(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_unix_server(hang_up, tmp_path / "bus"):
            with pytest.raises(BusError):
                async with SystemdEvents(f"unix:path={tmp_path}/bus").subscribe():
                    pass

    within(scenario)


def test_a_reader_that_is_too_slow_is_told_by_a_resync() -> None:
    async def scenario() -> list[object]:
        queue = _EventQueue()
        for number in range(QUEUE + 2):
            queue.put(UnitChanged(f"{number}.service"))
        events = queue.events()
        return [await anext(events), await anext(events)]

    assert within(scenario) == [Resync(), UnitChanged(f"{QUEUE + 1}.service")]


def test_who_waits_for_jobs_is_not_told_of_units(systemd: SystemdOnBus, address: str) -> None:
    """A reload tells of every unit several times: more than a queue holds, of what nobody there wants to know."""

    async def scenario() -> list[object]:
        async with SystemdEvents(address).subscribe(jobs_only=True) as events:
            begin = await anext(events)
            for _ in range(3):
                await asyncio.to_thread(systemd.change, "nginx.service", "active", "running")
            job = await asyncio.to_thread(SystemdManager(address).restart, "nginx.service")
            return [begin, await anext(events), job]

    begin, event, job = within(scenario)
    assert begin == Resync()
    assert event == JobRemoved(str(job), "nginx.service", "done")


def test_a_job_is_waited_for(systemd: SystemdOnBus, address: str) -> None:
    manager = SystemdManager(address)
    done = within(lambda: finish(SystemdEvents(address), lambda: manager.restart("nginx.service"), deadline=soon()))
    assert (done.unit, done.result) == ("nginx.service", "done")


def test_a_job_that_fails_names_its_unit_and_result(systemd: SystemdOnBus, address: str) -> None:
    systemd.end_jobs_with("dependency")
    manager = SystemdManager(address)
    with pytest.raises(JobFailed, match=r"the job of nginx\.service ended: dependency"):
        within(lambda: finish(SystemdEvents(address), lambda: manager.start("nginx.service"), deadline=soon()))


def test_the_fake_ends_jobs_as_systemd_does() -> None:
    fake = FakeSystemd(UNITS)
    done = within(lambda: finish(fake, lambda: fake.stop("nginx.service"), deadline=soon()))
    assert (done.result, fake.unit("nginx.service").active) == ("done", "inactive")


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.UNREACHABLE, "bus.unreachable"), (Fault.DENIED, "bus.denied"), (Fault.JOBS_FAIL, "unit.job")],
)
def test_a_named_fault_of_the_fake_is_what_its_name_says(fault: Fault, code: str) -> None:
    fake = FakeSystemd(UNITS)
    fake.faults.add(fault)
    with pytest.raises((BusError, JobFailed)) as caught:
        within(lambda: finish(fake, lambda: fake.start("nginx.service"), deadline=soon()))
    assert caught.value.code == code


def test_a_job_that_hangs_is_given_up_at_the_deadline() -> None:
    fake = FakeSystemd(UNITS)
    fake.faults.add(Fault.JOBS_HANG)
    with pytest.raises(BusError) as caught:
        within(lambda: finish(fake, lambda: fake.start("nginx.service"), deadline=time.monotonic() + 0.05))
    assert caught.value.code == "bus.late"


def lost_while(fake: FakeSystemd, *, then: Callable[[str], None]) -> Callable[[], str]:
    """A start whose bus is lost, and what happens to its job meanwhile."""

    def start() -> str:
        fake.faults.add(Fault.JOBS_HANG)
        job = fake.start("nginx.service")
        fake.lose_connection()
        threading.Timer(0.3, then, [job]).start()
        return job

    return start


def test_a_job_whose_bus_was_lost_has_no_known_result_where_nobody_looks() -> None:
    fake = FakeSystemd(UNITS)
    with pytest.raises(BusError) as caught:
        within(lambda: finish(fake, lost_while(fake, then=fake.cancel), deadline=soon()))
    assert caught.value.code == "bus.gap"


@pytest.mark.parametrize(
    ("active", "stops", "result"),
    [
        ("active", False, "done"),
        ("inactive", False, "done"),
        ("failed", False, "failed"),
        ("inactive", True, "done"),
        ("failed", True, "done"),
        ("active", True, "failed"),
    ],
)
def test_a_job_whose_end_was_not_heard_is_looked_for_until_it_is_over(active: str, stops: bool, result: str) -> None:
    fake = FakeSystemd(UNITS)
    looked: list[JobRemoved | None] = []

    def over(job: str) -> None:
        fake.set_state("nginx.service", active, "")
        fake.cancel(job)

    def ended(job: str) -> JobRemoved | None:
        looked.append(end_of(fake, job, "nginx.service", stops=stops))
        return looked[-1]

    def wait() -> Coroutine[object, object, JobRemoved]:
        return finish(fake, lost_while(fake, then=over), deadline=soon(), ended=ended)

    if result == "done":
        assert within(wait).result == "done"
    else:
        with pytest.raises(JobFailed):
            within(wait)
    assert looked[0] is None
    assert [each.result for each in looked if each] == [result]


def test_a_bus_that_stays_away_is_asked_until_the_deadline() -> None:
    fake = FakeSystemd(UNITS)

    def away(job: str) -> JobRemoved | None:
        return end_of(fake, job, "nginx.service")

    start = lost_while(fake, then=lambda _: fake.faults.add(Fault.UNREACHABLE))
    with pytest.raises(BusError) as caught:
        within(lambda: finish(fake, start, deadline=time.monotonic() + 1, ended=away))
    assert caught.value.code == "bus.late"


def test_whether_a_job_goes_on_is_asked_of_its_object(systemd: SystemdOnBus, address: str) -> None:
    systemd.hang_jobs()
    manager = SystemdManager(address)
    job = manager.start("nginx.service")
    assert manager.job_goes_on(job)
    manager.cancel(job)
    assert not manager.job_goes_on(job)


@pytest.mark.parametrize(
    "name", ["a.service", "-.slice", "getty@tty1.service", r"dev-disk-by\x2duuid.device", "a:b.mount"]
)
def test_names_of_units_are_taken(name: str) -> None:
    assert is_unit_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "a", "a.conf", "*.service", "-a.service", "--all.service", "a b.service", "a/b.service", "a.service\n",
     "[a].service", "é.service", "a" * 250 + ".service"],
)  # fmt: skip
def test_what_is_no_name_of_a_unit_is_refused(name: str) -> None:
    assert not is_unit_name(name)


@given(st.text(min_size=0, max_size=40).filter(lambda text: text.isprintable() and "\ufffd" not in text))
def test_an_object_path_gives_back_its_unit(name: str) -> None:
    path = unit_to_path(name)
    assert path.isascii()
    assert unit_from_path(path) == name.encode().decode()


@given(
    st.text(max_size=20),
    st.sampled_from([f"{SYSTEMD}.Manager", "org.freedesktop.DBus.Properties", "x"]),
    st.sampled_from(["JobRemoved", "PropertiesChanged", "x"]),
    st.lists(st.one_of(st.text(max_size=5), st.integers(), st.just({}), st.just([])), max_size=5),
)
def test_a_malformed_signal_is_ignored(path: str, interface: str, member: str, body: list[object]) -> None:
    assert isinstance(decode_signal(path, interface, member, body), JobRemoved | UnitChanged | None)
