"""A service as a process: activation, readiness, watchdog, stopping, and who is on the other end."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BusyError, Exit, HostError, UsageError
from services.common.process import run
from services.common.serve import TcpAddress, UnixAddress, listening, parse_address
from tests.common.service_rig import DEMO, LAUNCHER, ROOT, Service, activated, base_environment, reachable


def get(service: Service, path: str, *, over: str = "unix") -> Any:
    transport = httpx2.HTTPTransport(uds=str(service.socket) if over == "unix" else None)
    base = "http://localhost" if over == "unix" else service.http
    with httpx2.Client(base_url=base, transport=transport, timeout=15, trust_env=False) as client:
        return client.get(path)


def test_both_activated_sockets_answer_once_ready_was_said(demo: Service) -> None:
    assert get(demo, "/version").status_code == 200
    assert get(demo, "/version", over="tcp").status_code == 200


def test_the_sockets_of_the_service_are_not_offered_to_its_children(demo: Service) -> None:
    assert get(demo, "/v1/whoami").json()["variables"] == {}


def test_activated_tcp_connections_do_not_delay_small_answers(demo: Service) -> None:
    with socket.create_connection(("127.0.0.1", demo.port)) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1000)
        links = list(Path(f"/proc/{demo.process.pid}/fd").iterdir())
        sockets = [link.name for link in links if str(link.readlink()).startswith("socket:")]
        pidfd = os.pidfd_open(demo.process.pid)
        try:
            delays = [nodelay(pidfd, int(name)) for name in sockets]
        finally:
            os.close(pidfd)
    assert True in delays
    assert False not in delays


def nodelay(pidfd: int, number: int) -> bool | None:
    """TCP_NODELAY of a connection in another process (pidfd_getfd(2)); None for any other socket."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    copy = libc.syscall(438, pidfd, number, 0)
    if copy < 0:
        pytest.skip("missing capability: pidfd_getfd (CAP_SYS_PTRACE)")
    with socket.socket(fileno=copy) as connection:
        if connection.family != socket.AF_INET or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_sigterm_is_told_and_ends_with_zero(tmp_path: Path) -> None:
    with activated(tmp_path) as service:
        code = service.stop()
        service.notify.wait_for("STOPPING")
    assert code == 0
    assert "Traceback" not in service.errors.read_text()


def test_names_of_activated_sockets_are_logged(tmp_path: Path) -> None:
    with activated(tmp_path, names="api.socket:lan") as service:
        log = service.errors.read_text()
    assert f"listening on unix:{service.socket} (api.socket)" in log
    assert f"listening on 127.0.0.1:{service.port} (lan)" in log


