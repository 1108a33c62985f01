"""What a machine of a hall is made to be: addresses, names, time, logins. Parsed, not compared with golden files."""

from __future__ import annotations

import re

import pytest

from services.common.administrators import Administrator, Administrators
from services.common.codec import decode_json
from services.common.errors import InputError
from services.common.signing import parse_signers
from services.hall import verify
from services.hall.render import Identity, identify, render
from services.hall.schema import Hall
from services.hall.verify import Ini, parse_ini
from tests.hall.halls import KEY, OTHER_KEY, certificate, hall

MAC = "52:54:00:12:34:56"
WEB = 'addresses = { hall = "192.168.1.100" }'


def texts(role: str, host: str, found: Hall | None = None) -> dict[str, str]:
    files = render(found or hall(), Identity(role, host))
    verify.check(files)
    return {path: file.content for path, file in files.items()}


def networks(role: str, host: str, found: Hall | None = None) -> list[Ini]:
    return [
        parse_ini(text) for path, text in texts(role, host, found).items() if path.startswith("/run/systemd/network/")
    ]


def values(ini: Ini, section: str, key: str) -> list[str]:
    return [value for name, value in ini.get(section, []) if name == key]


def test_gw_has_both_addresses_on_its_first_interface() -> None:
    first, _ = networks("gw", "gw")
    assert values(first, "Network", "Address") == ["192.168.1.254/23", "192.168.250.254/24"]
    assert values(first, "Match", "Name") == ["host0 eth0"]


def test_the_way_out_is_dhcp_on_the_upstream_interface_only() -> None:
    first, upstream = networks("gw", "gw")
    assert values(first, "Network", "DHCP") == ["no"]
    assert values(upstream, "Network", "DHCP") == ["ipv4"]
    assert values(upstream, "Link", "RequiredForOnline") == ["no"]


def test_a_static_way_out_has_its_address_and_route() -> None:
    change = 'method = "static"\naddress = "198.51.100.2/24"\ngateway = "198.51.100.1"\n#'
    upstream = networks("gw", "gw", hall(('method = "dhcp"', change)))[1]
    assert values(upstream, "Network", "Address") == ["198.51.100.2/24"]
    assert values(upstream, "Network", "Gateway") == ["198.51.100.1"]


def test_gw_has_no_route_to_itself() -> None:
    assert values(networks("gw", "gw")[0], "Network", "Gateway") == []


def test_a_server_of_two_interfaces_has_one_default_route_and_a_loose_reverse_path() -> None:
    found = networks("rhfs", "rhfs01")
    assert [values(ini, "Network", "Address") for ini in found] == [["192.168.1.10/23"], ["192.168.1.11/23"]]
    assert [values(ini, "Network", "Gateway") for ini in found] == [["192.168.1.254"], []]
    assert all(values(ini, "Network", "IPv4ReversePathFilter") == ["loose"] for ini in found)


def test_answers_leave_by_the_card_that_was_asked() -> None:
    first, second = networks("rhfs", "rhfs01")
    assert values(second, "RoutingPolicyRule", "From") == ["192.168.1.11"]
    assert values(second, "Route", "Destination") == ["192.168.0.0/23"]
    assert values(second, "Route", "Gateway") == ["192.168.1.254"]
    assert set(values(second, "Route", "PreferredSource")) == {"192.168.1.11"}
    tables = [set(values(ini, "Route", "Table") + values(ini, "RoutingPolicyRule", "Table")) for ini in (first, second)]
    assert [len(table) for table in tables] == [1, 1]
    assert tables[0] != tables[1]


def test_cards_in_networks_of_their_own_need_no_tables() -> None:
    assert all("Route" not in ini and "RoutingPolicyRule" not in ini for ini in networks("gw", "gw"))


def test_an_interface_with_a_mac_is_recognised_by_it() -> None:
    (ini,) = networks("web", "web", hall((WEB, f'{WEB}\nmac = "{MAC}"')))
    assert values(ini, "Match", "MACAddress") == [MAC]
    assert values(ini, "Match", "Name") == []


