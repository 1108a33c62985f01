"""The hall for Ansible and Prometheus."""

from __future__ import annotations

from ipaddress import IPv4Address

from services.common.codec import to_builtins
from services.mdb.inventory import ansible, prometheus
from services.mdb.schema import MachineType
from tests.mdb.test_query import machine

ONE = machine(hostname="p1", room="salle-1", faulty=True, faulty_reason="no fan")
TWO = machine(hostname="p2", room="orga", type=MachineType.ORGA, ip=IPv4Address("192.168.1.200"), mac=None)


def test_an_inventory_has_a_group_for_each_type_and_room() -> None:
    found = ansible([TWO, ONE])
    groups = {name: group for name, group in found.items() if name != "_meta"}
    assert groups == {"orga": {"hosts": ["p2"]}, "salle_1": {"hosts": ["p1"]}, "user": {"hosts": ["p1"]}}


def test_the_variables_of_a_host_are_those_of_the_first_system_and_its_address() -> None:
    meta = ansible([ONE])["_meta"]
    assert meta == {
        "hostvars": {
            "p1": {
                "ansible_host": "192.168.0.7",
                "aliases": ["rfs1"],
                "hfs": 2,
                "mac": "52:54:00:ab:cd:ef",
                "rfs": 1,
                "room": "salle-1",
                "is_faulty": True,
                "is_faulty_details": "no fan",
            }
        }
    }


def test_prometheus_is_told_address_port_and_name() -> None:
    assert to_builtins(prometheus([TWO], 9100)) == [
        {
            "targets": ["192.168.1.200:9100"],
            "labels": {"instance": "p2", "type": "orga", "room": "orga", "rfs": "1", "hfs": "2"},
        }
    ]
