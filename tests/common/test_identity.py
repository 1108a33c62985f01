"""A host learns its role and version from whoever starts it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.identity import ImageIdentity, command_line, read_identity

SEAT = "BOOT_IMAGE=/vmlinuz quiet backline.role=nfsroot backline.version=20260101.0123456789ab ro"
NONE = ImageIdentity()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "run/systemd").mkdir(parents=True)
    (tmp_path / "credentials").mkdir()
    return tmp_path


def credentials(root: Path, **values: str) -> dict[str, str]:
    for name, value in values.items():
        (root / f"credentials/backline.{name}").write_text(value)
    return {"CREDENTIALS_DIRECTORY": str(root / "credentials")}


def test_nobody_said_anything(root: Path) -> None:
    assert read_identity({}, root=root) == NONE
    assert not NONE.configured


def test_a_seat_learns_from_the_kernel_command_line(root: Path) -> None:
    (root / "proc/cmdline").write_text(SEAT + "\n")
    found = read_identity({}, root=root)
    assert (found.role, found.version, found.configured) == ("nfsroot", "20260101.0123456789ab", True)


def test_a_credential_wins_over_the_command_line(root: Path) -> None:
    (root / "proc/cmdline").write_text(SEAT)
    found = read_identity(credentials(root, role="gw\n", version="20260202.aaaaaaaaaaaa"), root=root)
    assert found == ImageIdentity("gw", "20260202.aaaaaaaaaaaa")


def test_a_container_does_not_believe_the_command_line_of_its_host(root: Path) -> None:
    (root / "proc/cmdline").write_text(SEAT)
    (root / "run/systemd/container").write_text("systemd-nspawn")
    assert read_identity({}, root=root) == NONE


def test_a_role_without_a_version_is_unconfigured(root: Path) -> None:
    found = read_identity(credentials(root, role="gw"), root=root)
    assert (found.role, found.version, found.configured) == ("gw", None, False)


@pytest.mark.parametrize("value", ["", " ", "a b", "a\nb", "../x", "-x", "é", "x" * 129, "\x1b[31m"])
def test_what_is_malformed_is_unknown(root: Path, value: str) -> None:
    assert read_identity(credentials(root, role=value), root=root) == NONE


@given(st.text(max_size=60))
def test_any_command_line_can_be_read(text: str) -> None:
    for key, value in command_line(text).items():
        assert "=" not in key
        assert '"' not in key + value


def test_quotes_keep_a_word_together_and_the_last_of_a_key_wins() -> None:
    assert command_line('a=1 b="x y" "c=d e" a=2 flag') == {"a": "2", "b": "x y", "c": "d e"}
