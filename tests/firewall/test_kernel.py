"""The service with a real nft and kernel: who gets out, whose open connections end, and what is written down."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from services.common.administrators import Administrator, Administrators
from services.common.codec import encode_json
from services.common.process import run
from services.common.signing import new_key
from services.common.tokens import CREDENTIAL, Claims, Kind, Tokens
from services.common.users import UserGroup
from services.firewall.client import FirewallClient
from services.firewall.schema import Reason
from tests.common.access_rig import HTTPS, NOBODY, PROXY
from tests.common.service_rig import reachable
from tests.firewall.rig import GW, OUTSIDE, PORT, SEATS, WORLD, Place, machine, placed, sits, until

pytestmark = pytest.mark.needs("root", "cgroup2", "namespaces")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("firewall")
    reachable(folder)
    with placed(folder) as made:
        yield made


@pytest.fixture
def place(network: Place) -> Place:
    """Nobody sits anywhere, and there is no table."""
    network.feeds["presence"].tell({"alice": None, "olga": None, "ghost": None})
    network.run("gw", "nft", "flush", "ruleset")
    for left in (*network.folder.glob("*.json"), network.folder / "journal"):
        left.unlink(missing_ok=True)
    return network


@pytest.fixture
def client(place: Place) -> Iterator[FirewallClient]:
    with place.serving() as client:
        until(lambda: client.status().problem is None)
        yield client


def waits(client: FirewallClient, seat: str, reason: Reason) -> None:
    """Until a seat's standing is that one, and in force."""

    def so() -> bool:
        if client.status().problem is not None:  # it may have just begun
            return False
        standing = client.why(seat).standing
        return standing.reason is reason and standing.in_force

    until(so)


def test_a_seat_reaches_the_world_while_somebody_sits_there_who_may(place: Place, client: FirewallClient) -> None:
    assert not place.reaches("seat1")
    assert not place.reaches("seat1", "udp")
    place.feeds["presence"].tell(sits("alice", 1))
    waits(client, "seat1", Reason.GROUP)
    assert place.reaches("seat1")
    assert place.reaches("seat1", "udp")
    assert not place.reaches("seat2")
    assert client.why("seat1").standing.people[0].login == "alice"


def test_an_organizer_keeps_a_group_in_within_a_second_and_what_it_has_open_ends(
    place: Place, client: FirewallClient
) -> None:
    place.feeds["presence"].tell({**sits("alice", 1), **sits("olga", 2)})
    waits(client, "seat1", Reason.GROUP)
    waits(client, "seat2", Reason.GROUP)
    with place.talking("seat1") as alice, place.talking("seat2") as olga:
        assert alice.answer().startswith("open")
        assert olga.answer().startswith("open")
        assert (alice.say(), olga.say()) == ("heard", "heard")
        began = time.monotonic()
        client.decide(UserGroup.USER, allowed=False)
        waits(client, "seat1", Reason.REFUSED)
        assert alice.say() == "ConnectionResetError"
        assert time.monotonic() - began < 1
        assert olga.say() == "heard"
    assert not place.reaches("seat1")
    assert client.why("seat1").allowed_groups == [UserGroup.ORGA, UserGroup.ROOT]
    client.decide(UserGroup.USER, allowed=True)
    waits(client, "seat1", Reason.GROUP)
    assert place.reaches("seat1")
    assert [(each.key, each.after) for each in client.audit().entries] == [
        ("user", {"allowed": True}), ("user", {"allowed": False})
    ]  # fmt: skip


