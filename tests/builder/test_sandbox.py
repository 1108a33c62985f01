"""The sandbox: only what was named is inside, nothing leads out, and nothing outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from builder.sandbox import Environment, Sandbox
from services.common.process import ProcessFailed

pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]

Inside = Callable[..., str]
EPOCH = 1_769_817_600


@pytest.fixture
def inside(tools_tree: Path) -> Inside:
    """Run a shell line in a sandbox that sees nothing but the tools, and return its output."""

    def call(script: str, *, environment: Environment | None = None, **settings: object) -> str:
        env = environment or Environment()
        sandbox = Sandbox(tools=tools_tree, environment=env, **settings)  # type: ignore[arg-type]
        return sandbox.run(["bash", "-c", script], variables=env.variables(EPOCH)).stdout

    return call


# What is visible


def test_the_tools_are_visible(inside: Inside) -> None:
    assert "mkosi" in inside("mkosi --version")


def test_the_tools_cannot_be_written(inside: Inside) -> None:
    assert inside("touch /usr/x /etc/x 2>/dev/null; test -e /usr/x -o -e /etc/x || echo clean") == "clean\n"


def test_the_root_has_nothing_of_the_host(inside: Inside) -> None:
    known = {"bin", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "tmp", "usr", "var"}
    assert set(inside("ls /").split()) <= known


@pytest.mark.parametrize("folder", ["/tmp", "/run", "/root"])
def test_scratch_folders_are_empty(inside: Inside, folder: str) -> None:
    assert inside(f"ls -A {folder}") == ""


def test_a_folder_that_is_named_is_at_its_place(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    assert inside("cat /in/file", read_only={tmp_path: "/in"}) == "hello"


def test_a_read_only_folder_is_one(inside: Inside, tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed):
        inside("touch /in/x", read_only={tmp_path: "/in"})


def test_a_writable_folder_is_one(inside: Inside, tmp_path: Path) -> None:
    inside("echo made > /out/x", writable={tmp_path: "/out"})
    assert (tmp_path / "x").read_text() == "made\n"


def test_a_scratch_folder_is_gone_afterwards(inside: Inside) -> None:
    assert inside("touch /work/x; ls /work", scratch=["/work"]) + inside("ls /work", scratch=["/work"]) == "x\n"


# What is noticeable


def test_the_environment_is_what_was_given(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "leaks")
    names = {line.partition("=")[0] for line in inside("/usr/bin/env").splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == set(Environment().variables(EPOCH))


def test_the_epoch_is_the_locks(inside: Inside) -> None:
    assert inside("echo $SOURCE_DATE_EPOCH") == f"{EPOCH}\n"


@pytest.mark.parametrize("umask", ["022", "077"])
def test_the_umask_is_as_asked(inside: Inside, umask: str) -> None:
    assert inside("umask", environment=Environment(umask=umask)) == f"0{umask}\n"


def test_the_umask_of_the_builder_does_not_count(inside: Inside) -> None:
    umask = os.umask(0o077)
    try:
        assert inside("umask") == "0022\n"
    finally:
        os.umask(umask)


def test_the_host_name_is_as_asked(inside: Inside) -> None:
    assert inside("hostname", environment=Environment(hostname="elsewhere")) == "elsewhere\n"


def test_the_host_keeps_its_own_name(inside: Inside) -> None:
    before = os.uname().nodename
    inside("true", environment=Environment(hostname="elsewhere"))
    assert os.uname().nodename == before


def test_the_number_of_cpus_is_as_asked(inside: Inside) -> None:
    assert inside("nproc", environment=Environment(cpus=1)) == "1\n"


def test_the_time_zone_is_as_asked(inside: Inside) -> None:
    assert inside("date +%z -d @0", environment=Environment(timezone="<+12>-12")) == "+1200\n"


# What leads out


def test_there_is_no_route(inside: Inside) -> None:
    assert inside("cat /proc/net/route | tail -n +2; grep -c : /proc/net/dev") == "1\n"


def test_a_connection_fails_at_once(inside: Inside) -> None:
    with pytest.raises(ProcessFailed) as caught:
        inside("exec 3<>/dev/tcp/192.0.2.1/80")
    assert "Network is unreachable" in caught.value.completed.stderr


def test_loopback_of_the_host_is_not_ours(inside: Inside) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(ProcessFailed):
            inside(f"exec 3<>/dev/tcp/127.0.0.1/{server.getsockname()[1]}")


def test_the_network_is_there_when_asked(inside: Inside) -> None:
    assert inside("cat /proc/net/dev", network=True).count(":") == Path("/proc/net/dev").read_text().count(":")


def test_no_process_of_the_host_is_visible(inside: Inside) -> None:
    pids = {name for name in inside("ls /proc").split() if name.isdigit()}
    assert len(pids) < 6


def test_the_hosts_files_are_not_behind_proc(inside: Inside) -> None:
    assert inside(f"test -e /proc/1/root{Path(__file__).resolve()} || echo no") == "no\n"


# What goes wrong


def test_a_failure_can_be_replayed(inside: Inside) -> None:
    with pytest.raises(ProcessFailed) as caught:
        inside("echo no such thing >&2; exit 3")
    assert "exit code 3" in caught.value.message
    assert "no such thing" in caught.value.message
    assert "unshare" in (caught.value.hint or "")


CHILD = """
import sys
from pathlib import Path
from builder.sandbox import Environment, Sandbox
sandbox = Sandbox(tools=Path(sys.argv[1]))
script = "setsid sleep 987654 & echo $$; exec setsid --wait sleep 987654"
sandbox.run(["bash", "-c", script], variables=Environment().variables(0), stdout=None)
"""


def sleepers(word: str) -> list[int]:
    """Processes of this machine whose last argument is `word`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            argv = (path / "cmdline").read_bytes().split(b"\0")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if argv[:1] == [b"sleep"] and word.encode() in argv and state != "Z":
            found.append(int(path.name))
    return found


def wait_for(condition: Callable[[], bool], *, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_inside_outlives_who_started_it(tools_tree: Path, number: signal.Signals) -> None:
    word = str(900_000_000 + os.getpid())
    argv: Sequence[str | Path] = [sys.executable, "-c", CHILD.replace("987654", word), tools_tree]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        assert wait_for(lambda: len(sleepers(word)) == 2)
        child.send_signal(number)
        child.wait()
        assert wait_for(lambda: sleepers(word) == [])


def test_what_a_program_leaves_running_ends_with_it(inside: Inside) -> None:
    word = str(800_000_000 + os.getpid())
    inside(f"setsid sleep {word} >/dev/null 2>&1 & exit 0")
    assert wait_for(lambda: sleepers(word) == [])


def test_no_mount_is_left_on_the_host(inside: Inside, tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    inside("mount -t tmpfs tmpfs /tmp", writable={tmp_path: "/out"})
    assert Path("/proc/self/mountinfo").read_text() == before
