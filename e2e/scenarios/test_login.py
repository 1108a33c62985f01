"""Users of udb log in on seats, over real PAM, sshd and login(1): who gets in, who is told why not, and what is left.

gw runs udb and presence, the seats are containers that boot what netboot says (`e2e.netbooted`): tokens, PAM stack,
logind and homes are those of the image. Not real here: the greeter on a virtual terminal, which containers have not.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from e2e import topology
from e2e.lab import Lab
from e2e.node import Node, WaitFailed
from e2e.pool import Labs
from e2e.scenarios import publishing
from e2e.scenarios.logging_in import PAMTESTER, SSH, Hall, put_pamtester
from services.common.errors import BacklineError
from services.common.users import UserGroup
from services.firewall.client import FirewallClient
from services.firewall.schema import Reason
from services.mdb.client import Mdb
from services.mdb.schema import MachinePatch, MachineType
from services.presence.rules import EXPIRY_SECONDS
from services.udb.schema import UserPatch
from services.usermap.client import UsermapClient

pytestmark = [pytest.mark.images, pytest.mark.full]
WORLD = "198.51.100.1"
ALICE, BOB, RITA = "correct horse", "battery staple", "root password"
HOME = "/home/alice"


@pytest.fixture(scope="module")
def hall(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    labs.close()
    with Lab(topology.hall(seats=3), settings=labs.settings, netboot=True, name="login") as lab:
        publishing.begin(lab, tmp_path_factory.mktemp("administrator"))
        found = Hall(lab)
        found.add("alice", ALICE)
        found.add("bob", BOB)
        found.add("rita", RITA, UserGroup.ROOT)
        for seat in (found.seat(1), found.seat(2), found.seat(3)):
            seat.wait_until("its users", lambda seat=seat: found.knows(seat, "rita"))  # type: ignore[misc]
        decides(found, found.seat(1))
        yield found


def decides(hall: Hall, seat: Node) -> None:
    """Wait until presence, which begins with an empty database, lets anybody in."""
    seat.wait_until(
        "presence decides", lambda: hall.pam("alice", seat, ALICE, "authenticate").returncode == 0, seconds=60
    )


@pytest.fixture
def seat(hall: Hall) -> Iterator[Node]:
    """The first seat, on which nobody has anything after the test."""
    seat = hall.seat(1)
    yield seat
    with contextlib.suppress(WaitFailed):
        seat.wait_until("nobody is left", lambda: nothing_left(hall, seat))
    assert left(hall, seat) == []


def left(hall: Hall, seat: Node) -> list[str]:
    """What there still is of users on a seat: homes, processes, and what presence has."""
    found = [line for line in seat.succeeds("cat", "/proc/mounts").splitlines() if " /home/" in line]
    uids = [line.split(":")[2] for line in seat.succeeds("cat", "/var/lib/extrausers/passwd").splitlines()]
    found += seat.run(
        ["ps", "-o", "pid,user,args", "--no-headers", "-u", ",".join(uids)], check=False
    ).stdout.splitlines()
    return found + [f"{login} at {where}" for login, where in hall.where().items() if where == seat.name]


def nothing_left(hall: Hall, seat: Node) -> bool:
    return left(hall, seat) == []


def seat_of(hall: Hall, login: str) -> str | None:
    return hall.where().get(login)


@contextlib.contextmanager
def staying(hall: Hall, login: str, seat: Node, password: str) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who is logged in over ssh while a block lasts."""
    process = hall.stay(login, seat, password)
    try:
        seat.wait_until(f"{login} is in", lambda: is_in(seat, login))
        yield process
    finally:
        process.kill()
        process.wait()
        seat.run(["loginctl", "terminate-user", login], check=False)


def is_in(seat: Node, login: str) -> bool:
    """Has a session that is wholly there: logind does not end one well that is only just being opened."""
    done = seat.run(["loginctl", "show-user", login, "--property=State", "--value"], check=False)
    return sessions(seat, login) > 0 and done.stdout.strip() in ("active", "online")