def test_organizers_decide_over_https_and_nobody_else(place: Place, tmp_path: Path) -> None:
    public = new_key(tmp_path / "key", comment="olga")
    administrators = place.folder / "administrators"
    administrators.write_bytes(encode_json(Administrators([Administrator("olga", "organizer", [public.format()])])))
    (tmp_path / CREDENTIAL).write_bytes(bytes(range(32)))
    token = Tokens(bytes(range(32))).mint(Kind.SESSION, Claims(name="olga", key=public.fingerprint()), seconds=60)
    session = {**HTTPS, "Authorization": f"Bearer {token}"}
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path), "BACKLINE_FIREWALL_ACCESS_ADMINISTRATORS": str(administrators)}

    def ask(ids: tuple[int, int], headers: Mapping[str, str]) -> int:
        argv = ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups", "curl", "--silent", "--json"]
        argv += ['{"allowed": false}', "--request", "PUT", "--write-out", "%{http_code}", "--output", "/dev/null"]
        argv += ["--unix-socket", f"{run_folder}/firewall.sock", "http://firewall/v1/groups/user"]
        return int(
            run([*argv, *(word for name in headers for word in ("--header", f"{name}: {headers[name]}"))]).stdout
        )

    with (
        tempfile.TemporaryDirectory(prefix="backline-firewall-") as run_folder,
        place.serving(env, also=run_folder) as client,
    ):
        Path(run_folder).chmod(0o711)  # not pytest's, which each pytest that starts shuts to other users
        assert ask(NOBODY, {}) == 403
        assert ask(PROXY, HTTPS) == 401
        assert ask(PROXY, session | {"X-Forwarded-Proto": "http"}) == 403
        assert ask(PROXY, session) == 200
        assert [(each.actor, each.origin) for each in client.audit().entries] == [("olga", "192.168.0.9")]


def test_what_was_decided_outlives_the_service_and_hall_toml(place: Place) -> None:
    place.feeds["presence"].tell(sits("alice", 1))
    with place.serving() as client:
        waits(client, "seat1", Reason.GROUP)
        client.decide(UserGroup.USER, allowed=False)
        waits(client, "seat1", Reason.REFUSED)
    with place.serving() as client:
        waits(client, "seat1", Reason.REFUSED)
        assert not place.reaches("seat1")
        client.decide(UserGroup.USER, allowed=None)
        waits(client, "seat1", Reason.GROUP)
        user = client.groups().groups[0]
        assert (user.group, user.allowed, user.decided, user.by) == (UserGroup.USER, True, False, "root")


def test_the_open_connections_of_who_loses_access_end(place: Place, client: FirewallClient) -> None:
    place.feeds["presence"].tell({**sits("alice", 1), **sits("olga", 2)})
    waits(client, "seat2", Reason.GROUP)
    with (
        place.talking("seat1") as talk,
        place.talking("seat1", "udp") as datagrams,
        place.talking("seat2") as other,
        place.talking("rhfs") as server,
    ):
        for each in (talk, datagrams, other, server):
            assert each.answer().startswith("open")
            assert each.say() == "heard"
        place.feeds["presence"].tell({"alice": None})
        waits(client, "seat1", Reason.NOBODY)
        assert talk.say() == "ConnectionResetError"
        assert datagrams.say() != "heard"
        assert other.say() == server.say() == "heard"
        until(lambda: client.status().counters["cut"].packets >= 2)


def test_what_the_world_still_sends_is_not_let_in(place: Place, client: FirewallClient) -> None:
    place.feeds["presence"].tell(sits("alice", 1))
    waits(client, "seat1", Reason.GROUP)
    with place.talking("seat1", "udp") as talk:
        assert talk.answer().startswith("open")
        assert talk.say() == "heard"
        place.feeds["presence"].tell({"alice": None})
        waits(client, "seat1", Reason.NOBODY)
        before = place.run("gw", "nft", "list", "counter", "inet", "backline", "cut")
        place.run("world", "python3", "-c", _datagram_to(talk_port(place)))
        assert place.run("gw", "nft", "list", "counter", "inet", "backline", "cut") != before


def talk_port(place: Place) -> int:
    """The port outside of the last connection that was written down."""
    until(lambda: f"udp {SEATS['seat1']}" in place.journal())
    return int(re.findall(rf"udp .* as {OUTSIDE}:(\d+)", place.journal())[-1])


def _datagram_to(port: int) -> str:
    return (
        "import socket; held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        f"held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); held.bind(('{WORLD}', {PORT})); "
        f"held.sendto(b'x', ('{OUTSIDE}', {port}))"
    )


def test_organizers_machines_and_servers_always_reach_it(place: Place, client: FirewallClient) -> None:
    del client
    assert place.reaches("orga1")
    assert place.reaches("rhfs")