def test_a_seat_keeps_the_address_that_its_initrd_got() -> None:
    (ini,) = networks("nfsroot", "pas-r01p01")
    assert values(ini, "Network", "DHCP") == ["ipv4"]
    assert values(ini, "Network", "KeepConfiguration") == ["yes"]
    assert values(ini, "DHCPv4", "ClientIdentifier") == ["mac"]


def test_no_interface_takes_router_advertisements() -> None:
    for role, host in (("gw", "gw"), ("web", "web"), ("nfsroot", "x"), ("server", "unknown")):
        for ini in networks(role, host):
            assert values(ini, "Network", "IPv6AcceptRA") == ["no"]


@pytest.mark.parametrize("role", ["gw", "rhfs", "web", "monitoring", "misc", "nfsroot", "nfsroot-desktop", "other"])
def test_nothing_that_is_rendered_serves_dhcp_or_forwards(role: str) -> None:
    files = texts(role, identify(hall(), role, "somewhere").hostname)
    assert not any(re.search("DHCPServer|IPForward|IPv4Forwarding|ip_forward", text) for text in files.values())
    assert not any("kea" in path or "bind" in path or "nftables" in path for path in files)


@pytest.mark.parametrize(("role", "host"), [("web", "web"), ("nfsroot", "seat"), ("rhfs", "rhfs01")])
def test_machines_ask_gw_for_names_and_time(role: str, host: str) -> None:
    files = texts(role, host)
    resolve = parse_ini(files["/run/systemd/resolved.conf.d/50-backline-hall.conf"])
    assert values(resolve, "Resolve", "DNS") == ["192.168.1.254"]
    assert values(resolve, "Resolve", "Domains") == ["prolo"]
    assert "server 192.168.1.254 iburst\n" in files["/run/backline/chrony.d/50-hall.conf"]
    assert "allow" not in files["/run/backline/chrony.d/50-hall.conf"]


def test_gw_serves_time_to_the_hall_and_follows_the_world() -> None:
    text = texts("gw", "gw")["/run/backline/chrony.d/50-hall.conf"]
    assert re.findall(r"^allow (.*)$", text, re.M) == ["192.168.0.0/23", "192.168.250.0/24"]
    assert re.findall(r"^server (\S+)", text, re.M) == ["0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org"]
    assert "local stratum 10" in text


def test_every_server_and_alias_is_in_hosts_once_with_and_without_domain() -> None:
    lines = [line.split() for line in texts("web", "web")["/etc/hosts"].splitlines() if line.startswith("192")]
    names = {name: address for address, *words in lines for name in words}
    assert sum(len(words) - 1 for words in lines) == len(names)
    assert names["mdb"] == names["mdb.prolo"] == "192.168.1.254"
    assert names["hfs0"] == names["rhfs"] == names["rhfs01"] == "192.168.1.10"
    assert names["hfs1"] == "192.168.1.11"


def test_only_keys_open_a_machine_and_only_those_of_administrators_open_root() -> None:
    files = texts("web", "web")
    assert files["/run/backline/authorized_keys"].splitlines()[1:] == [f"{OTHER_KEY} {_administrator()}"]
    lines = [line.strip() for line in files["/run/backline/sshd.d/50-hall.conf"].splitlines()]
    assert "PasswordAuthentication no" in lines
    files_of_keys = "/run/backline/authorized_keys /var/lib/backline-identity/current/root_keys .ssh/authorized_keys"
    assert lines[lines.index("Match User root") + 1] == f"AuthorizedKeysFile {files_of_keys}"


def test_an_organizer_logs_in_to_services_and_not_to_machines() -> None:
    found = hall(("keys = [", 'role = "organizer"\nkeys = ['))
    (person,) = found.administrators
    files = {path: file.content for path, file in render(found, Identity("gw", "gw")).items()}
    assert files["/run/backline/authorized_keys"].splitlines()[1:] == []
    written = decode_json(files["/run/backline/administrators.json"].encode(), Administrators)
    assert written == Administrators([Administrator(person.name, "organizer", [f"{OTHER_KEY} {person.name}"])])


