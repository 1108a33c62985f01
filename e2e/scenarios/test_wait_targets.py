"""testcontainers' wait strategies work on our nodes: a node satisfies its WaitStrategyTarget.

Those that look from outside (HTTP, ports) look from the host, from which a lab cannot be reached; the one of a status
asks whether its target is of testcontainers' own classes.
"""

from __future__ import annotations

import pytest
from testcontainers.core.wait_strategies import (
    CompositeWaitStrategy,
    ExecWaitStrategy,
    LogMessageWaitStrategy,
)
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from e2e.lab import Lab
from e2e.node import Node

pytestmark = [pytest.mark.lan(topology="single"), pytest.mark.images]


def target(node: Node) -> WaitStrategyTarget:
    """mypy proves that a node is one."""
    return node


STRATEGIES: list[WaitStrategy] = [
    LogMessageWaitStrategy("Startup finished"),
    ExecWaitStrategy(["test", "-e", "/run/backline/unconfigured"]),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_a_strategy_waits_for_a_node(lab: Lab, strategy: WaitStrategy) -> None:
    strategy.with_startup_timeout(10).with_poll_interval(0.05).wait_until_ready(target(lab["gw"]))


def test_strategies_are_composed(lab: Lab) -> None:
    composed = CompositeWaitStrategy(*STRATEGIES).with_startup_timeout(10).with_poll_interval(0.05)
    composed.wait_until_ready(target(lab["gw"]))


def test_a_strategy_that_waits_in_vain_says_so(lab: Lab) -> None:
    strategy = LogMessageWaitStrategy("this is never said").with_startup_timeout(1).with_poll_interval(0.05)
    with pytest.raises(TimeoutError, match="never said"):
        strategy.wait_until_ready(target(lab["gw"]))