def test_a_group_that_may_not_does_not_whoever_else_does(place: Place) -> None:
    place.settings += 'allowed_groups = ["orga"]\n'
    try:
        with place.serving() as client:
            place.feeds["presence"].tell({**sits("alice", 1), **sits("olga", 2)})
            waits(client, "seat1", Reason.REFUSED)
            waits(client, "seat2", Reason.GROUP)
            assert not place.reaches("seat1")
            assert place.reaches("seat2")
    finally:
        place.settings = place.settings.replace('allowed_groups = ["orga"]\n', "")


def test_somebody_unknown_stops_nobody_else(place: Place, client: FirewallClient) -> None:
    place.feeds["presence"].tell({**sits("ghost", 2), **sits("alice", 1)})
    waits(client, "seat2", Reason.UNKNOWN)
    assert place.reaches("seat1")
    assert not place.reaches("seat2")
    assert [each.record for each in client.status().left_out] == ["session of ghost"]


def test_every_connection_is_written_down_with_who_and_where(place: Place, client: FirewallClient) -> None:
    place.feeds["presence"].tell(sits("alice", 1))
    waits(client, "seat1", Reason.GROUP)
    before = len(place.seen())
    with place.talking("seat1") as talk:
        port = talk.answer().split()[1]
        until(lambda: len(place.seen()) > before)
    line = f"alice at seat1: tcp {SEATS['seat1']}:{port} to {WORLD}:{PORT} as {place.seen()[-1]}"
    until(lambda: line in place.journal())
    count = client.status().connections
    place.run("seat1", sys.executable, "-c", f"import socket; socket.socket().connect_ex(('{GW}', 1))")
    assert client.status().connections == count


def test_a_seat_opens_no_more_than_it_should(place: Place, client: FirewallClient) -> None:
    place.feeds["presence"].tell(sits("alice", 1))
    waits(client, "seat1", Reason.GROUP)
    flood = (
        "import socket\n"
        "for port in range(1000, 1500):\n"
        f"    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{WORLD}', port))\n"
    )
    place.run("seat1", "python3", "-c", flood)
    until(lambda: client.status().counters["paced"].packets > 300)
    until(lambda: "udp" in place.journal())
    assert len(re.findall(r"alice at seat1: udp", place.journal())) < 150
    assert client.status().lost == 0


def test_what_comes_from_the_wrong_side_is_dropped(place: Place, client: FirewallClient) -> None:
    place.run("world", "ip", "addr", "add", f"{SEATS['orga1']}/32", "dev", "lo")
    place.run("world", "ip", "route", "replace", "203.0.113.0/24", "via", OUTSIDE)
    try:
        script = (
            "import socket; held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"held.bind(('{SEATS['orga1']}', 0)); held.sendto(b'x', ('203.0.113.1', 9))"
        )
        place.run("world", "python3", "-c", script)
        until(lambda: client.status().counters["spoofed"].packets > 0)
    finally:
        place.run("world", "ip", "addr", "del", f"{SEATS['orga1']}/32", "dev", "lo")


def test_feeds_that_are_away_change_nothing_and_are_said_to_be(place: Place, client: FirewallClient) -> None:
    place.feeds["presence"].tell(sits("alice", 1))
    waits(client, "seat1", Reason.GROUP)
    until(lambda: (place.folder / "last-good.json").exists())
    until(lambda: all((place.folder / f"{name}.json").exists() for name in place.feeds))
    for feed in place.feeds.values():
        feed.stop()
    try:
        with place.talking("seat1") as talk:
            assert talk.answer().startswith("open")
            before = client.why("seat1").feeds
            until(lambda: client.why("seat1").feeds[0].silence > before[0].silence + 0.5)
            assert place.reaches("seat1")
            assert talk.say() == "heard"
    finally:
        for feed in place.feeds.values():
            feed.start()
    place.feeds["presence"].tell({"alice": None})
    waits(client, "seat1", Reason.NOBODY)


