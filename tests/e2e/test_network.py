"""What a lab's network is made of, as the text that `ip` and `nft` get."""

from __future__ import annotations

from e2e import topology
from e2e.network import Faults, batch, plan, plugs, ruleset


def test_interfaces_are_numbered_and_short_whatever_names_are() -> None:
    name = "a" * 63
    wanted = topology.Topology(
        name="x",
        segments={name: topology.Segment()},
        nodes={name: topology.Node(role="gw", nics=[topology.Nic(segment=name)] * 3)},
    )
    made = plan(wanted)
    names = [*made.bridges.values(), *(cable.port for cable in made.cables)]
    assert names == ["b0", "p0", "p1", "p2"]


def test_numbers_do_not_move_when_a_node_joins() -> None:
    small, large = plan(topology.hall(1)), plan(topology.hall(2))
    assert large.cables[: len(small.cables)] == small.cables


def test_switches_forward_lldp_and_trunks_join_them() -> None:
    lines = batch(plan(topology.hall(0))).splitlines()
    assert "link add b0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0 group_fwd_mask 16384" in lines
    assert "link add t0a type veth peer name t0b" in lines
    assert "address add 198.51.100.1/24 dev b2" in lines


def test_a_server_gets_a_network_namespace_and_cards_by_their_place() -> None:
    cables = [cable for cable in plan(topology.hall(0)).cables if cable.node == "rhfs01"]
    lines = plugs(cables, qemu=False, cut=set()).splitlines()
    assert lines[0] == "netns add rhfs01"
    assert [line.split(" peer name ")[1].split()[0] for line in lines if " peer name " in line] == ["host0", "host1"]


def test_a_cut_cable_is_plugged_in_without_a_carrier() -> None:
    cables = [cable for cable in plan(topology.hall(0)).cables if cable.node == "web"]
    assert plugs(cables, qemu=False, cut={cables[0].port}).splitlines()[-1].endswith(" down")


def test_a_machine_with_its_own_kernel_gets_a_tap() -> None:
    cables = [cable for cable in plan(topology.hall(0)).cables if cable.node == "web"]
    assert plugs(cables, qemu=True, cut=set()).splitlines()[0] == f"tuntap add dev {cables[0].port} mode tap"


def test_no_fault_is_an_empty_table_that_replaces_the_old_one() -> None:
    text = ruleset({}, [], shaped=False)
    assert text.startswith("table bridge backline\ndelete table bridge backline\n")
    assert "drop" not in text


def test_loss_is_a_chance_each_way() -> None:
    text = ruleset({"p1": Faults(lost=12.5)}, [], shaped=False)
    for way in ("iifname", "oifname"):
        assert f'{way} "p1" numgen random mod 10000 < 1250 drop' in text


def test_total_loss_asks_no_dice() -> None:
    """nft refuses a number that chance cannot reach."""
    assert 'iifname "p1" drop' in ruleset({"p1": Faults(lost=100)}, [], shaped=False)


def test_a_rate_limits_what_comes_from_the_node() -> None:
    text = ruleset({"p1": Faults(rate=8_000_000)}, [], shaped=False)
    assert 'iifname "p1" limit rate over 1000 kbytes/second' in text
    assert "limit" not in ruleset({"p1": Faults(rate=8_000_000)}, [], shaped=True)


def test_a_partition_drops_both_ways_between_the_groups() -> None:
    text = ruleset({}, [({"p1"}, {"p3", "p2"})], shaped=False)
    assert 'iifname { "p1" } oifname { "p2", "p3" } drop' in text
    assert 'iifname { "p2", "p3" } oifname { "p1" } drop' in text
