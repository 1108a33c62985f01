"""Sockets that the service manager passes and that are none to listen on."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import pytest

from services.common.process import run
from tests.common.service_rig import LAUNCHER, ROOT, base_environment

PROGRAM = """
import os, socket
from services.common.notify import inherited_listeners, inherited_socket
assert inherited_socket(os.environ, "nobody") is None
taken = inherited_socket(os.environ, "datagrams")
print(taken.type == socket.SOCK_DGRAM, taken.recv(9).decode(), os.get_inheritable(taken.fileno()))
print(*(f"{each.name}={each.socket.getsockname()[-8:]}" for each in inherited_listeners(os.environ)))
print(inherited_socket(os.environ, "datagrams"))
"""


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_is_taken_by_its_name_and_the_others_are_left(tmp_path: Path, place: int) -> None:
    with contextlib.ExitStack() as stack:
        sockets, names = [], []
        for name in ("one.sock", "two.sock"):
            made = stack.enter_context(socket.socket(socket.AF_UNIX))
            made.bind(str(tmp_path / name))
            made.listen()
            sockets.append(made)
            names.append(name)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.enter_context(near)
        stack.enter_context(far)
        near.send(b"hello")
        sockets.insert(place, far)
        names.insert(place, "datagrams")
        numbers = [each.fileno() for each in sockets]
        argv = [sys.executable, "-ISc", LAUNCHER, ",".join(map(str, numbers)), sys.executable, "-c", PROGRAM]
        variables = {**base_environment(), "LISTEN_FDS": "3", "LISTEN_FDNAMES": ":".join(names)}
        said = run(argv, cwd=ROOT, env=variables, pass_fds=numbers).stdout.splitlines()
    assert said[0] == "True hello False"
    assert sorted(said[1].split()) == ["one.sock=one.sock", "two.sock=two.sock"]
    assert said[2] == "None"