def sessions(seat: Node, login: str) -> int:
    lines = seat.run(["loginctl", "list-sessions", "--no-legend"]).stdout.splitlines()
    return len([line for line in lines if f" {login} " in line and " user" in line])


# Who gets in


def test_who_logs_in_is_on_the_map_and_gets_out_of_the_hall_until_the_session_ends(hall: Hall, seat: Node) -> None:
    def standing() -> Reason:
        with FirewallClient(hall.gw.service("firewall")) as firewall:
            found = firewall.why(seat.name).standing
        return found.reason if found.in_force else Reason.UNKNOWN

    def on_the_map() -> list[str]:
        with UsermapClient(hall.gw.service("usermap")) as usermap:
            return [
                person.login for each in usermap.map().seats() if each.hostname == seat.name for person in each.people
            ]

    def gets_out() -> bool:
        return seat.run(["ping", "-c1", "-W1", WORLD], check=False).returncode == 0

    seat.wait_until("nobody is there", lambda: standing() is Reason.NOBODY)
    assert not gets_out()
    with staying(hall, "alice", seat, ALICE):
        seat.wait_until("alice gets out", lambda: standing() is Reason.GROUP)
        assert gets_out()
        seat.wait_until("alice is on the map", lambda: on_the_map() == ["alice"])
    seat.wait_until("nobody is there", lambda: standing() is Reason.NOBODY and on_the_map() == [])
    assert not gets_out()


def test_a_user_logs_in_over_ssh_with_the_password_of_udb(hall: Hall, seat: Node) -> None:
    said = hall.ssh(
        "alice", seat, ALICE, "id", "-un;", "pwd;", "stat", "-c%U:%a", ".", ";", "findmnt", "-no", "FSTYPE", "."
    )
    lines = said.stdout.split()
    assert lines[-4:] == ["alice", "/home/alice", "alice:700", "tmpfs"], said


def test_a_session_is_known_to_presence_until_it_ends(hall: Hall, seat: Node) -> None:
    with staying(hall, "alice", seat, ALICE):
        assert seat_of(hall, "alice") == seat.name
    seat.wait_until("he has left", lambda: seat_of(hall, "alice") is None, seconds=10)


def test_pam_lets_in_whom_ssh_lets_in(hall: Hall, seat: Node) -> None:
    assert hall.pam("alice", seat, ALICE, "authenticate").returncode == 0
    assert hall.pam("rita", seat, RITA, "authenticate", service="sshd").returncode == 0


def test_root_of_a_seat_is_of_the_image_and_asks_nobody(hall: Hall, seat: Node) -> None:
    done = hall.pam("root", seat, "none", "acct_mgmt")
    assert done.returncode == 0, done


# Who does not


def test_who_comes_often_is_let_in_each_time(hall: Hall, seat: Node) -> None:
    """Each time is a start of several units: systemd's limit of five in ten seconds is none here."""
    for _ in range(12):
        assert hall.ssh("alice", seat, ALICE, "pwd").stdout.split()[-1] == HOME
    assert seat.failed_units() == []


def test_a_wrong_password_is_told(hall: Hall, seat: Node) -> None:
    done = hall.pam("alice", seat, "wrong", "authenticate")
    assert done.returncode != 0
    assert "assword" in done.stdout.replace("Password: ", ""), done
    assert hall.ssh("alice", seat, "wrong", "true", check=False).returncode == 255


def test_who_is_logged_in_elsewhere_is_told_where(hall: Hall, seat: Node) -> None:
    with staying(hall, "alice", seat, ALICE):
        done = hall.pam("alice", hall.seat(2), ALICE, "authenticate", "acct_mgmt")
        assert done.returncode != 0
        assert seat.name in done.stdout, done


