"""gw's services as processes of this checkout, on a disk, for figures: mdb, netboot and the nginx of the gw image."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket as socketlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import httpx2
from testcontainers.core.container import DockerContainer

from benchmarks.load import ADDRESS
from e2e.containers import Engine
from netboot.client import Netboot
from netboot.schema import NewPointer, NewVersion
from services.common.process import running, spawn

FIRST = int(IPv4Address("10.0.1.1"))
NETWORK = "10.0.0.0/16"
VERSION = "20261121.bf275d18ebe8"
PORT = 8080
MDB = f"""
database = "{{database}}"
domain = "prolo"

[pools.user]
range = "10.0.1.1-10.0.200.254"
network = "{NETWORK}"

[pools.service]
range = "10.0.250.1-10.0.250.254"
network = "{NETWORK}"
"""
NETBOOT = """
database = "sqlite:///{folder}/netboot.db"
mdb = "unix:{folder}/mdb.sock"
memory = "{folder}/netboot-mdb.json"
hall = "bench"
domain = "prolo"
gateways = ["10.0.0.0/16=10.0.255.254"]
hall_toml = "{folder}/hall.toml"
"""
# What nginx on gw does for netboot; and a file of the same size beside it.
NGINX = """\
daemon off;
user www-data;
worker_processes auto;
error_log stderr;
pid /run/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    upstream netboot {{ server unix:{folder}/netboot.sock; keepalive 32; }}
    server {{
        listen {port} backlog=4096;
        # Every machine asks from its own address; here one process asks for all of them.
        set_real_ip_from 0.0.0.0/0;
        real_ip_header {header};
        location /boot/ {{
            proxy_pass http://netboot;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
        location /static/ {{ root {folder}; }}
    }}
}}
"""


def free_port() -> int:
    """A port of this host that nobody listens on."""
    with socketlib.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def address(number: int) -> str:
    """The address of a machine."""
    return str(IPv4Address(FIRST + number))


def mac(number: int) -> str:
    """The MAC address of a machine."""
    return f"52:54:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def hostname(number: int) -> str:
    """The host name of a machine."""
    return f"m{number:05}"


def table(numbers: range, *, addresses: bool = True) -> str:
    """Machines as `backline mdb import` takes them."""
    lines = ["hostname,mac,ip,type,room,rfs,hfs,aliases"]
    for number in numbers:
        ip = address(number) if addresses else ""
        lines.append(f"{hostname(number)},{mac(number)},{ip},user,room{number // 50},1,1,seat-{number}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder on a disk, where a commit costs what it costs."""
    path = Path(tempfile.mkdtemp(prefix="backline-bench-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def allow_files() -> None:
    """As many open files as this process may have; children inherit it, as systemd's LimitNOFILE= does it on gw."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))


def backline(*words: str) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "services.common.main", *words]


def niceness(name: str) -> str:
    """What the unit of a service says of its share of the processors (systemd.exec(5), Nice=)."""
    text = (Path(__file__).parents[1] / "units" / f"backline-{name}.service").read_text()
    return next((line.removeprefix("Nice=") for line in text.splitlines() if line.startswith("Nice=")), "0")


@contextlib.contextmanager
def serving(name: str, text: str, where: Path, *, also: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A service over `where`, with its socket there, and perhaps another address, once it answers."""
    config, socket = where / f"{name}.toml", where / f"{name}.sock"
    config.write_text(text)
    argv = ["nice", "-n", niceness(name)]  # as its unit says
    argv += backline(name, "serve", "--config", str(config), "--listen", f"unix:{socket}")
    argv += ["--listen", also] if also else []
    with (where / f"{name}.log").open("wb") as log, running(spawn(argv, stdout=log, stderr=log)) as process:
        wait_for(socket, process, where / f"{name}.log")
        yield process


def wait_for(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a service answers."""
    deadline = time.monotonic() + 60
    transport = httpx2.HTTPTransport(uds=str(socket))
    with httpx2.Client(transport=transport, base_url="http://localhost", timeout=5) as client:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                client.get("/version")
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{socket.stem} does not start:\n{log.read_text()}")
            time.sleep(0.05)


def mdb(where: Path, database: str = "") -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """mdb over SQLite on the disk, or another database."""
    return serving("mdb", MDB.format(database=database or f"sqlite:///{where}/mdb.db"), where)


def take(where: Path, content: str) -> float:
    """Import machines by the command that administrators use; seconds from its start to its end."""
    file = where / "machines.csv"
    file.write_text(content)
    began = time.monotonic()
    argv = backline("mdb", "import", str(file), "--address", f"unix:{where}/mdb.sock", "--json")
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return time.monotonic() - began


def publish(where: Path) -> None:
    """One version in the channel of all machines, held by the one root file server."""
    with Netboot(f"unix:{where}/netboot.sock") as client:
        client.add_version(NewVersion(version=VERSION, role="nfsroot", root_hash="ab" * 32))
        client.hold(1, VERSION)
        client.switch_channel("stable", NewPointer(version=VERSION, why="benchmark"))


@contextlib.contextmanager
def nginx(podman: Engine, where: Path) -> Iterator[str]:
    """nginx of the gw image before netboot; the address of its port."""
    (where / "nginx.conf").write_text(NGINX.format(folder=where, port=PORT, header=ADDRESS))
    container = DockerContainer(podman.image_of("gw")).with_volume_mapping(str(where), str(where), "rw")
    command = ["sh", "-ec", f"install -d /var/lib/nginx /var/log/nginx; exec nginx -c {where}/nginx.conf"]
    with container.with_command(command) as started:
        base = f"http://{podman.address_of(started).ip}:{PORT}"
        deadline = time.monotonic() + 20
        with httpx2.Client(timeout=5) as client:
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    client.get(f"{base}/static/none")
                    break
                if time.monotonic() > deadline:
                    raise SystemExit(f"nginx does not start:\n{started.get_logs()}")
                time.sleep(0.05)
        yield base


@contextlib.contextmanager
def load(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Clients that run beside us; their lines are JSON."""
    argv = [sys.executable, "-m", "benchmarks.load", *words]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def told(process: subprocess.Popen[str]) -> dict[str, float]:
    """The next line of clients."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the clients have ended, see above")
    found: dict[str, float] = json.loads(line)
    return found


def memory(process: subprocess.Popen[bytes]) -> int:
    """Bytes that only this process has in memory, and its share of what others have as well (proc(5), Pss)."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:"))) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def urls(base: str, numbers: Sequence[int], where: Path) -> str:
    """A file with the question of each machine, and a word that only its own script has."""
    file = where / "urls"
    lines = [f"{base}/boot/{mac(number)} systemd.hostname={hostname(number)} {address(number)}" for number in numbers]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def processors() -> int:
    """How many CPUs we may use."""
    return len(os.sched_getaffinity(0))
