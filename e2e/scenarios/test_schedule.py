"""Faults at random do not break the hall for good; their seed is printed and plays them again."""

from __future__ import annotations

from functools import partial

import pytest

from e2e import schedule
from e2e.lab import Lab
from e2e.node import Node

pytestmark = [pytest.mark.images]


@pytest.mark.lan(topology="hall", seats=2)
def test_the_hall_mends_itself_after_faults_at_random(lab: Lab, lan_seed: int) -> None:
    nodes = ["web", "rhfs01", *lab.topology.seats()]
    edges = [edge for edge in lab.network.edges() if not edge.startswith("gw:1")]
    faults = schedule.make(lan_seed, edges=edges, nodes=nodes, count=5)
    print("\n".join(f"backline lan {fault}" for fault in faults))
    for fault in faults:
        fault.begin(lab)
        fault.end(lab)
        for node in lab.nodes.values():
            node.wait_until("gw's answer", partial(answers, node))


def answers(node: Node) -> bool:
    """Whether gw answers this node within a second."""
    return node.run(["ping", "-c1", "-W1", "192.168.1.254"], check=False).returncode == 0