def test_a_seat_is_not_told_who_administers_the_services() -> None:
    assert "/run/backline/administrators.json" in texts("gw", "gw")
    assert "/run/backline/administrators.json" not in texts("nfsroot", "pas-r01p01")


def _administrator() -> str:
    return hall().administrators[0].name


def test_signers_and_ca_are_those_of_the_hall() -> None:
    files = texts("rhfs", "rhfs01")
    signers = parse_signers(files["/run/backline/allowed_signers"], where="x")
    assert [signer.key.format() for signer in signers] == [f"{KEY} alice"]
    assert files["/run/backline/ca.pem"] == certificate()


def test_time_zone_locale_and_keyboard_are_those_of_the_hall() -> None:
    found = hall(('locale = "C.UTF-8"', 'locale = "fr_FR.UTF-8"'), ('keyboard = "us"', 'keyboard = "fr"'))
    files = render(found, Identity("web", "web"))
    assert files["/etc/localtime"].link
    assert files["/etc/localtime"].content == f"/usr/share/zoneinfo/{found.site.time_zone}"
    assert "LANG=fr_FR.UTF-8\n" in files["/etc/locale.conf"].content
    assert 'XKBLAYOUT="fr"\nXKBVARIANT=""\n' in files["/etc/default/keyboard"].content


def test_the_first_keyboard_layout_is_the_usual_one_and_the_desktops_greeter_offers_all() -> None:
    files = render(hall(('keyboard = "us"', 'keyboard = "fr(bepo),us,fr"')), Identity("nfsroot-desktop", "pas-r01p01"))
    assert 'XKBLAYOUT="fr"\nXKBVARIANT="bepo"\n' in files["/etc/default/keyboard"].content
    assert files["/run/backline/greeter.conf"].content.endswith("[greeter]\nkeyboard-layouts=fr\\tbepo;us;fr\n")


def test_where_one_keyboard_layout_is_named_the_desktops_greeter_offers_every_one() -> None:
    assert texts("nfsroot-desktop", "pas-r01p01")["/run/backline/greeter.conf"].endswith("[greeter]\n")
    assert "/run/backline/greeter.conf" not in texts("gw", "gw")


def test_rendering_twice_gives_the_same() -> None:
    assert texts("gw", "gw") == texts("gw", "gw")


def test_a_machine_is_the_server_whose_name_it_has() -> None:
    assert identify(hall(), None, "rhfs01.prolo") == Identity("rhfs", "rhfs01")


def test_the_only_server_of_a_role_is_it_whatever_its_name() -> None:
    assert identify(hall(), "gw", "localhost") == Identity("gw", "gw")


def test_one_of_several_servers_of_a_role_is_not_guessed() -> None:
    second = '[hosts.rhfs23]\nrole = "rhfs"\n[[hosts.rhfs23.nics]]\naddresses = { hall = "192.168.1.12" }\n[hosts.web]'
    assert identify(hall(("[hosts.web]", second)), "rhfs", "localhost") == Identity("rhfs", "localhost")


@pytest.mark.parametrize("role", ["web", "nfsroot"])
def test_a_machine_with_the_name_of_another_server_is_refused(role: str) -> None:
    with pytest.raises(InputError, match="is the gw server") as caught:
        identify(hall(), role, "gw")
    assert caught.value.code == "hall.identity"


@pytest.mark.parametrize("line", ["nonsense", "[Network]\nAdress=1.2.3.4", "[Match]\nName=x\n[Network]\nAddress=1.2.3"])
def test_a_rendered_file_that_networkd_would_ignore_is_refused(line: str) -> None:
    files = render(hall(), Identity("web", "web"))
    path = next(path for path in files if path.startswith("/run/systemd/network"))
    files[path] = type(files[path])(line)
    with pytest.raises(InputError, match="is not valid"):
        verify.check(files)
