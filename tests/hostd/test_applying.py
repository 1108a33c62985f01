"""A generation comes into force wholly or not at all: when steps fail, when it is cancelled, and when we die."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.common.errors import InputError, MissingError
from services.hostd.applying import GoingDown
from services.hostd.desired import Desired, MachineWish, UnitWish
from services.hostd.durable import ASIDE
from services.hostd.history import Force, Generation, Outcome, Record, State
from services.hostd.host_planner import Originals
from services.hostd.machines_planner import MachinesSeen
from services.hostd.machines_schema import Resources
from services.hostd.planner import Kind, Original, Seen, Step
from services.hostd.roots_planner import RootsSeen
from services.hostd.unit_files import MARK
from tests.hostd.disk_host import DiskHost, dies
from tests.hostd.wishes import INSTALLED, PLAIN

DROP_IN = "[Service]\nMemoryMax=1G\n"
HOST = {
    "nginx.service": Seen("loaded", "active", "enabled", fragment="/usr/lib/systemd/system/nginx.service"),
    "ssh.service": Seen("loaded", "active", "enabled", fragment="/usr/lib/systemd/system/ssh.service"),
}
FIRST = Desired({"own.service": UnitWish(True, True, INSTALLED), "nginx.service": UnitWish(drop_ins={"10-a": DROP_IN})})
SECOND = Desired(
    {
        "other.service": UnitWish(True, True, INSTALLED, {"10-a": DROP_IN}),
        "nginx.service": UnitWish(False, False),
    }
)


def generation(number: int, desired: Desired) -> Generation:
    return Generation(number, desired, "root", "a test", 1.0)


def apply(host: DiskHost, number: int, desired: Desired) -> Record:
    """Make a document a generation and bring it into force."""
    applier = host.applier()
    wanted = generation(number, desired)
    planned = applier.plan(wanted)
    host.history.add(wanted)
    return asyncio.run(applier.run(applier.begin(wanted, planned, job=f"job-{number}", by="root")))


@pytest.fixture
def host() -> Iterator[DiskHost]:
    """A host with the first generation in force; in memory where there is such a folder, for the hundreds of kills."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        host = DiskHost(Path(name, "host"))
        host.put(HOST)
        assert apply(host, 1, FIRST).outcome is Outcome.DONE
        yield host


def states(host: DiskHost) -> dict[str, tuple[bool, bool, str | None, dict[str, str]]]:
    return {
        name: (unit.up, unit.enabled, unit.file, unit.drop_ins)
        for name, unit in host.seen().items()
        if unit.load == "loaded"
    }


AFTER_FIRST = {
    "nginx.service": (True, True, None, {"10-a": DROP_IN}),
    "own.service": (True, True, INSTALLED, {}),
    "ssh.service": (True, True, None, {}),
}
AFTER_SECOND = {
    "nginx.service": (False, False, None, {}),
    "other.service": (True, True, INSTALLED, {"10-a": DROP_IN}),
    "ssh.service": (True, True, None, {}),
}


def test_a_generation_comes_into_force(host: DiskHost) -> None:
    record = apply(host, 2, SECOND)
    assert (record.outcome, {entry.state for entry in record.entries}) == (Outcome.DONE, {State.DONE})
    assert states(host) == AFTER_SECOND
    assert host.history.force() == Force(
        2,
        Originals(
            {
                "nginx.service": Original(enabled=True, running=True),
                "other.service": Original(enabled=False, running=False),
            }
        ),
        1,
    )


def test_the_file_of_a_document_says_so(host: DiskHost) -> None:
    assert (host.files.folder / "own.service").read_text() == MARK + INSTALLED


def test_a_step_that_fails_takes_everything_back(host: DiskHost) -> None:
    host.breaks = "start other.service"
    record = apply(host, 2, SECOND)
    assert record.outcome is Outcome.REVERTED
    assert record.failure is not None
    assert (record.failure.code, record.failure.unit) == ("test.broken", "other.service")
    assert states(host) == AFTER_FIRST
    assert host.history.force().generation == 1


def test_what_does_not_stay_up_takes_everything_back(host: DiskHost) -> None:
    host.falls = "other.service"
    record = apply(host, 2, SECOND)
    assert (record.outcome, states(host)) == (Outcome.REVERTED, AFTER_FIRST)
    assert record.failure is not None
    assert record.failure.code == "apply.unsettled"
    assert "start other.service" in record.failure.message


def test_a_way_back_that_fails_is_said_to_have_failed(host: DiskHost) -> None:
    host.breaks = "reload systemd"
    record = apply(host, 2, SECOND)
    assert record.outcome is Outcome.FAILED
    assert host.history.force().generation == 1


