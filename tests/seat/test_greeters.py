"""Every way to log in at a seat asks the same: the PAM files of the images, and what their greeters are told."""

from __future__ import annotations

from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "images"
UNITS = IMAGES.parent / "units"
CONSOLE = IMAGES / "nfsroot/mkosi.extra/etc/pam.d"
DESKTOP = IMAGES / "nfsroot-desktop/mkosi.extra"
STACKS = ("backline-seat-auth", "backline-seat-account", "backline-seat-session")


def rules(file: Path) -> list[list[str]]:
    """The rules of a PAM file, as words; an `@include` is one of two."""
    lines = (line.partition("#")[0].split() for line in file.read_text().splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize(
    "file", [CONSOLE / "login", CONSOLE / "sshd", DESKTOP / "etc/pam.d/lightdm"], ids=lambda file: file.name
)
def test_each_way_in_has_the_stacks_of_seats_and_no_other_one(file: Path) -> None:
    included = [line[1] for line in rules(file) if line[0] == "@include"]
    assert included == [*STACKS, "common-password"]
    assert [line[2] for line in rules(file) if line[0] == "auth"] in ([], ["pam_nologin.so"])
    assert all((CONSOLE / name).exists() for name in STACKS)


def test_the_desktop_s_greeter_lets_in_whom_the_console_lets_in() -> None:
    def without_motd(file: Path) -> list[list[str]]:
        return [line for line in rules(file) if "pam_motd.so" not in line]  # it is in the greeter's bar

    assert rules(DESKTOP / "etc/pam.d/lightdm") == without_motd(CONSOLE / "login")


def test_nobody_gets_in_without_a_password() -> None:
    assert {tuple(line[1:]) for line in rules(DESKTOP / "etc/pam.d/lightdm-autologin")} == {
        ("requisite", "pam_deny.so")
    }
    told = (DESKTOP / "usr/share/lightdm/lightdm.conf.d/40-backline.conf").read_text()
    assert "allow-guest=false\n" in told
    assert "autologin" not in told


def test_the_greeter_has_sessions_to_choose_from() -> None:
    told = (DESKTOP / "usr/share/lightdm/lightdm-gtk-greeter.conf.d/40-backline.conf").read_text()
    assert {"~layout", "~session"} <= set(told.partition("indicators=")[2].partition("\n")[0].split(";"))


def test_a_new_message_is_waited_for_on_every_seat() -> None:
    path = (UNITS / "backline-seat-message.path").read_text()
    assert "PathChanged=/var/lib/backline-identity/message/text\n" in path
    preset = (IMAGES / "nfsroot/mkosi.extra/usr/lib/systemd/system-preset/15-backline-nfsroot.preset").read_text()
    assert "enable backline-seat-message.path\n" in preset
