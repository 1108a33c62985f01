"""Single real servers as containers: testcontainers on podman's socket, on images that are our own trees.

    with engine() as podman, KeaContainer(podman.image_of("gw")) as kea:
        kea.command("config-get")

The engine lives in a sandbox like a lab's (`e2e.sandbox`): its containers, storage, networks and cgroups go with it,
even by kill -9. An image costs nothing: it is a layer whose folder is a link to the mounted tree of the version.

For the block the calling thread, and every thread and program that it starts, is in the engine's network, so that the
ports that testcontainers knows (127.0.0.1 and a mapped port) and the addresses of the containers are reached as usual;
what is outside is not. Nothing is ever pulled.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import httpx2
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer

from builder import settings as builder_settings
from builder.settings import Settings
from e2e import cgroups
from e2e.lab import Lab
from e2e.roots import Roots
from e2e.sandbox import Sandbox, entered_network
from e2e.topology import mac_of
from services.common import process
from services.common.errors import HostError, MissingError
from services.common.versions import Ref

HOME = "/run/lab/engine"
"""Where the engine keeps everything, as a path of its sandbox."""
NETWORK = IPv4Network("10.88.0.0/16")
"""The containers' own network; its first host is the engine, which is where the block's thread is."""
# Raising a limit fails without CAP_SYS_RESOURCE, and podman raises these by default. From podman 5 on, ping needs to be
# allowed, and a container that does not answer SIGTERM is waited for, 10 s by default, even if it is removed by force.
CONFIGURATION = f"""\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
default_sysctls = ["net.ipv4.ping_group_range=0 0"]
pids_limit = 0
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
image_copy_tmp_dir = "{HOME}/tmp"
stop_timeout = 0

[network]
network_backend = "netavark"
network_config_dir = "{HOME}/networks"
default_subnet = "{NETWORK}"
"""
ENVIRONMENT = {"CONTAINERS_CONF": f"{HOME}/containers.conf", "TMPDIR": f"{HOME}/tmp", "HOME": HOME}
SERVICE = (
    "podman",
    f"--root={HOME}/storage",
    f"--runroot={HOME}/run",
    "--storage-driver=overlay",
    "--runtime=runc",
    "system",
    "service",
    "--time=0",
)
# The socket is ours and listens before podman runs (sd_listen_fds(3)): the first answer is the readiness.
_ACTIVATED = 'exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
# As root, podman keeps a cache of blobs in /var/lib/containers, whatever its storage; it does without where it cannot.
_PROTECT = "mount --rbind /var/lib /var/lib && mount -o remount,bind,ro /var/lib"
LIBPOD = "http://podman/v4.0.0/libpod/"
SECONDS = 30.0
LOOK = 0.05
_numbers = itertools.count()


class Engine:
    """A podman that runs; made by `engine`."""

    def __init__(self, sandbox: Sandbox, roots: Roots) -> None:
        self.sandbox = sandbox
        self.roots = roots
        self.folder = sandbox.root / HOME.lstrip("/")
        """`HOME` as this process sees it."""
        self.socket = self.folder / "socket"
        self._images: dict[Ref, str] = {}
        self._joined: dict[str, int] = {}

    def image_of(self, role: str, version: str = "") -> str:
        """The name of an image with the tree of a version (the newest when none is given), for DockerContainer.

        Nothing is copied: the image's one layer is the tree as the store has it, and a container's root an overlay on
        it. It has no command of its own. Raises MissingError("lan.version").
        """
        ref = self.roots.find(role, version)
        if ref not in self._images:
            name = f"localhost/{ref.role}:{ref.version}"
            mounted = self.roots.mount(ref)
            self.ask("POST", "images/import", content=_nearly_empty(str(ref)), params={"reference": name})
            layer = self.ask("GET", f"images/{name}/json")["GraphDriver"]["Data"]["UpperDir"]
            # No mount: whenever one of podman's programs ends, it unmounts what is below its storage.
            self.sandbox.run(["sh", "-ec", 'rm -r "$2" && ln -s "$1" "$2"', "sh", mounted.lower, layer])
            self._images[ref] = name
        return self._images[ref]

    def ask(self, method: str, path: str, **how: Any) -> Any:
        """An answer of podman's own interface (libpod), for what Docker's cannot do; `how` as in httpx2.request.

        Raises HostError("containers.engine").
        """
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        with httpx2.Client(transport=transport, base_url=LIBPOD, timeout=SECONDS) as client:
            answer = client.request(method, path, **how)
        if answer.is_error:
            raise HostError("containers.engine", f"podman: {method} {path}: {answer.text.strip()}")
        return answer.json()

    def path(self, container: DockerContainer, path: str) -> Path:
        """A path of a running container as this process can open it, for sockets; absolute links lead elsewhere."""
        return self.sandbox.root / f"proc/{_pid(container)}/root" / path.lstrip("/")

    def network_of(self, container: DockerContainer) -> Path:
        """The network namespace of a running container, as a path for setns(2) and ip-link(8)."""
        return self.sandbox.root / f"proc/{_pid(container)}/ns/net"

    def address_of(self, container: DockerContainer) -> IPv4Interface:
        """The address of a running container in the engine's network."""
        argv = ["nsenter", f"--net={self.network_of(container)}", "--", "ip", "--json", "-4", "address", "show", "eth0"]
        found = json.loads(process.run(argv).stdout)[0]["addr_info"][0]
        return IPv4Interface(f"{found['local']}/{found['prefixlen']}")

    @contextlib.contextmanager
    def join(
        self, container: DockerContainer, lab: Lab, segment: str, address: IPv4Interface | str
    ) -> Iterator[IPv4Interface]:
        """Plug a running container into a switch of a lab for a block, with this address on a card of its own.

        Raises MissingError("lan.segment"), ProcessFailed.
        """
        bridge = lab.network.plan.bridges.get(segment)
        if bridge is None:
            hint = f"there are: {', '.join(lab.network.plan.bridges)}"
            raise MissingError("lan.segment", f"no segment {segment!r} in this lab", hint=hint)
        interface = IPv4Interface(address)
        name = container.get_wrapped_container().short_id
        number = self._joined[name] = self._joined.get(name, -1) + 1
        port, card = f"c{name[:9]}-{number}", f"lan{number}"
        inside = self.network_of(container)
        switch = f"--net=/proc/{lab.sandbox.pid}/ns/net"
        # The same address has the same card every time, so that what neighbours remember of it stays true.
        mac = mac_of(f"{segment}/{interface.ip}", 0)
        plug = f"link add {port} type veth peer name {card} address {mac} netns {inside}\n"
        plug += f"link set {port} master {bridge} up\n"
        process.run(["nsenter", switch, "--", "ip", "-batch", "-"], stdin=plug)
        lab.journal.note("step", f"container {name} joins {segment} as {interface}")
        try:
            raise_it = f"address add {interface} dev {card}\nlink set {card} up\n"
            process.run(["nsenter", f"--net={inside}", "--", "ip", "-batch", "-"], stdin=raise_it)
            yield interface
        finally:
            # The card went with the container, or the port with the lab, if either ended in the block.
            process.run(["nsenter", switch, "--", "ip", "link", "delete", port], check=False)