def test_a_seat_that_is_in_use_says_by_whom(hall: Hall, seat: Node) -> None:
    with staying(hall, "alice", seat, ALICE):
        done = hall.pam("bob", seat, BOB, "authenticate", "acct_mgmt")
        assert done.returncode != 0
        assert "alice" in done.stdout, done


def test_nobody_of_udb_is_nobody(hall: Hall, seat: Node) -> None:
    assert hall.pam("mallory", seat, "x", "authenticate").returncode != 0
    assert hall.ssh("mallory", seat, "x", "true", check=False).returncode == 255


def test_a_contestant_is_refused_at_an_organizer_s_machine_and_root_is_not(hall: Hall, seat: Node) -> None:
    with machine(hall, seat, MachinePatch(type=MachineType.ORGA)):
        seat.wait_until("it is no contestant's seat", lambda: "contestants' seats only" in refusal(hall, seat))
        assert hall.ssh("alice", seat, ALICE, "true", check=False).returncode == 255
        with staying(hall, "rita", seat, RITA):
            assert seat_of(hall, "rita") == seat.name
        seat.wait_until("rita has left", lambda: nothing_left(hall, seat))


def test_a_machine_at_an_address_that_is_not_its_own_lets_nobody_in(hall: Hall, seat: Node) -> None:
    own = seat.address
    with machine(hall, seat, MachinePatch(ip=IPv4Address("192.168.0.222"))):
        seat.wait_until(
            "it is somewhere else", lambda: f"address 192.168.0.222, and this came from {own}" in refusal(hall, seat)
        )
        assert hall.ssh("alice", seat, ALICE, "true", check=False).returncode == 255


def test_a_machine_that_mdb_does_not_know_lets_nobody_in(hall: Hall) -> None:
    """The last seat: as a machine of mdb it is another one afterwards, and its boot's token is the old one's."""
    seat = hall.seat(3)
    with Mdb(hall.gw.service("mdb")) as mdb:
        mdb.delete(mdb.machine(seat.name).id)
    seat.wait_until("it is nobody's", lambda: "not registered" in refusal(hall, seat))
    assert hall.ssh("alice", seat, ALICE, "true", check=False).returncode == 255


def test_who_is_deleted_from_udb_is_refused_before_the_seat_has_heard_of_it(hall: Hall, seat: Node) -> None:
    hall.add("dave", "password of dave")
    seat.wait_until("he is known", lambda: hall.knows(seat, "dave"))
    seat.succeeds("systemctl", "stop", "backline-identity.socket", "backline-identity.service")
    try:
        with hall.udb() as udb:
            udb.delete(udb.user("dave").id)
        assert hall.knows(seat, "dave")
        seat.wait_until(
            "presence says so",
            lambda: "no user dave" in hall.pam("dave", seat, "password of dave", "authenticate", "acct_mgmt").stdout,
        )
        assert hall.ssh("dave", seat, "password of dave", "true", check=False).returncode == 255
    finally:
        seat.succeeds("systemctl", "start", "backline-identity.socket", "backline-identity.service")
    seat.wait_until("it has heard", lambda: not hall.knows(seat, "dave"))


def test_a_key_opens_no_session_of_anybody_of_udb(hall: Hall, seat: Node) -> None:
    """Whom presence has not verified is not let in: no key is asked for, and the account stage refuses besides."""
    seat.succeeds("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/opt/key")
    key = seat.succeeds("cat", "/opt/key.pub")
    hall.gw.put("/root/anybody", seat.get("/opt/key"), mode=0o600)
    with hall.udb() as udb:
        for login in ("bob", "rita"):
            udb.change(udb.user(login).id, UserPatch(keys=[key]))
    argv = ["ssh", "-i", "/root/anybody", *SSH[:3], "-oBatchMode=yes"]
    home = HOME.replace("alice", "bob")
    with staying(hall, "bob", seat, BOB):
        seat.put(f"{home}/.ssh/authorized_keys", f"{key}\n", mode=0o600)
        seat.succeeds("chown", "-R", "bob:", f"{home}/.ssh")
        for login in ("bob", "rita"):
            done = hall.gw.run([*argv, f"{login}@{seat.address}", "true"], check=False)
            assert (done.returncode, "Permission denied" in done.stderr) == (255, True), done
    for login in ("bob", "rita"):
        done = hall.pam(login, hall.seat(2), "", "acct_mgmt", service="sshd")
        assert done.returncode != 0
        assert "Log in with your password first" in done.stdout, done


