"""A journal of our own: a real systemd-journald on a private /run, for the length of one program.

Run as `python -m tests.common.journal_rig PROGRAM...` in its own mount and network namespaces (see `in_journal`): the
host's journal, its audit stream and its sockets are out of sight. PROGRAM's standard error is connected as systemd
connects a service's, and JOURNAL_STREAM says so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.common.process import Completed, run, running, spawn

ROOT = Path(__file__).parents[2]
JOURNALD = Path("/lib/systemd/systemd-journald")
SOCKETS = ("/run/systemd/journal/socket", "/run/systemd/journal/stdout", "/run/systemd/journal/io.systemd.journal")
UNSHARE = ["unshare", "--mount", "--net", "--propagation", "private"]


def in_journal(source: str) -> Completed:
    """Run Python source where there is a journal; skips where there cannot be one."""
    if os.geteuid() != 0 or not JOURNALD.exists() or shutil.which("unshare") is None:
        pytest.skip("missing capability: root and systemd-journald, for a private journal")
    if run([*UNSHARE, "true"], check=False).returncode != 0:
        pytest.skip("missing capability: private mount and network namespaces")
    deadline = time.monotonic() + 20
    return run([*UNSHARE, sys.executable, "-m", "tests.common.journal_rig", source], cwd=ROOT, deadline=deadline)


def main(source: str) -> int:
    run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    if Path("/var/log/journal").is_dir():
        run(["mount", "-t", "tmpfs", "tmpfs", "/var/log/journal"])
    Path("/run/systemd/journal").mkdir(parents=True)
    # What a unit's environment would say about the place that the test itself runs in must not reach journald.
    env = {"PATH": os.environ["PATH"], "SYSTEMD_LOG_TARGET": "null"}
    with running(spawn([JOURNALD], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)):
        deadline = time.monotonic() + 10
        while not all(answers(path) for path in SOCKETS):
            if time.monotonic() > deadline:
                raise TimeoutError("journald did not start")
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect("/run/systemd/journal/stdout")
            # identifier, unit, priority, level prefix, and forwarding, as systemd's connect_logger_as() sends them
            stream.sendall(b"demo\n\n6\n1\n0\n0\n0\n")
            status = os.fstat(stream.fileno())
            env = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            with spawn([sys.executable, "-c", source], env=env, stderr=stream.fileno()) as process:
                return process.wait()


def answers(path: str) -> bool:
    kind = socket.SOCK_DGRAM if path.endswith("/socket") else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, kind) as probe:
        return probe.connect_ex(path) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
