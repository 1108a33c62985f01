"""testcontainers' wait strategies work on our nodes: a node satisfies its WaitStrategyTarget.

Those that look from outside (ports, HTTP) look from the network of the calling thread, which for a block can be the
lab's; the one of a file looks at the host's files, of which a lab's are some. The one of a status asks whether its
target is of testcontainers' own classes, so it refuses nodes: LogMessageWaitStrategy sees that a node went off.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from testcontainers.core.wait_strategies import (
    CompositeWaitStrategy,
    ContainerStatusWaitStrategy,
    ExecWaitStrategy,
    FileExistsWaitStrategy,
    HealthcheckWaitStrategy,
    LogMessageWaitStrategy,
    PortWaitStrategy,
)
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from e2e.lab import Lab
from e2e.node import Node
from e2e.sandbox import entered_network

pytestmark = [pytest.mark.lan(topology="single"), pytest.mark.images]


def target(node: Node) -> WaitStrategyTarget:
    """mypy proves that a node is one."""
    return node


def hurried(strategy: WaitStrategy, *, seconds: int = 10) -> WaitStrategy:
    """A strategy that looks often and gives up soon."""
    return strategy.with_startup_timeout(seconds).with_poll_interval(0.05)


STRATEGIES: list[WaitStrategy] = [
    LogMessageWaitStrategy("Startup finished"),
    ExecWaitStrategy(["test", "-e", "/run/backline/unconfigured"]),
    HealthcheckWaitStrategy(),
]


@pytest.fixture
def addressed(lab: Lab) -> Iterator[Node]:
    """gw with an address, and the lab with one on the same switch, for as long as a test lasts."""
    node, bridge = lab["gw"], lab.network.plan.bridges["bench"]
    lab.sandbox.run(["ip", "address", "add", "192.0.2.254/24", "dev", bridge])
    node.succeeds("ip", "address", "add", "192.0.2.1/24", "dev", "host0")
    yield node
    node.succeeds("ip", "address", "del", "192.0.2.1/24", "dev", "host0")
    lab.sandbox.run(["ip", "address", "del", "192.0.2.254/24", "dev", bridge])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_a_strategy_waits_for_a_node(lab: Lab, strategy: WaitStrategy) -> None:
    hurried(strategy).wait_until_ready(target(lab["gw"]))


def test_strategies_are_composed(lab: Lab) -> None:
    composed = CompositeWaitStrategy(*STRATEGIES).with_startup_timeout(10).with_poll_interval(0.05)
    composed.wait_until_ready(target(lab["gw"]))


def test_a_port_is_reached_from_the_network_of_the_lab(lab: Lab, addressed: Node) -> None:
    with entered_network(Path(f"/proc/{lab.sandbox.pid}/ns/net")):
        hurried(PortWaitStrategy(22)).wait_until_ready(target(addressed))


def test_a_link_local_address_beside_it_is_none_to_connect_to(addressed: Node) -> None:
    addressed.succeeds("ip", "address", "add", "169.254.7.7/16", "scope", "link", "dev", "host0")
    try:
        assert target(addressed).get_container_host_ip() == "192.0.2.1"
    finally:
        addressed.succeeds("ip", "address", "del", "169.254.7.7/16", "dev", "host0")


def test_a_file_is_found_below_the_lab(lab: Lab) -> None:
    leader = lab["gw"].netns.split("/")[2]
    file = lab.sandbox.root / f"proc/{leader}/root/run/backline-was-here"
    lab["gw"].put("/run/backline-was-here", "")
    hurried(FileExistsWaitStrategy(file)).wait_until_ready(target(lab["gw"]))


def test_a_string_is_split_into_words_without_a_shell(lab: Lab) -> None:
    assert lab["gw"].exec("echo 'one word' $HOME").output == b"one word $HOME\n"


def test_a_strategy_that_waits_in_vain_says_so(lab: Lab) -> None:
    strategy = LogMessageWaitStrategy("this is never said").with_startup_timeout(1).with_poll_interval(0.05)
    with pytest.raises(TimeoutError, match=r"never said.*status: running, health: healthy"):
        strategy.wait_until_ready(target(lab["gw"]))


def test_the_strategy_of_a_status_refuses_a_node(lab: Lab) -> None:
    """When this fails, testcontainers takes any target, and the refusal in our documentation has to go."""
    with pytest.raises(RuntimeError) as caught:
        hurried(ContainerStatusWaitStrategy()).wait_until_ready(target(lab["gw"]))
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.lan(topology="single", share=False)
def test_a_node_that_is_off_ends_the_wait_at_once(lab: Lab) -> None:
    lab["gw"].crash()
    assert target(lab["gw"]).status == "exited"
    with pytest.raises(RuntimeError, match="exited"):
        hurried(LogMessageWaitStrategy("this is never said")).wait_until_ready(target(lab["gw"]))