@contextlib.contextmanager
def machine(hall: Hall, seat: Node, other: MachinePatch) -> Iterator[None]:
    """Another record of a seat in mdb, while a block lasts."""
    with Mdb(hall.gw.service("mdb")) as mdb:
        was = mdb.machine(seat.name)
        mdb.change(was.id, other)
        try:
            yield
        finally:
            mdb.change(was.id, MachinePatch(type=was.type, ip=was.ip))
    decides(hall, seat)


def refusal(hall: Hall, seat: Node) -> str:
    """What alice is told at a seat that does not let her in; nothing where it would."""
    done = hall.pam("alice", seat, ALICE, "authenticate")
    return "" if done.returncode == 0 else done.stdout


# Who moves


def test_who_moves_from_seat_to_seat_is_at_one_of_them(hall: Hall, seat: Node) -> None:
    """As often as he likes, at once, and the seat that he has left is for others."""
    for place in (seat, hall.seat(2), seat, hall.seat(2)):
        with staying(hall, "alice", place, ALICE):
            assert hall.where() == {"alice": place.name}
        place.wait_until("he has left", lambda: hall.where() == {}, seconds=10)
    with staying(hall, "alice", seat, ALICE), staying(hall, "bob", hall.seat(2), BOB):
        assert hall.where() == {"alice": seat.name, "bob": hall.seat(2).name}
    seat.wait_until("nobody is left", lambda: hall.where() == {}, seconds=10)


def test_who_comes_back_to_a_seat_that_was_cut_off_has_one_session(hall: Hall, seat: Node) -> None:
    """Its heartbeats come again with somebody who sits elsewhere by now: he stays where he was let in last."""
    cut = hall.seat(2)
    with staying(hall, "alice", cut, ALICE):
        cut.freeze()
        try:
            assert "already logged in at" in refusal(hall, seat)
            hall.gw.wait_until("it is silent", lambda: hall.where() == {}, seconds=EXPIRY_SECONDS + 20)
            with staying(hall, "alice", seat, ALICE):
                cut.thaw()
                assert is_in(cut, "alice")
                cut.wait_until("he is logged out there", lambda: not is_in(cut, "alice"), seconds=60)
                assert hall.where() == {"alice": seat.name}
                assert is_in(seat, "alice")
        finally:
            cut.thaw()
    cut.wait_until("nobody is left", lambda: nothing_left(hall, cut), seconds=20)


def test_a_seat_that_crashes_lets_its_user_in_elsewhere_and_keeps_nothing(hall: Hall, seat: Node) -> None:
    lost = hall.seat(2)
    with contextlib.suppress(BacklineError), staying(hall, "alice", lost, ALICE):
        lost.crash()
    began = time.monotonic()
    assert "already logged in at" in refusal(hall, seat)
    hall.gw.wait_until("the session expires", lambda: hall.where() == {}, seconds=EXPIRY_SECONDS + 20)
    assert time.monotonic() - began > EXPIRY_SECONDS - 20, "since its last heartbeat"
    with staying(hall, "alice", seat, ALICE):
        lost.start()
        lost.wait_ready(seconds=120)
        lost.wait_until("its users", lambda: hall.knows(lost, "alice"))
        assert "already logged in at" in refusal(hall, lost)
        assert hall.where() == {"alice": seat.name}
        assert left(hall, lost) == []
    decides(hall, lost)


# What is left