@pytest.mark.parametrize("when", ["stop nginx.service", "reload systemd", "start other.service"])
def test_what_is_cancelled_is_taken_back(host: DiskHost, when: str) -> None:
    applier = host.applier()

    def hook(step: Step) -> None:
        if str(step) == when:
            applier.cancel.set()

    host.hook = hook
    wanted = generation(2, SECOND)
    planned = applier.plan(wanted)
    host.history.add(wanted)
    record = asyncio.run(applier.run(applier.begin(wanted, planned, job="j", by="root")))
    assert (record.outcome, record.failure) == (Outcome.CANCELLED, None)
    assert states(host) == AFTER_FIRST


def test_what_a_document_wishes_for_no_more_gets_its_old_state_back(host: DiskHost) -> None:
    apply(host, 2, SECOND)
    record = apply(host, 3, Desired())
    assert record.outcome is Outcome.DONE
    assert states(host) == {"nginx.service": (True, True, None, {}), "ssh.service": (True, True, None, {})}
    assert host.history.force().originals == Originals()


def test_a_host_that_was_started_anew_gets_what_it_has_forgotten(host: DiskHost) -> None:
    """A server whose /etc is in memory: after a reset in the middle, half of what is done is gone."""

    class Reset(BaseException):
        pass

    def hook(step: Step) -> None:
        if step.kind is Kind.ENABLE:
            raise Reset

    host.hook = hook
    applier, wanted = host.applier(), generation(2, SECOND)
    planned = applier.plan(wanted)
    host.history.add(wanted)
    with pytest.raises(Reset):
        asyncio.run(applier.run(applier.begin(wanted, planned, job="j", by="root")))
    shutil.rmtree(host.files.folder)
    anew = DiskHost(host.folder)
    anew.put(HOST)
    left = anew.history.unfinished()
    assert left is not None
    record = asyncio.run(anew.applier(boot="boot-2").run(left))
    assert (record.outcome, states(anew)) == (Outcome.DONE, AFTER_SECOND)


def test_what_fails_because_the_host_goes_down_goes_on_at_its_next_boot(host: DiskHost) -> None:
    host.breaks, host.shutdown = "start other.service", True
    with pytest.raises(GoingDown):
        apply(host, 2, SECOND)
    left = host.history.unfinished()
    assert left is not None
    assert left.back is None
    host.breaks, host.shutdown = "", False
    record = asyncio.run(host.applier(boot="boot-2").run(left))
    assert (record.outcome, states(host)) == (Outcome.DONE, AFTER_SECOND)


def test_a_document_that_cannot_be_changes_nothing(host: DiskHost) -> None:
    with pytest.raises(InputError):
        apply(host, 2, Desired({"none.service": UnitWish(running=True)}))
    assert (host.history.newest(), states(host)) == (1, AFTER_FIRST)


def test_somebody_elses_file_is_never_touched(host: DiskHost) -> None:
    theirs = host.files.folder / "their.service"
    theirs.write_text(PLAIN)
    apply(host, 2, SECOND)
    assert theirs.read_text() == PLAIN
    host.files.remove("their.service", None)
    assert theirs.exists()


def test_a_generation_that_is_not_there_is_missing(host: DiskHost) -> None:
    with pytest.raises(MissingError):
        host.history.generation(7)


def whole(host: DiskHost) -> None:
    """Every file that systemd would read is one that somebody wrote, to its end."""
    texts = {MARK + INSTALLED, MARK + DROP_IN}
    for path in host.files.folder.rglob("*"):
        if path.is_file() and not path.name.endswith(ASIDE):
            assert path.read_text() in texts, path


def killed_everywhere(
    host: DiskHost, work: Callable[[DiskHost], None], check: Callable[[DiskHost], None], *, every: int = 1
) -> int:
    """Kill `work` before each of its changes of a file, each time on a fresh copy, and look at what comes after."""
    call = 1 - every
    while True:
        call += every
        copy = host.folder.with_name(f"{host.folder.name}-{call}")
        shutil.copytree(host.folder, copy)
        died = dies(lambda: work(DiskHost(copy, breaks=host.breaks)), copy, call)  # noqa: B023
        after = DiskHost(copy, breaks=host.breaks)
        whole(after)
        after.history.open()
        check(after)
        shutil.rmtree(copy)
        if not died:
            return call
        assert call < 1000, "it never ends"


def test_a_supervisor_that_is_killed_anywhere_goes_on_to_the_end(host: DiskHost) -> None:
    def check(after: DiskHost) -> None:
        force = after.history.force()
        assert force.generation in (1, 2)
        if force.generation == 2:
            assert states(after) == AFTER_SECOND
        left = after.history.unfinished()
        if left is None:
            assert states(after) == (AFTER_SECOND if force.generation == 2 else AFTER_FIRST)
            return
        record = asyncio.run(after.applier().run(left))
        assert (record.outcome, states(after)) == (Outcome.DONE, AFTER_SECOND)
        assert after.history.force().generation == 2
        assert not list(after.folder.glob(f"state/**/.*{ASIDE}"))

    assert killed_everywhere(host, lambda copy: print(apply(copy, 2, SECOND).outcome), check) > 100


