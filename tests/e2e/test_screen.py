"""What a person in front of a machine sees, and types."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from e2e import screen, tampered
from e2e.qemu import keys_of
from e2e.qmp import Qmp


def test_a_screen_is_words_without_colours_and_places() -> None:
    assert (
        screen.words("\x1b[0;1miPXE\x1b[0m -- \x1b[36mhttp\r\n\x1b[4;10H  menu\x1b[7m  entry ")
        == "iPXE -- http menu entry"
    )


@pytest.mark.parametrize(
    ("char", "keys"), [("a", ["a"]), ("7", ["7"]), ("-", ["minus"]), ("\n", ["ret"]), ("A", ["shift", "a"])]
)
def test_a_char_is_typed_as_qemu_calls_its_keys(char: str, keys: list[str]) -> None:
    assert keys_of(char) == keys


def test_a_command_of_qmp_has_its_arguments() -> None:
    ours, its = socket.socketpair()
    with its, its.makefile("rwb", buffering=0) as qemu:
        qmp = Qmp(ours, lambda name, data: None)
        qemu.write(b'{"QMP": {}}\r\n{"return": {}}\r\n{"return": {}}\r\n')
        qmp.execute("send-key", hold_time=5, keys=[])
        assert json.loads(qemu.readline()) == {"execute": "qmp_capabilities"}
        assert json.loads(qemu.readline()) == {"execute": "send-key", "arguments": {"hold-time": 5, "keys": []}}
        its.shutdown(socket.SHUT_RDWR)
        qmp.close()


def test_a_flipped_byte_is_back_after_the_second_time(tmp_path: Path) -> None:
    root = tmp_path / "root.erofs"
    root.write_bytes(bytes(range(64)))
    tampered.flip(root, [3, 60])
    assert [place for place in range(64) if root.read_bytes()[place] != place] == [3, 60]
    tampered.flip(root, [3, 60])
    assert root.read_bytes() == bytes(range(64))
