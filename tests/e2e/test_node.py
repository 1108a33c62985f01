"""A node's waits and its power, against a back end that does wrong what it is told to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e import topology
from e2e.fake import FakeRun, Fault
from e2e.lab import Lab
from e2e.node import Node, WaitFailed
from services.common.errors import BacklineError, HostError, UsageError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a lab makes namespaces")


@contextmanager
def one(fault: Fault = Fault.NONE) -> Iterator[Node]:
    """A lab of one fake node with that fault; the node, off."""
    spec = topology.Node(role="gw", backend="fake", hall=False, credentials={"fake.fault": fault.value})
    wanted = topology.Topology(name="fake", nodes={"node": spec})
    with Lab(wanted) as lab:
        yield lab["node"]
        lab.kept = False


@pytest.fixture
def node() -> Iterator[Node]:
    with one() as made:
        yield made


def failure(fault: Fault, *, seconds: float = 5) -> WaitFailed:
    with one(fault) as node:
        node.start()
        with pytest.raises(WaitFailed) as caught:
            node.wait_ready(seconds=seconds)
        return caught.value


def test_a_node_is_off_then_starting_or_up_then_off(node: Node) -> None:
    assert node.state == "off"
    node.start()
    node.wait_ready()
    assert node.state == "up"
    node.stop()
    assert node.state == "off"


def test_a_frozen_node_says_so_until_it_is_thawed(node: Node) -> None:
    node.start()
    node.wait_ready()
    node.freeze()
    assert node.state == "frozen"
    node.thaw()
    assert node.state == "up"
    node.freeze()
    node.crash()
    assert node.state == "off"


def test_the_time_to_its_default_target_is_known(node: Node) -> None:
    node.start()
    node.wait_ready()
    assert node.seconds_to_ready is not None
    assert 0 <= node.seconds_to_ready < 5


def test_a_wait_that_is_late_says_what_was_awaited_and_shows_the_last_lines() -> None:
    error = failure(Fault.NEVER_READY, seconds=0.2)
    assert error.code == "lan.late"
    assert "node: its default target did not come within 0.2 s" in error.message
    assert "still starting" in error.message


def test_a_failed_wait_names_the_command_that_shows_the_journal_again() -> None:
    assert "--node node" in (failure(Fault.NEVER_READY, seconds=0.1).hint or "")


def test_a_unit_that_fails_ends_the_wait_at_once_with_its_lines() -> None:
    began = time.monotonic()
    error = failure(Fault.UNIT_FAILS, seconds=30)
    assert time.monotonic() - began < 5
    assert error.code == "lan.unit"
    assert "it is broken" in error.message


def test_a_unit_that_may_fail_ends_no_wait() -> None:
    with one(Fault.UNIT_FAILS) as node:
        node.allowed_failures.add("broken.service")
        node.start()
        with pytest.raises(WaitFailed) as caught:
            node.wait_ready(seconds=0.2)
        assert caught.value.code == "lan.late"


def test_a_node_that_dies_ends_the_wait_at_once() -> None:
    began = time.monotonic()
    assert failure(Fault.DIES, seconds=30).code == "lan.died"
    assert time.monotonic() - began < 5


def test_a_node_that_asks_for_a_restart_gets_it() -> None:
    with one(Fault.REBOOTS_ONCE) as node:
        node.start()
        node.wait_ready()
        assert node.starts == 2


def test_a_node_that_was_stopped_stays_off_even_if_it_asks_for_a_restart(node: Node) -> None:
    node.start()
    node.wait_ready()
    run = node._run
    assert isinstance(run, FakeRun)
    node._stay_off = True
    run.reboot()
    node.wait_off(seconds=5)
    assert node.starts == 1


def test_a_node_that_ignores_the_power_button_is_named() -> None:
    with one(Fault.WILL_NOT_STOP) as node:
        node.start()
        node.wait_ready()
        with pytest.raises(WaitFailed) as caught:
            node.stop(seconds=0.1)
        assert caught.value.code == "lan.stop"


def test_a_crash_is_in_the_journal_as_a_fault(node: Node) -> None:
    node.start()
    node.wait_ready()
    node.crash()
    assert [(entry.kind, entry.message) for entry in node.journal() if entry.kind in ("fault", "exit")] == [
        ("fault", "crash"),
        ("exit", "power was cut"),
    ]


def test_a_node_that_runs_is_not_started_again(node: Node) -> None:
    node.start()
    with pytest.raises(UsageError, match="runs already"):
        node.start()


def test_a_verb_on_a_node_that_is_off_says_so(node: Node) -> None:
    with pytest.raises(HostError, match="node is off"):
        node.freeze()


def test_a_journal_wait_finds_what_was_said_before_it_began(node: Node) -> None:
    node.start()
    node.wait_ready()
    assert node.wait_for_journal("hel+o", seconds=1).message == "hello"


def test_a_wait_until_looks_again_when_something_happens(node: Node) -> None:
    node.start()
    looks = iter([False, False, True])
    node.wait_until("the third look", lambda: next(looks), seconds=5)


def test_a_node_that_is_not_there_is_named_with_the_nearest(node: Node) -> None:
    with pytest.raises(BacklineError) as caught:
        node.lab["nodes"]
    assert caught.value.hint == "did you mean node?"