def test_three_sessions_are_one_home_until_the_last_one_ends(hall: Hall, seat: Node) -> None:
    with staying(hall, "alice", seat, ALICE) as first:
        hall.ssh("alice", seat, ALICE, "touch", "kept")
        with staying_more(hall, seat) as second:
            assert sessions(seat, "alice") == 2
            assert hall.ssh("alice", seat, ALICE, "ls").stdout.split()[-1:] == ["kept"]
            second.kill()
            second.wait()
            seat.wait_until("one session", lambda: sessions(seat, "alice") == 1)
            seat.succeeds("test", "-e", f"{HOME}/kept")
            assert seat_of(hall, "alice") == seat.name
        assert first.poll() is None
        seat.succeeds("test", "-e", f"{HOME}/kept")


@contextlib.contextmanager
def staying_more(hall: Hall, seat: Node) -> Iterator[subprocess.Popen[bytes]]:
    process = hall.stay("alice", seat, ALICE)
    try:
        seat.wait_until("two sessions", lambda: sessions(seat, "alice") == 2)
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_a_user_has_left_running_or_lying_goes_with_the_last_session(hall: Hall, seat: Node) -> None:
    files = ("/tmp/solution.py", "/var/tmp/solution.py", "/dev/shm/solution.py")
    hall.ssh("alice", seat, ALICE, "touch", *files)
    hall.ssh("alice", seat, ALICE, "setsid", "--fork", "sleep", "1234", "</dev/null", ">/dev/null", "2>&1")
    seat.wait_until("it ends", lambda: seat.run(["pgrep", "-f", "sleep 1234"], check=False).returncode != 0)
    seat.wait_until("they are gone", lambda: seat.run(["ls", *files], check=False).stdout == "")


def test_a_login_at_the_console_that_is_killed_leaves_nothing(hall: Hall, seat: Node) -> None:
    """login(1) on a terminal, killed with the session open: nobody is there to close anything."""
    console = hall.at_console("alice", seat, ALICE)
    try:
        seat.wait_until("a session", lambda: is_in(seat, "alice"))
        assert seat_of(hall, "alice") == seat.name
        assert "is gone when you log out" in seat.succeeds("cat", "/run/screen")
        seat.succeeds("pkill", "-KILL", "-x", "login")
        seat.wait_until("nothing is left", lambda: nothing_left(hall, seat), seconds=15)
    finally:
        console.kill()
        console.wait()


def test_who_is_let_in_and_opens_no_session_is_not_there_for_long(hall: Hall, seat: Node) -> None:
    assert hall.pam("alice", seat, ALICE, "authenticate", "acct_mgmt").returncode == 0
    seat.succeeds("findmnt", "/home/alice")
    seat.wait_until("his home goes", lambda: nothing_left(hall, seat), seconds=80)


def test_a_seat_has_no_hash_of_anybody(hall: Hall, seat: Node) -> None:
    with staying(hall, "alice", seat, ALICE):
        shadow = seat.succeeds("cat", "/var/lib/extrausers/shadow", "/etc/shadow")
        assert "$" not in shadow
        for word in (ALICE, RITA):
            found = seat.run(["grep", "-rlsF", word, "/run", "/var/lib", "/etc", "/tmp"], check=False)
            assert found.stdout == "", found


# What changes


def test_a_password_that_is_changed_is_good_at_once(hall: Hall, seat: Node) -> None:
    with hall.udb() as udb:
        bob = udb.user("bob")
        udb.change(bob.id, UserPatch(password="another one"))
    began = time.monotonic()
    for each in (seat, hall.seat(2)):
        each.wait_until(
            "the new password",
            lambda each=each: hall.pam("bob", each, "another one", "authenticate").returncode == 0,  # type: ignore[misc]
            seconds=5,
        )
    assert time.monotonic() - began < 2
    for each in (seat, hall.seat(2)):
        assert hall.pam("bob", each, BOB, "authenticate").returncode != 0