@contextlib.contextmanager
def engine(*, settings: Settings | None = None) -> Iterator[Engine]:
    """Run podman for a block, and let testcontainers use it; `settings` say where the store is.

    Raises HostError: `lan.root`, `lan.namespaces`, `process.missing` without podman, `containers.engine`.
    """
    with Sandbox(f"engine-{os.getpid()}-{next(_numbers)}") as sandbox:
        podman = Engine(sandbox, Roots(sandbox, settings or builder_settings.load()))
        with _service(podman), entered_network(Path(f"/proc/{sandbox.pid}/ns/net")), _configured(podman.socket):
            yield podman


@contextlib.contextmanager
def _service(podman: Engine) -> Iterator[None]:
    """Podman's service, in a cgroup of the sandbox; it answers when the block begins."""
    sandbox = podman.sandbox
    for folder in ("networks", "tmp"):
        (podman.folder / folder).mkdir(parents=True)
    (podman.folder / "containers.conf").write_text(CONFIGURATION)
    sandbox.run(["sh", "-ec", _PROTECT])
    sandbox.make_cgroup("engine")
    log = podman.folder / "log"
    with log.open("wb") as output, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(podman.socket))
        listener.listen(64)
        argv = ["sh", "-c", _ACTIVATED, "sh", *SERVICE]
        running = sandbox.spawn(
            argv, cgroup="engine", env=ENVIRONMENT, stdin=listener.fileno(), stdout=output, stderr=output
        )
    try:
        _ping(podman.socket, running, log)
        yield
    finally:
        # Not nsenter(1) before it: the orphan would be the host's init's, which may take its time to reap it, and until
        # then the sandbox cannot end (pid_namespaces(7)).
        cgroups.kill(sandbox.cgroup / "engine")
        running.wait()


def _ping(path: Path, running: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the service's first answer. Raises HostError("containers.engine") with the end of its log."""
    said = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        client.sendall(b"GET /_ping HTTP/1.0\r\nHost: podman\r\n\r\n")
        said = client.recv(4096)
    if b" 200 " not in said:
        state = "does not answer" if running.poll() is None else process.explain_exit(running.returncode)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise HostError("containers.engine", f"podman {state}\n{tail}", hint="`backline lan probe`")


@contextlib.contextmanager
def _configured(path: Path) -> Iterator[None]:
    """testcontainers as we want it, whatever the user's own settings: no reaper, this socket, mapped ports."""
    variables = {"DOCKER_HOST": f"unix://{path}", "TESTCONTAINERS_RYUK_DISABLED": "true"}
    # It reads the environment once, when it is imported, so its settings are set as well.
    values = {
        "_ryuk_disabled": True,
        "tc_properties": {},
        "tc_host_override": "127.0.0.1",
        "connection_mode_override": ConnectionMode.docker_host,
        "hub_image_name_prefix": "",
        "sleep_time": LOOK,
        "max_tries": int(SECONDS / LOOK),
    }
    before = {name: os.environ.get(name) for name in variables}
    had = {name: getattr(testcontainers_config, name) for name in values}
    os.environ.update(variables)
    for name, value in values.items():
        setattr(testcontainers_config, name, value)
    try:
        yield
    finally:
        for name, value in had.items():
            setattr(testcontainers_config, name, value)
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


def _pid(container: DockerContainer) -> int:
    """The process id of a container's first process inside the sandbox. Raises HostError("containers.off")."""
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    pid = int(wrapped.attrs["State"]["Pid"])
    if pid == 0:
        raise HostError("containers.off", f"the container {wrapped.short_id} is not running")
    return pid


def _nearly_empty(word: str) -> bytes:
    """A tar with one name in it: layers of the same bytes would be one layer, with one tree."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(word.replace("/", "-")))
    return data.getvalue()
