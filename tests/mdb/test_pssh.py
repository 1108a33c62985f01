"""pssh: what it asks ssh for, and what becomes of it on real machines: sshd of the gw image, several of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from builder import image
from builder.image import Shop
from e2e.containers import engine
from e2e.servers import SshContainer
from netboot.client import Netboot
from services.common.errors import Exit
from services.common.process import run as run_program
from services.common.tokens import Tokens
from services.mdb import pssh
from services.mdb.client import Mdb
from services.mdb.pssh import How, Outcome, argv
from services.mdb.schema import Machine, MachineType, NewMachine
from tests.mdb.rig import command, serving
from tests.mdb.test_query import machine
from tests.netboot import rig as netboot_rig

# What it asks for


def test_the_words_of_a_command_reach_the_other_side_as_they_are() -> None:
    words = argv(machine(), ["echo", "a b", "$HOME", "; reboot"], How())
    assert words[-2:] == ["192.168.0.7", "echo 'a b' '$HOME' '; reboot'"]
    assert words[-3] == "--"


def test_nothing_is_asked_and_no_key_is_learnt() -> None:
    words = argv(machine(), ["true"], How(known_hosts=[Path("/a b"), Path("/c%d")], identity=Path("/key")))
    for option in (
        "BatchMode=yes",
        "ConnectTimeout=5",
        "StrictHostKeyChecking=yes",
        "HostKeyAlias=pas-r01p02",
        'UserKnownHostsFile="/a b" "/c%%d"',
        "IdentitiesOnly=yes",
    ):
        assert words[words.index(option) - 1] == "-o"
    assert words[words.index("-i") + 1] == "/key"


# Real machines


@dataclass
class Hall:
    """Machines that answer and one that does not; `how` has the keys of those that are believed."""

    machines: list[Machine]
    dead: Machine
    stranger: Machine
    how: How
    key: Path
    known_hosts: Path


@pytest.fixture(scope="module")
def hall(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    image.build(shop, "gw")
    folder = tmp_path_factory.mktemp("pssh")
    key = folder / "key"
    run_program(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    public = key.with_suffix(".pub").read_text().strip()
    with engine(settings=shop.settings) as podman:
        tree = podman.image_of("gw")
        with (
            SshContainer(tree, keys=[public]) as one,
            SshContainer(tree, keys=[public]) as two,
            SshContainer(tree, keys=[public]) as other,
        ):
            made = [
                machine(id=number, hostname=f"p0{number}", ip=IPv4Address(each.address))
                for number, each in enumerate((one, two, other), 1)
            ]
            known_hosts = folder / "known_hosts"
            known_hosts.write_text(f"p01 {one.host_key}\np02 {two.host_key}\np03 {one.host_key}\n")
            how = How(known_hosts=[known_hosts], identity=key, connect_seconds=3)
            dead = machine(id=9, hostname="dead", ip=IPv4Address("127.9.9.9"))
            yield Hall(made[:2], dead, made[2], how, key, known_hosts)


@pytest.mark.images
@pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")
class TestRealMachines:
    def test_each_answers_for_itself(self, hall: Hall) -> None:
        heard: list[str] = []
        results = pssh.run(
            hall.machines,
            ["sh", "-c", 'hostname; echo "$0" >&2', "a b"],
            hall.how,
            done=lambda one: heard.append(one.hostname),
        )
        assert [result.hostname for result in results] == ["p01", "p02"] == sorted(heard)
        assert {result.outcome for result in results} == {Outcome.OK}
        assert len({result.stdout for result in results}) == 2
        assert {result.stderr for result in results} == {"a b\n"}

    def test_an_exit_code_is_told(self, hall: Hall) -> None:
        (result,) = pssh.run(hall.machines[:1], ["sh", "-c", "echo no; exit 3"], hall.how)
        assert (result.outcome, result.exit, result.stdout) == (Outcome.FAILED, 3, "no\n")

    def test_no_shell_of_ours_or_theirs_sees_the_words(self, hall: Hall) -> None:
        words = ["$(id)", "`id`", "; id", "a\nb", "'", '"', "*", "\\", "-n"]
        (result,) = pssh.run(hall.machines[:1], ["printf", "%s|", *words], hall.how)
        assert result.stdout == "".join(f"{word}|" for word in words)

    def test_one_that_is_dead_hinders_nobody(self, hall: Hall) -> None:
        results = pssh.run([hall.dead, *hall.machines], ["true"], hall.how)
        assert [result.outcome for result in results] == [Outcome.UNREACHABLE, Outcome.OK, Outcome.OK]
        assert "Connection refused" in results[0].stderr
        assert results[0].exit is None

    def test_a_machine_with_another_host_key_is_not_talked_to(self, hall: Hall) -> None:
        (result,) = pssh.run([hall.stranger], ["echo", "hello"], hall.how)
        assert (result.outcome, result.stdout) == (Outcome.UNREACHABLE, "")
        assert "Host key verification failed" in result.stderr or "HOST IDENTIFICATION" in result.stderr

    def test_a_machine_whose_host_key_nobody_knows_is_not_talked_to(self, hall: Hall, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        how = How(known_hosts=[tmp_path / "empty"], identity=hall.key)
        (result,) = pssh.run(hall.machines[:1], ["echo", "hello"], how)
        assert (result.outcome, result.stdout) == (Outcome.UNREACHABLE, "")

    def test_who_has_no_key_is_not_asked_for_a_password(self, hall: Hall, tmp_path: Path) -> None:
        key = tmp_path / "key"
        run_program(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
        (result,) = pssh.run(hall.machines[:1], ["true"], How(known_hosts=[hall.known_hosts], identity=key))
        assert (result.outcome, "Permission denied" in result.stderr) == (Outcome.UNREACHABLE, True)

    def test_one_that_takes_too_long_is_left(self, hall: Hall) -> None:
        how = How(known_hosts=[hall.known_hosts], identity=hall.key, seconds=2.0)
        began = time.monotonic()
        (result,) = pssh.run(hall.machines[:1], ["sh", "-c", "echo begun; sleep 60"], how)
        assert (result.outcome, result.exit, result.stdout) == (Outcome.LATE, None, "begun\n")
        assert time.monotonic() - began < 20

    def test_machines_are_asked_at_the_same_time_but_not_too_many(self, hall: Hall) -> None:
        def asked(jobs: int) -> float:
            how = How(known_hosts=[hall.known_hosts], identity=hall.key, jobs=jobs)
            began = time.monotonic()
            pssh.run(hall.machines, ["sleep", "3"], how)
            return time.monotonic() - began

        assert asked(1) >= 6
        assert asked(8) < 6

    def test_who_is_interrupted_leaves_no_ssh_behind(self, hall: Hall) -> None:
        class Enough(Exception):
            pass

        def enough(_: object) -> None:
            raise Enough

        began = time.monotonic()
        with pytest.raises(Enough):
            pssh.run([hall.dead, *hall.machines], ["sleep", "60"], hall.how, done=enough)
        assert time.monotonic() - began < 20
        assert [thread for thread in threading.enumerate() if "ThreadPool" in thread.name] == []

    def test_much_output_is_cut_and_not_kept_in_memory(self, hall: Hall) -> None:
        (result,) = pssh.run(hall.machines[:1], ["head", "-c", "5000000", "/dev/zero"], hall.how)
        assert (result.outcome, len(result.stdout)) == (Outcome.OK, pssh.OUTPUT_BYTES)

    def test_the_command_prints_a_table_or_json(self, hall: Hall, tmp_path: Path) -> None:
        with serving(tmp_path, f"sqlite:///{tmp_path}/mdb.db", pools=False) as service, Mdb(service.unix) as client:
            for each in (*hall.machines, hall.dead):
                client.create(
                    NewMachine(
                        hostname=each.hostname, mac=f"52540000000{each.id}", ip=each.ip, type=MachineType.USER, room="a"
                    )
                )
            there = ("--address", service.unix, "--known-hosts", str(hall.known_hosts), "--identity", str(hall.key))
            code, out, _ = command("pssh", *there, "p[01-02]", "--", "echo", "hello", "you")
            heading, one, two, sum_ = out.splitlines()
            assert (code, heading.split()) == (0, ["HOST", "RESULT", "TIME", "OUTPUT"])
            assert one.startswith("p01   ok")
            assert two.endswith("s  hello you")
            assert sum_ == "2 ok"
            code, out, _ = command("pssh", "--json", *there, "room:a", "--", "true")
            results = {each["hostname"]: each["outcome"] for each in json.loads(out)["results"]}
            assert (code, results) == (Exit.FAILED, {"p01": "ok", "p02": "ok", "dead": "unreachable"})

    def test_a_seat_is_known_by_the_host_key_that_it_told_netboot(self, hall: Hall, tmp_path: Path) -> None:
        """One of two machines has booted and told its key; the other is not talked to."""
        (tmp_path / "mdb").mkdir()
        with (
            serving(tmp_path / "mdb", f"sqlite:///{tmp_path}/mdb.db", pools=False) as mdb,
            netboot_rig.serving(tmp_path, f"sqlite:///{tmp_path}/netboot.db", mdb.unix) as netboot,
            Mdb(mdb.unix) as client,
            Netboot(netboot.unix) as versions,
        ):
            netboot_rig.publish(versions)
            server = NewMachine(hostname="rhfs", aliases=["rfs1"], mac="525400000099", ip=IPv4Address("10.0.0.1"))
            client.create(server)
            one, two = (
                client.create(NewMachine(hostname=each.hostname, mac=f"52540000000{each.id}", ip=each.ip, rfs=1))
                for each in hall.machines
            )
            origin, path = str(one.ip), f"/boot/{one.mac}"
            netboot_rig.until(lambda: "backline.boot=" in netboot_rig.ask(netboot, path, origin=origin).text)
            script = netboot_rig.ask(netboot, path, origin=origin).text
            boot = script.partition("backline.boot=")[2].split()[0]
            token = Tokens(netboot_rig.KEY).for_machine(one.hostname, machine=one.id, boot=boot, seconds=60)
            key = hall.known_hosts.read_text().splitlines()[0].removeprefix("p01 ")
            report = {"stage": "system", "detail": "", "ssh_host_key": key}
            told = netboot_rig.ask(
                netboot, f"/v1/boots/{boot}/report", origin=origin, method="PUT", body=report, token=token
            )
            assert told.status in (200, 204)
            there = ("--address", mdb.unix, "--netboot", netboot.unix, "--identity", str(hall.key))
            out = command("pssh", "--json", *there, f"{one.hostname} {two.hostname}", "true")[1]
            results = {each["hostname"]: each["outcome"] for each in json.loads(out)["results"]}
            assert results == {"p01": "ok", "p02": "unreachable"}
