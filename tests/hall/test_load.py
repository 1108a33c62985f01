"""A hall.toml is taken, or refused with file and line; never with a traceback."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.common.addresses import Range
from services.common.errors import BacklineError, InputError
from services.hall import load
from services.hall.schema import Purpose
from tests.hall.halls import KEY, OTHER_KEY, changed, hall, line_of, parse, proposal

WEB = 'addresses = { hall = "192.168.1.100" }'


def refused(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(text)
    return caught.value


def test_the_proposal_is_a_hall() -> None:
    found = hall()
    assert found.site.domain == "prolo"
    assert found.gateway.address == IPv4Address("192.168.1.254")
    assert set(found.with_role("rhfs")) == {"rhfs01"}


def test_organisers_users_and_services_have_ranges_of_their_own() -> None:
    spans = [hall().range_for(purpose) for purpose in (Purpose.USERS, Purpose.ORGA, Purpose.SERVICES)]
    found = [span for span in spans if isinstance(span, Range)]
    assert len(found) == 3
    assert not any(one.overlaps(other) for one in found for other in found if one is not other)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('domain = "prolo"', 'domain = "pro_lo"', "underscore"),
        ('domain = "prolo"', 'domain = "hall.local"', "not served by DNS"),
        ('domain = "prolo"', f'domain = "{".".join(["d" * 60] * 4)}"', "63 does not fit before it"),
        ('aliases = ["irc", "sgoinfre"]', 'aliases = ["irc", "ns"]', "is a name of gw"),
        ("[hosts.misc]\n", "[hosts.netboot]\n", None),
        ("[hosts.misc]", "[hosts.rhfs01-1]", None),
        ('name = "finals"', 'name = "-x"', "not a host name"),
        ('locale = "C.UTF-8"', 'locale = "C"', "no UTF-8 locale"),
        ('keyboard = "us"', 'keyboard = "us\\nX=1"', "no XKB layout"),
        ('keyboard = "us"', 'keyboard = "us,"', "no XKB layout"),
        ('keyboard = "us"', 'keyboard = "fr(bepo"', "no XKB layout"),
        ('cidr = "192.168.0.0/23"', 'cidr = "192.168.0.1/23"', "host bits"),
        (
            'gateway = "192.168.250.254"\n\n[networks.aliens.r',
            'gateway = "10.0.0.1"\n\n[networks.aliens.r',
            "not inside",
        ),
        ('users = "192.168.0.1-192.168.0.253"', 'users = "192.168.0.0-192.168.0.253"', "address of network"),
        ('users = "192.168.0.1-192.168.0.253"', 'users = "192.168.0.1-192.168.1.3"', None),
        ('users = "192.168.0.1-192.168.0.253"', 'users = "192.168.0.1"', "not a range"),
        ('orga = "192.168.1.128-192.168.1.253"', 'orga = "192.168.1.128-192.168.1.254"', "holds the gateway"),
        ('orga = "192.168.1.128-192.168.1.253"', 'orgas = "192.168.1.128-192.168.1.253"', "orgas"),
        ('orga = "192.168.1.128-192.168.1.253"', 'aliens = "192.168.1.128-192.168.1.253"', None),
        (WEB, 'addresses = { hall = "192.168.0.7" }', "in the range of users"),
        (WEB, 'addresses = { hall = "192.168.2.7" }', "not inside"),
        (WEB, 'addresses = { hall = "192.168.1.10" }', "already the address of rhfs01"),
        (WEB, 'addresses = { lan = "192.168.1.100" }', "no network 'lan'"),
        (WEB, 'addresses = { hall = "192.168.1.1000" }', "192.168.1.1000"),
        (WEB, "addresses = {}", None),
        (WEB, f'{WEB}\nmac = "01:00:5e:00:00:01"', "no address of one machine"),
        (WEB, f'{WEB}\nmac = "52-54-00-00-00-01"', "no MAC address"),
        (WEB, f'{WEB}\ninterface = "eth0; reboot"', "cannot name an interface"),
        (WEB, f"{WEB}\nupstream = true", None),
        (WEB, f"{WEB}\nspeed = 3", "no such key"),
        ('role = "web"', 'role = "gw"', None),
        ('role = "web"', 'role = "nfsroot"', "seats belong in mdb"),
        ('"wiki", "bugs"', '"wiki", "mdb"', "already a name of server gw"),
        ('"wiki", "bugs"', '"wiki", "rhfs01"', "already a name of server rhfs01"),
        ('"wiki", "bugs"', '"wiki", "b_ugs"', "underscore"),
        ('"wiki", "bugs"', '"wiki", "Bugs"', "lower case"),
        ('method = "dhcp" ', 'method = "static" ', "needs `address` and `gateway`"),
        ('method = "dhcp" ', 'gateway = "198.51.100.1" ', "given by DHCP"),
        ('"0.pool.ntp.org"', '"0.pool.ntp.org\\nallow"', "neither a host name"),
        (OTHER_KEY, OTHER_KEY[:-3], None),
        (KEY, "ssh-rsa AAAA", "Ed25519"),
        ("-----BEGIN CERTIFICATE-----", "-----BEGIN CERT-----", "no PEM certificate"),
    ],
)
def test_a_mistake_is_named_with_its_line(old: str, new: str, message: str | None) -> None:
    text = changed((old, new))
    error = refused(text)
    assert error.code.startswith("hall.")
    assert re.search(r"hall\.toml:\d+: ", str(error))
    if message is not None:
        assert message in f"{error} {error.hint}"


def test_the_line_is_the_line_of_the_mistake() -> None:
    text = changed(('"wiki", "bugs"', '"wiki", "b_ugs"'))
    assert refused(text).where == f"hall.toml:{line_of(text, 'b_ugs')}"


def test_many_mistakes_are_reported_together() -> None:
    text = changed(
        ('"wiki", "bugs"', '"wiki", "b_ugs"'),
        ('domain = "prolo"', 'domain = "prolo."'),
        ('"192.168.1.101"', '"192.168.1.100"'),
    )
    error = refused(text)
    lines = error.message.splitlines()
    assert lines[0] == "3 mistakes"
    places = [int(re.findall(r"hall\.toml:(\d+)", line)[0]) for line in lines[1:]]
    assert places == sorted(
        line_of(text, word) for word in ("b_ugs", 'prolo."', 'addresses = { hall = "192.168.1.100" }\n\n[hosts.misc')
    )


def test_mistakes_of_type_in_several_servers_are_reported_together() -> None:
    text = changed((WEB, "addresses = 3"), ('role = "misc"', "role = 1"))
    lines = refused(text).message.splitlines()
    assert len(lines) == 3
    assert all(re.search(r"hall\.toml:\d+: hosts\.", line) for line in lines[1:])


@pytest.mark.parametrize(
    "extra",
    [
        '\n[extra]\nroot_password = "x"\n',
        "\n# -----BEGIN OPENSSH PRIVATE KEY-----\n",
        '\n[extra]\nx = "-----BEGIN EC PRIVATE KEY-----"\n',
        '\n[extra]\nx = "$y$j9T$abcdefghijkl$mnop"\n',
        '\n[extra]\nx = "-----BEGIN \\u0050RIVATE KEY-----"\n',
    ],
)
def test_a_secret_is_refused_before_anything_else(extra: str) -> None:
    error = refused(proposal() + extra)
    assert error.code == "hall.secret"
    assert error.where is not None
    assert re.fullmatch(r"hall\.toml:\d+", error.where)
    assert "/etc/credstore" in str(error.hint)


def test_a_message_about_a_secret_does_not_repeat_it() -> None:
    assert "j9T" not in str(refused(proposal() + '\nx = "$y$j9T$abcdefghijkl$mnop"\n'))


def test_an_island_without_upstream_is_a_hall() -> None:
    text = proposal()
    start, end = text.index("[upstream]"), text.index("# Who may log in")
    text = text[:start] + text[end:]
    text = re.sub(r"\[\[hosts\.gw\.nics\]\]\nupstream = true.*\n", "", text)
    assert parse(text).upstream is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[hall", b"[hall]\nname = 1\n", b"x = 1\n"])
def test_a_file_that_is_no_hall_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hall.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        load.load(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_hall_is_a_hall_or_an_error_with_file_and_line(data: st.DataObject) -> None:
    lines = proposal().splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["drop", "twice", "swap", "noise", "value"]))
    if kind == "drop":
        lines.pop(at)
    elif kind == "twice":
        lines.insert(at, lines[at])
    elif kind == "swap":
        other = data.draw(st.integers(0, len(lines) - 1))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "noise":
        lines[at] = data.draw(st.text(st.characters(codec="utf-8"), max_size=12)) + "\n"
    else:
        value = data.draw(
            st.sampled_from(["1", "true", "[]", "{}", '""', '"x"', "1979-05-27", '["", 2]', "{ a = 1 }", "-1.5"])
        )
        lines[at] = re.sub(r"=.*", lambda _: f"= {value}", lines[at])
    _is_a_hall_or_a_clear_error("".join(lines))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(re.findall(r'"[^"\n]*"', proposal().partition("[trust]")[0])), st.text(max_size=20))
@example('"192.168.0.1-192.168.0.253"', "192.168.0.1-")
def test_any_text_in_any_place_is_taken_or_refused_with_its_line(old: str, new: str) -> None:
    quoted = '"' + "".join(f"\\U{ord(letter):08x}" for letter in new if not 0xD800 <= ord(letter) < 0xE000) + '"'
    _is_a_hall_or_a_clear_error(proposal().replace(old, quoted, 1))


def _is_a_hall_or_a_clear_error(text: str) -> None:
    caught = None
    try:
        parse(text)
    except BacklineError as error:
        caught = error
    if caught is None:
        return
    assert isinstance(caught, InputError)
    assert caught.code.startswith("hall.")
    lines = caught.message.splitlines()
    if re.fullmatch(r"\d+ mistakes", lines[0]):
        assert caught.where == "hall.toml"
        assert all(re.match(r"  hall\.toml(:\d+)?: ", line) for line in lines[1:] if line.startswith("  hall"))
    else:
        missing = "missing required field" in caught.message or "no server" in caught.message
        assert caught.where is not None
        assert re.fullmatch(r"hall\.toml:\d+", caught.where) or missing


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('"192.168.0.77" = "Alice"', "capital letters"),
        ('"192.168.0.77" = "root"', "system user"),
        ('"10.0.0.1" = "alice"', "in no network of the hall"),
        ('"my laptop" = "alice"', "neither an address nor a host name"),
    ],
)
def test_an_override_names_a_machine_of_the_hall_and_a_user(override: str, message: str) -> None:
    assert message in str(refused(proposal() + f"\n[sso.overrides]\n{override}\n"))
