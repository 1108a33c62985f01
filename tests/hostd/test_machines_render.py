"""The files that make systemd run a machine."""

from __future__ import annotations

import configparser
from pathlib import Path, PurePosixPath

import pytest

from services.common.errors import InputError
from services.common.process import run
from services.hall.schema import Host, Nic
from services.hostd import machines_render as render
from services.hostd.machines_hall import cards
from services.hostd.machines_schema import Card, Machine, Resources, Running
from tests.hostd.test_units import need

VERSION = "20260131.0123456789ab"
MACHINE = Machine(
    name="rhfs01",
    role="rhfs",
    id="0123456789abcdef0123456789abcdef",
    network=[Card(kind="bridge", on="br0", mac="52:54:00:00:00:01"), Card(kind="macvlan", on="eno1")],
    resources=Resources(memory="2G", cpus=1.5, tasks=4096),
    folders={"/srv/homes": "/data/homes"},
)
PLACES = render.Places(
    images=PurePosixPath("/var/lib/backline-machines/images"),
    home=PurePosixPath("/var/lib/backline-machines/machines/rhfs01"),
    credentials={"backline.hall": PurePosixPath("/etc/credstore/backline.hall")},
)


def rendered(machine: Machine = MACHINE) -> dict[str, str]:
    return render.files(machine, Running(version=VERSION, var="var-3"), PLACES)


def of(name: str, machine: Machine = MACHINE) -> str:
    return next(text for path, text in rendered(machine).items() if Path(path).name == name)


def test_everything_lies_in_run() -> None:
    assert all(path.startswith("/run/systemd/") for path in rendered())


def test_a_tree_is_mounted_read_only_under_its_version() -> None:
    unit = render.mount_unit("rhfs", VERSION)
    assert unit == "run-backline-machines-rhfs-20260131.0123456789ab.mount"
    text = of(unit)
    assert f"What=/var/lib/backline-machines/images/rhfs/{VERSION}/root.erofs\n" in text
    assert f"Where=/run/backline/machines/rhfs/{VERSION}\n" in text
    assert "Options=ro" in text


@pytest.mark.parametrize("path", ["/run/a-b/c", "/run/.hidden/x", "/.a", "/run/a:b_c.d/é"])
def test_paths_are_escaped_as_systemd_does_it(path: str) -> None:
    need("systemd-escape")
    assert render.escape(PurePosixPath(path)) == run(["systemd-escape", "--path", path]).stdout.strip()


def test_var_and_persistent_folders_are_bound_and_all_else_is_an_overlay_in_memory() -> None:
    text = of("rhfs01.nspawn")
    assert "Volatile=overlay\n" in text
    assert "Bind=/var/lib/backline-machines/machines/rhfs01/var-3:/var\n" in text
    assert "Bind=/data/homes:/srv/homes\n" in text


def test_user_ids_are_those_of_the_iron() -> None:
    assert "PrivateUsers=no\n" in of("rhfs01.nspawn")
    assert " -U" not in of("50-backline.conf")


def test_credentials_are_named_and_never_shown() -> None:
    text = of("50-backline.conf")
    assert "--load-credential=backline.hall:/etc/credstore/backline.hall" in text
    assert f"--set-credential=backline.version:{VERSION}" in text


def test_limits_are_those_of_the_unit_in_a_file_of_their_own() -> None:
    assert "Max=" not in of("50-backline.conf")
    text = of("60-backline-limits.conf")
    assert [line for line in text.splitlines() if "Max=" in line or "Quota" in line] == [
        "MemoryMax=2G", "CPUQuota=150%", "TasksMax=4096",
    ]  # fmt: skip


def test_a_machine_without_limits_or_cards_has_none() -> None:
    bare = Machine(name="bare", role="rhfs", id=MACHINE.id)
    text = of("50-backline.conf", bare)
    assert "Max=" not in of("60-backline-limits.conf", bare)
    assert "ExecStartPre" not in text
    assert "Private=yes" in of("bare.nspawn", bare), "no card of the iron's either"


def test_cards_are_cables_of_the_machines_own_and_go_with_it() -> None:
    text = of("50-backline.conf")
    ours, theirs = render.ports("rhfs01", 0)
    assert f"ExecStartPre=ip link add {ours} type veth peer name {theirs} address 52:54:00:00:00:01\n" in text
    assert f"ExecStartPre=ip link set {ours} master br0 up\n" in text
    _, second = render.ports("rhfs01", 1)
    assert f"ip link add link eno1 name {second} address {render.mac_of('rhfs01', 1)} type macvlan mode bridge" in text
    assert text.count("ExecStopPost=-ip link delete") == 2
    assert [line for line in of("rhfs01.nspawn").splitlines() if "Interface" in line] == [
        f"Interface={theirs}:host0", f"Interface={second}:host1",
    ]  # fmt: skip


def test_names_of_interfaces_are_short_and_differ() -> None:
    names = [port for name in ("a" * 63, "b", "rhfs01") for n in range(8) for port in render.ports(name, n)]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 15


def test_the_files_have_the_form_that_systemd_reads() -> None:
    for path, text in rendered().items():
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        parser.read_string(text)
        assert parser.sections(), path


def test_cards_come_from_hall_toml() -> None:
    host = Host(role="rhfs", nics=[Nic(bridge="br0", mac="52:54:00:00:00:01"), Nic(macvlan="eno1")])
    assert cards(host) == MACHINE.network


def test_an_interface_that_hangs_on_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="neither `bridge` nor `macvlan`"):
        cards(Host(role="rhfs", nics=[Nic()]))
