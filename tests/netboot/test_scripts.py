"""iPXE scripts: what they say, and that nobody's text says more in them than it should."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netboot import scripts
from netboot.decide import Decision, Server
from netboot.machines import Switch
from netboot.schema import Outcome
from netboot.scripts import Place
from tests.netboot.ipxe import Machine, all_commands, labels
from tests.netboot.rig import ONE, seat, version

PLACE = Place("pasteur", "192.168.1.254")
BOOT = "0123456789abcdef" * 2
SERVERS = (Server(1, "rhfs01", "192.168.1.1"), Server(2, "rhfs02", "192.168.1.2"))
HOSTILE = [
    "x || chain http://evil/",
    "x && reboot",
    "a ; shell",
    "# nothing",
    "${net0/ip}",
    "line\nchain http://evil/",
    "\r\nshell",
    "-n",
    "--help",
    "\x1b[2J\x07",
    "é̈ü → 漢字",
    "",
    " " * 90,
    "x" * 300,
]
anything = st.one_of(st.text(max_size=400), st.sampled_from(HOSTILE), st.lists(st.sampled_from(HOSTILE)).map(" ".join))


def decision(*, options: str = "", servers: tuple[Server, ...] = SERVERS, id: str = ONE) -> Decision:
    return Decision(Outcome.BOOT, "channel stable", "it points there", version(id, options=options), servers)


def boot(**more: object) -> str:
    return scripts.boot(seat(), decision(**more), BOOT, PLACE)  # type: ignore[arg-type]


def check_text_alone(script: str) -> None:
    """Nothing but words on the screen, a pause and a restart."""
    script.encode("ascii")
    for words in all_commands(script):
        assert words[0] in ("echo", "sleep", "reboot", "set", "iseq", "exit")
        if words[0] == "echo":
            assert not "".join(words[1:2]).startswith("-")
            assert "${" not in " ".join(words)
    assert all(len(line) <= 100 for line in script.splitlines())


def runs(script: str) -> str:
    """What a machine does at the end of a script that fetches nothing."""
    return Machine(lambda _: script).start("http://gw/boot/x")


# Text of others


@given(anything, anything)
def test_a_reason_is_shown_and_never_run(reason: str, name: str) -> None:
    for outcome in scripts._WAITS:
        script = scripts.refusal(outcome, reason, hostname=name, more=[reason])
        check_text_alone(script)
        assert [words[0] for words in all_commands(script)][-2:] == ["sleep", "reboot"]
        assert runs(script) == "reboot"


@given(anything, anything)
def test_mdbs_message_is_shown_and_never_run(message: str, hint: str) -> None:
    script = scripts.not_registered(message, hint)
    check_text_alone(script)
    assert runs(script) == "reboot"
    check_text_alone(scripts.registered(message, hint, seconds=5))


def test_a_reason_is_readable() -> None:
    script = scripts.refusal(Outcome.FAULTY, "Écran cassé; voir Zoé & Léo", hostname="pas-r01p01")
    assert "echo Ecran casse, voir Zoe + Leo" in script.splitlines()


@given(anything)
def test_a_hostile_host_name_is_no_script(name: str) -> None:
    hostile = msgspec.structs.replace(seat(), hostname=name)
    try:
        script = scripts.boot(hostile, decision(), BOOT, PLACE)
    except ValueError:
        return
    assert re.fullmatch(r"[!-~]+", name)
    assert [words[0] for words in all_commands(script)] == [words[0] for words in all_commands(boot())]


@given(anything)
def test_options_stay_words_of_the_command_line(options: str) -> None:
    if scripts.options_problem(options) is not None:
        with pytest.raises(ValueError):
            boot(options=options)
        return
    kernels = [words for words in all_commands(boot(options=options)) if words[0] == "kernel"]
    assert len(kernels) == len(SERVERS)
    for words in kernels:
        assert words[len(words) - len(options.split()) :] == options.split()
        assert not any("${" in word for word in words)


def test_words_for_every_machine_come_before_those_of_the_version() -> None:
    script = scripts.boot(seat(), decision(options="quiet"), BOOT, PLACE, "console=ttyS0 panic=5")
    for words in all_commands(script):
        if words[0] == "kernel":
            assert words[-3:] == ["console=ttyS0", "panic=5", "quiet"]


def test_words_for_every_machine_are_checked_as_those_of_a_version() -> None:
    with pytest.raises(ValueError):
        scripts.boot(seat(), decision(), BOOT, PLACE, "initrd=x")


@pytest.mark.parametrize(
    "word", ["backline.roothash=00", "initrd=x", "#x", "||", "a\tb", "x=${y}", "systemd.hostname=x"]
)
def test_options_that_would_change_the_boot_are_refused(word: str) -> None:
    assert scripts.options_problem(f"quiet {word}") is not None


def test_usual_options_are_fine() -> None:
    assert scripts.options_problem("quiet console=ttyS0,115200n8 systemd.unit=multi-user.target rd.x=a;b") is None


@given(st.lists(st.tuples(anything, anything, anything), max_size=3), st.lists(anything, max_size=4), anything)
def test_switches_and_rooms_of_any_name_leave_the_menu_whole(
    given_: list[tuple[str, str, str]], rooms: list[str], hall: str
) -> None:
    switches = [
        Switch(id=n, name=name, chassis=chassis, room=room, rfs=1, hfs=1)
        for n, (name, chassis, room) in enumerate(given_)
    ]
    script = scripts.bootstrap(Place(hall, "192.168.1.254"), switches, rooms)
    script.encode("ascii")
    for words in all_commands(script):
        if words[0] == "goto" and words[1] != "${choice}":
            assert words[1] in labels(script)
    assert len(labels(script)) == sum(line.startswith(":") for line in script.splitlines())
    clean = scripts.bootstrap(PLACE, [s for s in switches if scripts._usable(s)], [])
    assert {words[0] for words in all_commands(script)} <= {words[0] for words in all_commands(clean)}


# A machine that boots


def test_every_part_of_a_boot_is_of_one_version() -> None:
    script = boot()
    for words in all_commands(script):
        if words[0] in ("kernel", "initrd") and "/images/" in words[1]:
            assert f"/images/nfsroot/{ONE}/" in words[1]
    assert set(re.findall(r"2026\d{4}\.[0-9a-f]{12}", script)) == {ONE}


def fetching(*down: str) -> Machine:
    def fetch(url: str) -> str:
        if url == "http://gw/boot/x":
            return boot()
        if any(address in url for address in down):
            raise OSError("it does not answer")
        return ""

    return Machine(fetch)


def test_kernel_and_initrd_come_from_the_own_server() -> None:
    machine = fetching()
    assert machine.start("http://gw/boot/x") == "boot"
    kernel, initrd, hall = machine.loaded
    assert kernel[1] == f"http://192.168.1.1/images/nfsroot/{ONE}/vmlinuz"
    assert initrd[1:] == [f"http://192.168.1.1/images/nfsroot/{ONE}/initrd"]
    assert hall[1:] == ["http://192.168.1.254/hall.toml", "/etc/backline/hall.toml", "mode=644"]
    assert f"backline.root=nfs:192.168.1.1:/images/nfsroot/{ONE},nfs:192.168.1.2:/images/nfsroot/{ONE}" in kernel


def test_when_the_own_server_is_gone_all_of_it_comes_from_the_other() -> None:
    machine = fetching("http://192.168.1.1/")
    assert machine.start("http://gw/boot/x") == "boot"
    assert [words[1] for words in machine.loaded if "/images/" in words[1]] == [
        f"http://192.168.1.2/images/nfsroot/{ONE}/vmlinuz",
        f"http://192.168.1.2/images/nfsroot/{ONE}/initrd",
    ]
    assert machine.loaded[0][3].startswith(f"backline.root=nfs:192.168.1.2:/images/nfsroot/{ONE},nfs:192.168.1.1:")


def test_when_every_server_is_gone_it_says_so_and_starts_again() -> None:
    machine = fetching("http://192.168.1.1/", "http://192.168.1.2/")
    assert machine.start("http://gw/boot/x") == "reboot"
    assert f"Backline: no root file server sends {ONE}" in machine.screen


def test_a_command_line_that_is_too_long_is_no_script() -> None:
    with pytest.raises(ValueError, match="2047"):
        boot(options=" ".join(["x" * 100] * 18))


# The menu


SWITCHES = [
    Switch(id=1, name="sw-a", chassis="aa:bb:cc:00:00:01", room="pasteur", rfs=3, hfs=4),
    Switch(id=2, name="sw-b", chassis="aa:bb:cc:00:00:02", room="alt", rfs=5, hfs=6),
]


def alien(*, platform: str = "efi", **more: object) -> tuple[Machine, list[str]]:
    """A machine that nobody knows, at the menu, and what it asked to register."""
    asked: list[str] = []

    def fetch(url: str) -> str:
        if url.endswith("/bootstrap"):
            return scripts.bootstrap(PLACE, SWITCHES, ["alt", "pasteur"])
        if "/boot/" in url:
            return scripts.unknown()
        asked.append(url)
        if "hostname=taken" in url:
            return scripts.not_registered("taken is another machine already; choose another name", None)
        return scripts.registered("p1", "192.168.0.7", seconds=5)

    settings = {"netX/mac": "52:54:00:00:00:01", "netX/ip": "192.168.250.1", "platform": platform}
    return Machine(fetch, settings, **more), asked  # type: ignore[arg-type]


def test_an_unknown_machine_is_registered_by_hand() -> None:
    machine, asked = alien(choices=["hand", "in_1", "user", "confirm"], typed=["1", "2", "pas-r01p01"])
    assert machine.start("http://netboot/bootstrap") == "reboot"
    assert asked == [
        "http://netboot/register?hostname=pas-r01p01&mac=52-54-00-00-00-01&rfs=1&hfs=2&room=pasteur&type=user&code="
    ]


def test_what_is_typed_stays_one_parameter() -> None:
    machine, asked = alien(
        choices=["hand", "room", "orga", "confirm"], typed=["1&hfs=9", "#", "a b", "x?y&type=service"]
    )
    assert machine.start("http://netboot/bootstrap") == "reboot"
    assert asked[0].endswith(
        "hostname=x%3Fy%26type%3Dservice&mac=52-54-00-00-00-01&rfs=1%26hfs%3D9&hfs=%23&room=a%20b&type=orga&code="
    )


def test_a_known_switch_says_where_the_machine_is() -> None:
    machine, asked = alien(
        choices=["lldp", "confirm"], typed=["alt-r01p01"], heard=["", "de:ad:be:ef:00:00", "aa:bb:cc:00:00:02"]
    )
    assert machine.start("http://netboot/bootstrap") == "reboot"
    assert "rfs=5&hfs=6&room=alt&type=user" in asked[0]
    assert "Heard de:ad:be:ef:00:00, which is no switch of this hall" in machine.screen


def test_a_machine_with_a_bios_is_not_left_waiting_for_frames_that_its_ipxe_cannot_read() -> None:
    machine, _ = alien(platform="pcbios")
    assert machine.start("http://netboot/bootstrap") == "nobody chooses"
    assert "lldp" not in machine.items
    assert "(Switches are heard by machines that boot with UEFI alone.)" in machine.screen


def test_without_a_switch_it_is_typed_after_a_minute() -> None:
    machine, asked = alien(
        choices=["lldp", "in_0", "user", "confirm"], typed=["1", "1", "p1"], heard=["de:ad:be:ef:00:00"] * 70
    )
    assert machine.start("http://netboot/bootstrap") == "reboot"
    assert len(asked) == 1
    assert 55 <= machine.slept <= 70
    assert machine.screen.count("Heard de:ad:be:ef:00:00, which is no switch of this hall") == 1


def test_a_refusal_leads_back_to_the_summary() -> None:
    machine, asked = alien(
        choices=["hand", "in_1", "user", "confirm", "hand", "in_1", "user", "confirm"],
        typed=["1", "2", "taken", "1", "2", "free"],
    )
    assert machine.start("http://netboot/bootstrap") == "reboot"
    assert [url.partition("hostname=")[2].partition("&")[0] for url in asked] == ["taken", "free"]
    assert "taken is another machine already, choose another name" in machine.screen


def test_a_code_registers_a_known_machine_again_and_keeps_the_rest() -> None:
    machine, asked = alien(choices=["swap", "confirm"], typed=["abcde-fghjk", ""])
    assert machine.start("http://netboot/bootstrap") == "reboot"
    assert asked[0].endswith("hostname=&mac=52-54-00-00-00-01&rfs=&hfs=&room=&type=&code=abcde-fghjk")


def test_a_silent_netboot_is_asked_for_a_minute_and_then_the_machine_starts_again() -> None:
    def fetch(url: str) -> str:
        if url.endswith("/bootstrap"):
            return scripts.bootstrap(PLACE, [], [])
        raise OSError("it does not answer")

    machine = Machine(fetch)
    assert machine.start("http://netboot/bootstrap") == "reboot"
    assert 50 <= machine.slept <= 70


def test_an_unknown_machine_without_a_menu_is_told_what_to_do() -> None:
    machine = Machine(lambda _: scripts.unknown())
    assert machine.start("http://netboot/boot/x") == "reboot"
    assert "mdb does not know this machine" in " ".join(machine.screen)
