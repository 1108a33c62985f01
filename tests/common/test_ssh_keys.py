"""What is taken for an SSH public key."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.ssh_keys import check_ssh_key, fingerprint
from tests.hall.halls import KEY


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="missing capability: ssh-keygen")
@pytest.mark.parametrize(
    "options", [("ed25519",), ("ecdsa", "-b", "256"), ("ecdsa", "-b", "521"), ("rsa", "-b", "2048")]
)
def test_keys_that_ssh_keygen_makes_are_keys(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", "a b", "-t", *options, "-f", path], check=True)
    line = path.with_name("key.pub").read_text()
    assert check_ssh_key(line) == line.strip()


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "rsa", "-b", "1024", "-f", path], check=True)
    with pytest.raises(ValueError, match="1024 bits"):
        check_ssh_key(path.with_name("key.pub").read_text())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "nothing"),
        ("ssh-ed25519", "nothing after"),
        ("ssh-dss AAAA", "begins with 'ssh-dss'"),
        ('command="sh" ' + KEY, "begins with"),
        (KEY[:-4], "not base64|cut off"),
        (KEY.replace("ssh-ed25519 ", "ssh-rsa "), "not a key of type ssh-rsa"),
        (f"{KEY}\n{KEY}", "more than one line"),
    ],
)
def test_what_is_no_key_is_refused_with_a_reason(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_ssh_key(line)


@given(st.text(), st.binary())
def test_any_text_is_a_key_or_a_value_error(comment: str, noise: bytes) -> None:
    for line in (comment, f"{KEY} {comment}", f"ssh-ed25519 {noise.hex()}"):
        try:
            checked = check_ssh_key(line)
        except ValueError:
            continue
        assert checked.isprintable()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="missing capability: ssh-keygen")
def test_a_fingerprint_is_what_ssh_keygen_prints(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_text(KEY + "\n")
    said = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True).stdout
    assert fingerprint(check_ssh_key(KEY)) in said.split()