def begin_slow(service: Service) -> tuple[threading.Thread, list[Any]]:
    """A slow request that the service has begun to serve, and where its answer will be."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(get(service, "/v1/slow"))
        except httpx2.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert service.process.stdout is not None
    assert service.process.stdout.readline() == b"slow began\n"
    return thread, answers


def wait_until_refused(path: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            if connection.connect_ex(str(path)) == errno.ECONNREFUSED:
                return
        assert time.monotonic() < deadline, "it still accepts"


def test_a_running_request_is_finished_before_the_end(tmp_path: Path) -> None:
    with activated(tmp_path) as service:
        thread, answers = begin_slow(service)
        service.process.terminate()
        service.notify.wait_for("STOPPING")
        wait_until_refused(service.socket)
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGUSR1)
        assert service.process.wait(timeout=15) == 0
        thread.join(15)
    assert answers[0].json()["text"] == "slow"


def test_a_stream_is_told_of_the_end_and_ends_well(tmp_path: Path) -> None:
    with activated(tmp_path) as service:
        transport = httpx2.HTTPTransport(uds=str(service.socket))
        with httpx2.Client(base_url="http://localhost", transport=transport, trust_env=False, timeout=15) as client:
            with client.stream("GET", "/v1/stream") as stream:
                lines = stream.iter_lines()
                assert next(lines) == "begin"
                service.process.terminate()
                assert list(lines) == ["end"]
        assert service.process.wait(timeout=15) == 0


def test_a_second_signal_hurries_the_end(tmp_path: Path) -> None:
    with activated(tmp_path) as service:
        thread, _ = begin_slow(service)
        service.process.terminate()
        service.notify.wait_for("STOPPING")
        service.process.terminate()
        assert service.process.wait(timeout=5) == 0
        thread.join(15)


def test_a_request_that_outlasts_the_grace_is_cut_off(tmp_path: Path) -> None:
    with activated(tmp_path, [*DEMO, "--grace", "0"]) as service:
        thread, answers = begin_slow(service)
        assert service.stop() == 0
        thread.join(15)
    assert isinstance(answers[0], httpx2.HTTPError) or answers[0].status_code == 500


def test_the_watchdog_is_fed_while_the_loop_runs(tmp_path: Path) -> None:
    with activated(tmp_path, env={"WATCHDOG_USEC": "200000"}) as service:
        service.notify.wait_for("WATCHDOG")
        service.notify.wait_for("WATCHDOG")


def test_the_watchdog_starves_while_the_loop_is_blocked_and_the_lag_is_measured(tmp_path: Path) -> None:
    with activated(tmp_path, env={"WATCHDOG_USEC": "200000"}) as service:
        thread = threading.Thread(target=get, args=(service, "/v1/block"))
        service.notify.wait_for("WATCHDOG")
        beats = [time.monotonic()]
        thread.start()
        while thread.is_alive() or len(beats) < 2:
            service.notify.wait_for("WATCHDOG")
            beats.append(time.monotonic())
        thread.join()
        text = get(service, "/metrics").text
    line = next(line for line in text.splitlines() if line.startswith("backline_event_loop_lag_seconds "))
    assert max(after - before for before, after in itertools.pairwise(beats)) > 0.5
    assert 0.5 < float(line.split()[1]) < 5


def test_a_watchdog_for_another_process_is_none_of_ours(tmp_path: Path) -> None:
    with activated(tmp_path, env={"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}) as service:
        with pytest.raises(TimeoutError):
            service.notify.wait_for("WATCHDOG", seconds=0.5)


def test_without_activation_it_listens_where_it_is_told(tmp_path: Path) -> None:
    env = {"LISTEN_PID": "1"}
    argv = [*DEMO, "--listen", f"unix:{tmp_path}/own.sock"]
    with activated(tmp_path, ["/usr/bin/env", "LISTEN_PID=1", *argv], env=env) as service:
        assert (tmp_path / "own.sock").is_socket()
        service.socket = tmp_path / "own.sock"
        assert get(service, "/version").status_code == 200
        assert service.stop() == 0
    assert not (tmp_path / "own.sock").exists(), "its socket file is its own to remove"


def test_with_nothing_to_listen_on_it_says_what_to_do() -> None:
    done = run([*DEMO], cwd=ROOT, env=base_environment(), check=False)
    assert done.returncode == Exit.USAGE
    assert "there is nothing to listen on" in done.stderr
    assert "--listen" in done.stderr


def test_what_is_no_listening_socket_is_refused() -> None:
    read, write = os.pipe()
    try:
        argv = [sys.executable, "-ISc", LAUNCHER, str(read), *DEMO]
        done = run(argv, cwd=ROOT, env={**base_environment(), "LISTEN_FDS": "1"}, check=False, pass_fds=[read])
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == Exit.HOST
    assert "file descriptor 3 (unknown) is not a socket" in done.stderr


def test_a_start_that_fails_as_expected_is_one_line_and_a_code(tmp_path: Path) -> None:
    with activated(tmp_path, [*DEMO, "--fail-start", "expected"], ready=False) as service:
        assert service.process.wait(timeout=15) == Exit.INPUT
        log = service.errors.read_text()
    assert "error: demo.toml:3: the settings are wrong" in log
    assert "Traceback" not in log


def test_a_start_that_fails_by_a_bug_is_never_ready(tmp_path: Path) -> None:
    with activated(tmp_path, [*DEMO, "--fail-start", "bug"], ready=False) as service:
        assert service.process.wait(timeout=15) == Exit.HOST
        with pytest.raises(TimeoutError):
            service.notify.wait_for("READY", seconds=0.05)
    assert "RuntimeError: a bug" in service.errors.read_text()


def test_a_client_that_never_finishes_its_headers_is_cut_off(tmp_path: Path) -> None:
    with activated(tmp_path, [*DEMO, "--header-seconds", "0.3"]) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.settimeout(10)
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n")
            trickle = threading.Thread(target=drip, args=(connection,))
            trickle.start()
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100) == b""  # and no TimeoutError
            trickle.join()
        assert get(service, "/version").status_code == 200


def drip(connection: socket.socket) -> None:
    """A header byte now and then, which must not buy time."""
    idle = threading.Event()
    try:
        for _ in range(100):
            connection.sendall(b"x")
            idle.wait(0.02)
    except OSError:
        return


def test_a_flood_over_tcp_leaves_the_unix_socket_alone(tmp_path: Path) -> None:
    with activated(tmp_path, [*DEMO, "--max-tcp", "3"]) as service:
        flood = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(8)]
        try:
            assert get(service, "/version").status_code == 200
            with pytest.raises(httpx2.HTTPError):
                get(service, "/version", over="tcp")
        finally:
            for connection in flood:
                connection.close()
        deadline = time.monotonic() + 10
        while True:  # the service notices the closed ones soon
            try:
                assert get(service, "/version", over="tcp").status_code == 200
                break
            except httpx2.HTTPError:
                assert time.monotonic() < deadline


def test_the_kernel_says_who_is_on_the_unix_socket(demo: Service) -> None:
    peer = get(demo, "/v1/whoami").json()["peer"]
    assert (peer["pid"], peer["uid"], peer["gid"]) == (os.getpid(), os.getuid(), os.getgid())
    assert set(peer["groups"]) == set(os.getgroups())


def test_another_user_is_that_user_with_its_groups(demo: Service) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None or shutil.which("curl") is None:
        pytest.skip("missing capability: root, setpriv and curl, to be another user")
    demo.socket.parent.chmod(0o755)
    reachable(demo.socket)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65533", "--groups=4,190"]
    curl = ["curl", "--silent", "--unix-socket", str(demo.socket), "http://localhost/v1/whoami"]
    done = run([*as_nobody, *curl, "-H", "X-Peer: 0", "-H", "X-Forwarded-For: 127.0.0.1"])
    peer = msgspec.json.decode(done.stdout)["peer"]
    assert (peer["uid"], peer["gid"], peer["groups"]) == (65534, 65533, [4, 190])


def test_over_tcp_nobody_is_known(demo: Service) -> None:
    assert get(demo, "/v1/whoami", over="tcp").json()["peer"] is None


def test_a_stale_socket_file_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening([UnixAddress(path)], mode=0o600):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BusyError), listening([UnixAddress(path)]):
            pass
    assert not path.exists()


def test_a_file_in_the_place_of_a_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(HostError), listening([UnixAddress(path)]):
        pass
    assert path.read_text() == "mine"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with listening([TcpAddress("127.0.0.1", 0)]) as listeners:
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(HostError, match=f"127.0.0.1:{port}"), listening([TcpAddress("127.0.0.1", port)]):
            pass


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x", UnixAddress(Path("/run/x"))),
        ("localhost:80", TcpAddress("localhost", 80)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("[fe80::1%eth0]:65535", TcpAddress("fe80::1%eth0", 65535)),
    ],
)
def test_addresses_are_read(text: str, address: object) -> None:
    assert parse_address(text) == address


@given(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            ["unix:x", "unix:", "::1:80", ":80", "a:", "a:-1", "a:65536", "a:٣", "[a]:1", "unix:/" + "x" * 200]
        ),
    )
)
def test_what_is_no_address_is_refused_in_words(text: str) -> None:
    try:
        address = parse_address(text)
    except UsageError:
        return
    assert isinstance(address, UnixAddress | TcpAddress)
    if isinstance(address, TcpAddress):
        assert 0 <= address.port <= 65535
        assert address.host in text
    else:
        assert address.path.is_absolute()