def test_a_service_that_is_killed_changes_nothing_and_knows_all_again(place: Place) -> None:
    with place.serving() as client:
        place.feeds["presence"].tell(sits("alice", 1))
        waits(client, "seat1", Reason.GROUP)
        until(lambda: any('"alice"' in file.read_text() for file in place.folder.glob("presence.json")))
        with place.talking("seat1") as talk:
            assert talk.answer().startswith("open")
            assert place.service is not None
            place.service.kill()
            place.service.wait()
            for feed in place.feeds.values():
                feed.stop()
            try:
                assert talk.say() == "heard"
                with place.serving() as again:
                    waits(again, "seat1", Reason.GROUP)
                    assert talk.say() == "heard"
                    assert place.reaches("seat1")
            finally:
                for feed in place.feeds.values():
                    feed.start()


def test_the_last_good_rules_are_in_force_before_any_feed_has_told(place: Place) -> None:
    (place.folder / "last-good.json").write_text('{"seats": ["192.168.0.1", "10.9.9.9"], "always": []}')
    for feed in place.feeds.values():
        feed.stop()
    try:
        with place.serving() as client:
            assert place.reaches("seat1")
            assert not place.reaches("seat2")
            assert (client.status().seats, client.status().problem is None) == (1, False)
            place.feeds["mdb"].start()  # what machines are is known then, and who sits where is not
            until(lambda: client.status().always == 2)
            assert place.reaches("orga1")
            assert place.reaches("seat1")
            place.feeds["mdb"].stop()
    finally:
        for feed in place.feeds.values():
            feed.start()


def test_rules_that_somebody_has_changed_are_loaded_again(place: Place, client: FirewallClient) -> None:
    place.feeds["presence"].tell(sits("alice", 1))
    waits(client, "seat1", Reason.GROUP)
    for words in (
        ("flush", "ruleset"),
        ("add", "element", "inet", "backline", "seats", "{ 192.168.0.2 }"),
        ("insert", "rule", "inet", "backline", "forward", "accept"),
    ):
        place.run("gw", "nft", *words)
        until(lambda: not place.reaches("seat2") and place.reaches("seat1"))
    assert client.status().problem is None


REFUSED = """
import sys
from ipaddress import IPv4Address, IPv6Address
from services.common.errors import InputError
from services.firewall.apply import Applier
from services.firewall.nft import Nft
from services.firewall.plan import Bounds, Sets
from services.firewall.schema import Settings

settings = Settings(networks=["192.168.0.0/23"], folder=sys.argv[1])
applier = Applier(settings, Bounds.of(settings), Nft())
applier.start()
good = Sets(frozenset({IPv4Address("192.168.0.1")}))
assert applier.apply(good)
try:
    applier.apply(Sets(frozenset({IPv6Address("2001:db8::1")})))
except InputError as error:
    print(error.code)
assert applier.in_force == good
assert applier.look()
print(*Nft().addresses("seats"))
print(*Applier(settings, Bounds.of(settings), Nft())._last_good().seats)
"""


def test_what_nft_refuses_leaves_the_last_good_rules(place: Place) -> None:
    said = place.run("gw", sys.executable, "-c", REFUSED, str(place.folder)).splitlines()
    assert said == ["firewall.refused", "192.168.0.1", "192.168.0.1"]


def test_a_thousand_seats_change_within_a_tenth_of_a_second(place: Place, client: FirewallClient) -> None:
    many = {
        str(1000 + number): machine(1000 + number, f"s{number}", f"192.168.{number // 250}.{number % 250 + 3}", "user")
        for number in range(490)
    }
    place.feeds["mdb"].tell(many)
    place.feeds["udb"].tell({str(100 + n): {"id": 100 + n, "login": f"u{n}", "group": "user"} for n in range(490)})
    sessions = {f"u{n}": {"login": f"u{n}", "machine": 1000 + n, "hostname": f"s{n}", "since": 0.0} for n in range(490)}
    try:
        place.feeds["presence"].tell(sessions)
        until(lambda: client.status().seats > 200, seconds=30)
        time.sleep(0.5)
        place.feeds["presence"].tell({"u7": None})
        waits(client, "s7", Reason.NOBODY)
        seconds = client.status().seconds
        assert seconds is not None
        assert seconds < 0.5
    finally:
        for feed, records in (("presence", sessions), ("mdb", many)):
            place.feeds[feed].tell(dict.fromkeys(records))