def test_who_is_deleted_is_logged_out_and_gone_everywhere(hall: Hall, seat: Node) -> None:
    hall.add("carol", "password of carol")
    seat.wait_until("she is known", lambda: hall.knows(seat, "carol"))
    uid = seat.succeeds("id", "-u", "carol")
    with staying(hall, "carol", seat, "password of carol"):
        with hall.udb() as udb:
            udb.delete(udb.user("carol").id)
        began = time.monotonic()
        for node in (seat, hall.seat(2), hall.gw, hall.lab["rhfs01"]):
            node.wait_until("she is gone", lambda node=node: not hall.knows(node, "carol"), seconds=5)  # type: ignore[misc]
        assert time.monotonic() - began < 2
        seat.wait_until("she is out", lambda: seat.run(["pgrep", "-u", uid], check=False).returncode != 0, seconds=10)
        seat.wait_until("presence knows", lambda: seat_of(hall, "carol") is None, seconds=10)
        seat.wait_until("nothing is left", lambda: nothing_left(hall, seat), seconds=20)


def test_a_key_of_root_opens_every_host_and_closes_it_again_within_two_seconds(hall: Hall) -> None:
    gw, hosts = hall.gw, (hall.gw, hall.lab["rhfs01"])

    def made(name: str) -> str:
        gw.succeeds("rm", "-f", f"/root/{name}", f"/root/{name}.pub")
        gw.succeeds("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"/root/{name}")
        return gw.get(f"/root/{name}.pub").decode().strip()

    def opens(host: Node, name: str = "rita") -> bool:
        options = ["-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oBatchMode=yes"]
        argv = ["ssh", "-i", f"/root/{name}", *options, f"root@{host.address}", "true"]
        return gw.run(argv, check=False).returncode == 0

    key, by_hand = made("rita"), f"{made('by-hand')}\n"
    hosts[1].put("/root/.ssh/authorized_keys", by_hand, mode=0o600)
    assert not any(opens(host) for host in hosts)
    for keys in ([key], []):
        with hall.udb() as udb:
            udb.change(udb.user("rita").id, UserPatch(keys=keys))
        began = time.monotonic()
        for host in hosts:
            host.wait_until("what the key is", lambda host=host: opens(host) == bool(keys), seconds=5)  # type: ignore[misc]  # noqa: B023
        assert time.monotonic() - began < 2
        assert opens(hosts[1], "by-hand"), "a key that somebody has put there by hand is nobody else's"
    assert hosts[1].get("/root/.ssh/authorized_keys").decode() == by_hand


# What fails


def test_logins_wait_for_a_gateway_whose_services_restart(hall: Hall, seat: Node) -> None:
    hall.gw.succeeds(
        "systemctl", "restart", "--no-block", "backline-udb.service", "backline-presence.service", "nginx.service"
    )
    assert hall.ssh("alice", seat, ALICE, "true").returncode == 0


def test_a_gateway_that_restarts_logs_nobody_out_and_calls_no_password_wrong(hall: Hall, seat: Node) -> None:
    other, said = hall.seat(2), []
    stop = threading.Event()

    def all_the_time() -> None:
        while not stop.wait(0.3):
            done = hall.pam("rita", other, RITA, "authenticate")
            said.append((done.returncode, done.stdout))

    console = hall.at_console("alice", seat, ALICE)
    loop = threading.Thread(target=all_the_time)
    try:
        seat.wait_until("a session", lambda: is_in(seat, "alice"))
        loop.start()
        hall.gw.reboot(seconds=120)
        began = len(said)
        seat.wait_until("logins again", lambda: len(said) > began + 1, seconds=60)
        assert is_in(seat, "alice")
        assert seat_of(hall, "alice") == seat.name
    finally:
        stop.set()
        loop.join()
        console.kill()
        console.wait()
        seat.run(["loginctl", "terminate-user", "alice"], check=False)
    assert said[-1][0] == 0, said[-1]
    for code, shown in said:
        assert code == 0 or "login service" in shown, shown


def test_a_hall_that_has_just_been_started_asks_for_patience(hall: Hall, seat: Node) -> None:
    hall.gw.succeeds("systemctl", "stop", "backline-presence.socket", "backline-presence.service")
    hall.gw.succeeds("sh", "-c", "rm -r /var/lib/backline-presence/*")
    hall.gw.succeeds("systemctl", "start", "backline-presence.socket", "backline-presence.service")
    done = hall.pam("alice", seat, ALICE, "authenticate")
    assert done.returncode != 0
    assert "half a minute" in done.stdout, done
    decides(hall, seat)


def test_a_user_has_limits_and_root_has_none(hall: Hall, seat: Node) -> None:
    """What systemd has for them: a container may lack the controllers that hold them to it."""
    names = ("MemoryMax", "MemoryHigh", "TasksMax", "CPUWeight")

    def limits(unit: str) -> dict[str, str]:
        return {name: seat.succeeds("systemctl", "show", "-P", name, unit) for name in names}

    with staying(hall, "alice", seat, ALICE):
        uid = seat.succeeds("id", "-u", "alice")
        found = limits(f"user-{uid}.slice")
        assert (found["TasksMax"], found["CPUWeight"]) == ("2048", "50")
        assert int(found["MemoryHigh"]) < int(found["MemoryMax"])
    assert limits("user-0.slice") == {**dict.fromkeys(names, "infinity"), "CPUWeight": "500"}


# The lock of a screen


def opens(hall: Hall, seat: Node, login: str, password: str, *, whose: str | None = None) -> bool:
    """Whether a locker of `login`'s opens his screen, or says that `whose` is to be."""
    put_pamtester(seat)
    argv = ["runuser", "-u", login, "--", PAMTESTER, "backline-seat-lock", whose or login, "authenticate", "acct_mgmt"]
    return seat.run(argv, stdin=f"{password}\n", check=False, seconds=90).returncode == 0


@contextlib.contextmanager
def without_presence(hall: Hall) -> Iterator[None]:
    hall.gw.succeeds("systemctl", "stop", "backline-presence.socket", "backline-presence.service")
    try:
        yield
    finally:
        hall.gw.succeeds("systemctl", "start", "backline-presence.socket", "backline-presence.service")


def test_a_screen_opens_by_its_user_s_password_and_without_gw_too(hall: Hall, seat: Node) -> None:
    hash = f"/run/backline-seat-home/{seat.succeeds('id', '-u', 'alice')}.hash"
    with staying(hall, "alice", seat, ALICE):
        assert seat.succeeds("stat", "-c%U:%a", hash) == "root:600"
        assert opens(hall, seat, "alice", ALICE)
        assert not opens(hall, seat, "alice", "wrong")
        assert not opens(hall, seat, "nobody", ALICE, whose="alice"), "somebody else"
        with without_presence(hall):
            assert opens(hall, seat, "alice", ALICE)
            assert not opens(hall, seat, "alice", "wrong")
    seat.wait_until("nothing is kept", lambda: seat.run(["test", "-e", hash], check=False).returncode != 0)


def test_of_roots_nothing_is_kept_and_their_screens_need_gw(hall: Hall, seat: Node) -> None:
    with staying(hall, "rita", seat, RITA):
        assert seat.succeeds("find", "/run/backline-seat-home", "-name", "*.hash") == ""
        assert opens(hall, seat, "rita", RITA)
        with without_presence(hall):
            assert not opens(hall, seat, "rita", RITA)


def test_who_only_shows_a_password_leaves_nothing_behind(hall: Hall, seat: Node) -> None:
    assert hall.pam("alice", seat, ALICE, "authenticate").returncode == 0
    hash = f"/run/backline-seat-home/{seat.succeeds('id', '-u', 'alice')}.hash"
    seat.succeeds("test", "-e", hash)
    seat.wait_until("it goes", lambda: seat.run(["test", "-e", hash], check=False).returncode != 0, seconds=80)