def test_a_supervisor_that_is_killed_on_the_way_back_gets_back(host: DiskHost) -> None:
    host.breaks = "start other.service"

    def check(after: DiskHost) -> None:
        assert after.history.force().generation == 1
        left = after.history.unfinished()
        if left is not None:
            record = asyncio.run(after.applier().run(left))
            assert record.outcome is Outcome.REVERTED
        assert states(after) == AFTER_FIRST

    assert killed_everywhere(host, lambda copy: print(apply(copy, 2, SECOND).outcome), check, every=3) > 100


# Machines and roots


M1, M2, M3 = (f"20260101.00000000000{digit}" for digit in range(1, 4))
R1, R2 = (f"nfsroot@20260101.00000000000{digit}" for digit in range(1, 3))
WISH = MachineWish(role="db", version=M1)
IRON_FIRST = Desired(machines={"one": WISH, "two": WISH}, roots=[R1], exports=["/images"])
IRON_SECOND = Desired(
    {"nginx.service": UnitWish(running=False)},
    {
        "one": MachineWish(role="db", version=M2, resources=Resources(memory="1G")),
        "three": MachineWish(role="db", version=M3, running=False),
    },
    roots=[R2],
)


@pytest.fixture
def iron(host: DiskHost) -> DiskHost:
    """A host that runs machines and serves roots, with a generation in force that says which."""
    apply(host, 2, Desired())
    held = [f"db@{version}" for version in (M1, M2, M3)]
    host.put_rest(MachinesSeen(held=held), RootsSeen(exports=[]))
    assert apply(host, 3, IRON_FIRST).outcome is Outcome.DONE
    return host


def rest(host: DiskHost) -> tuple[dict[str, tuple[str, str]], list[str], list[str] | None]:
    found = host.rest()
    assert found.machines is not None
    assert found.roots is not None
    machines = {name: (each.version, each.active) for name, each in found.machines.machines.items()}
    return machines, found.roots.holds, found.roots.exports


REST_FIRST = ({"one": (M1, "active"), "two": (M1, "active")}, [R1], ["/images"])
REST_SECOND = ({"one": (M2, "active"), "three": (M3, "inactive")}, [R2], ["/images"])


def test_machines_roots_and_exports_come_into_force_with_the_units(iron: DiskHost) -> None:
    assert rest(iron) == REST_FIRST
    record = apply(iron, 4, IRON_SECOND)
    assert (record.outcome, rest(iron)) == (Outcome.DONE, REST_SECOND)
    assert [str(entry.step) for entry in record.entries] == [
        "stop nginx.service",
        f"hold {R2}",
        f"stage {R2}",
        "stop machine two",
        "set aside machine two",
        "change limits of machine one",
        f"upgrade machine one to {M2}",
        "create machine three",
    ]


@pytest.mark.parametrize("breaks", [f"stage {R2}", f"upgrade machine one to {M2}", "create machine three"])
def test_a_step_that_fails_takes_machines_and_units_back(iron: DiskHost, breaks: str) -> None:
    iron.breaks = breaks
    assert apply(iron, 4, IRON_SECOND).outcome is Outcome.REVERTED
    assert rest(iron) == REST_FIRST
    assert iron.seen()["nginx.service"].up
    found = iron.rest().machines
    assert found is not None
    assert set(found.aside) <= {"three"}


@pytest.mark.parametrize("breaks", ["", "create machine three"])
def test_a_supervisor_that_is_killed_amid_changes_of_machines_gets_to_one_end(iron: DiskHost, breaks: str) -> None:
    iron.breaks = breaks
    outcome, end = (Outcome.REVERTED, REST_FIRST) if breaks else (Outcome.DONE, REST_SECOND)

    def check(after: DiskHost) -> None:
        left = after.history.unfinished()
        if left is not None:
            assert asyncio.run(after.applier().run(left)).outcome is outcome
            assert rest(after) == end
        else:
            assert rest(after) in (REST_FIRST, end)

    assert killed_everywhere(iron, lambda copy: print(apply(copy, 4, IRON_SECOND).outcome), check, every=5) > 100


def test_a_journal_tells_every_step_before_and_after_it(host: DiskHost) -> None:
    told: list[str] = []

    def tell(record: Record) -> None:
        entries = record.entries
        told.append("".join(entry.state.value[0] for entry in entries))

    applier, wanted = host.applier(tell=tell), generation(2, Desired({"nginx.service": UnitWish(False, False)}))
    planned = applier.plan(wanted)
    host.history.add(wanted)
    asyncio.run(applier.run(applier.begin(wanted, planned, job="j", by="root")))
    count = len(planned.steps)
    first = ["w" * count]
    steps = [
        text
        for i in range(count)
        for text in ("d" * i + "b" + "w" * (count - i - 1), "d" * (i + 1) + "w" * (count - i - 1))
    ]
    assert told == [*first, *steps, "d" * count]
