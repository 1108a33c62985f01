"""Debian's own servers as containers on our images, one class each: Kea, BIND, PostgreSQL, sshd, nginx.

Each is testcontainers' DockerContainer: `with KeaContainer(podman.image_of("gw"), ...) as kea:` begins when the server
answers. What they get as configuration is complete, nothing of the image's own is read; what they write goes with them.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, Self

from testcontainers.core.container import DockerContainer, ExecConfig
from testcontainers.core.wait_strategies import (
    CompositeWaitStrategy,
    ExecWaitStrategy,
    LogMessageWaitStrategy,
    PortWaitStrategy,
)

from services.common.errors import HostError
from services.hall import edge

KEA_FILE = "/etc/kea/backline.conf"
KEA_SOCKET = "/run/kea/kea4-ctrl-socket"
KEA_STATE = "/var/lib/backline-dhcp"
_KEA = f"install -d -m 0750 /run/kea /var/lib/kea && exec kea-dhcp4 -c {KEA_FILE}"
_ASK_KEA = """
import socket, sys
with socket.socket(socket.AF_UNIX) as kea:
    kea.connect(sys.argv[1])
    kea.sendall(sys.argv[2].encode())
    kea.shutdown(socket.SHUT_WR)
    while piece := kea.recv(65536):
        sys.stdout.buffer.write(piece)
"""
BIND_FILE = "/etc/bind/backline.conf"
_BIND = f"install -d -o bind -g bind /run/named && exec named -g -u bind -c {BIND_FILE}"
_BIND_OPTIONS = """\
options {
    directory "/var/cache/bind";
    listen-on { any; };
    listen-on-v6 { none; };
    recursion no;
    dnssec-validation no;
};
controls { };
"""
NGINX_FILE = "/etc/nginx/backline.conf"
_NGINX = f"""\
install -d /run/nginx /var/lib/nginx
exec nginx -e stderr -c {NGINX_FILE} -g 'daemon off; user www-data;'
"""
_EXTRA = Path(__file__).parents[1] / "images/gw/mkosi.extra"
PASSWORD_FILE = "/etc/postgresql/backline-password"
AUTHORIZED_KEYS = "/etc/ssh/backline-keys"
_SSHD = f"""\
install -d -m 0755 /run/sshd
ssh-keygen -q -t ed25519 -N "" -f /run/sshd/host_key
exec /usr/sbin/sshd -D -e -f /dev/null -h /run/sshd/host_key -o AuthorizedKeysFile={AUTHORIZED_KEYS} \\
    -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no -o StrictModes=no -o ListenAddress=0.0.0.0
"""
_POSTGRES = f"""\
install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
install -d -o postgres -g postgres -m 0755 /run/postgresql
bin=$(echo /usr/lib/postgresql/*/bin)
as="setpriv --reuid=postgres --regid=postgres --init-groups --"
$as "$bin/initdb" --pgdata=/var/lib/postgresql/data --username=postgres --pwfile={PASSWORD_FILE} --no-sync \\
    --auth-local=peer --auth-host=scram-sha-256 --locale=C.UTF-8
echo "host all all all scram-sha-256" >>/var/lib/postgresql/data/pg_hba.conf
exec $as "$bin/postgres" -D /var/lib/postgresql/data -c listen_addresses=* -c fsync=off \\
    -c unix_socket_directories=/run/postgresql
"""


class _Server(DockerContainer):
    """A container with files of the host's, read-only.

    Not with_copy_into_container: podman's PUT of an archive ends in "broken pipe" now and then, as its reader does not
    wait for the padding of a tar (containers/buildah issue 6573).
    """

    def __init__(self, image: str, *, ports: list[int] | None = None) -> None:
        super().__init__(image, ports=ports)
        self._folder = tempfile.TemporaryDirectory(prefix="backline-server-")

    def with_file(self, path: str, text: str) -> None:
        """Let the server find a file, which everybody in its container may read."""
        source = Path(self._folder.name) / str(len(self.volumes))
        source.write_text(text)
        source.chmod(0o644)
        self.with_volume_mapping(source, path, "ro")

    def start(self) -> Self:
        """Start it, and wait until it answers. What testcontainers raises leaves no files behind."""
        try:
            return super().start()
        except BaseException:
            self._folder.cleanup()
            raise

    def stop(self, *args: Any, **kwargs: Any) -> None:
        """End it and forget its files."""
        super().stop(*args, **kwargs)
        self._folder.cleanup()


class KeaContainer(_Server):
    """kea-dhcp4 with a control socket.

    `configuration` is what stands under `Dhcp4`; what is absent there is added: the interface, UDP sockets (which hear
    relays; raw ones need another capability), leases in memory, a log on standard output.
    """

    def __init__(self, image: str, configuration: Mapping[str, object]) -> None:
        super().__init__(image)
        whole = {
            "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "udp"},
            "lease-database": {"type": "memfile", "persist": False},
            "loggers": [{"name": "kea-dhcp4", "output-options": [{"output": "stdout"}], "severity": "INFO"}],
            **configuration,
            "control-socket": {"socket-type": "unix", "socket-name": KEA_SOCKET},
        }
        self.with_command(["sh", "-ec", _KEA])
        self.with_file(KEA_FILE, json.dumps({"Dhcp4": whole}))
        self.waiting_for(LogMessageWaitStrategy("DHCP4_STARTED"))

    def command(self, name: str, arguments: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Kea's answer to a command on the control socket: `result` (0 is success), `text`, `arguments`."""
        asked = {"command": name, **({"arguments": arguments} if arguments is not None else {})}
        answer: dict[str, Any] = json.loads(_run(self, ["python3", "-c", _ASK_KEA, KEA_SOCKET, json.dumps(asked)]))
        return answer


class GatewayKea(_Server):
    """kea-dhcp4 as gw starts it: with the configuration that `state`, a folder of the host's, has in force.

    Its card, eth0, has gw's `addresses` besides that of the engine's network, and raw sockets on it hear clients that
    have none yet. Leases are kept in `leases`, another folder, so the next one knows them.
    """

    def __init__(self, image: str, *, state: Path, leases: Path, addresses: Sequence[IPv4Interface]) -> None:
        super().__init__(image)
        self.with_kwargs(cap_add=["NET_ADMIN", "NET_RAW"])
        self.with_volume_mapping(state, KEA_STATE, "rw")
        self.with_volume_mapping(leases, "/var/lib/kea", "rw")
        plug = "".join(f"ip address add {address} dev eth0\n" for address in addresses)
        start = f"install -d -m 0750 /run/kea && exec kea-dhcp4 -c {KEA_STATE}/current/kea-dhcp4.json"
        self.with_command(["sh", "-ec", plug + start])
        self.waiting_for(ExecWaitStrategy(["python3", "-c", _ASK_KEA, KEA_SOCKET, '{"command":"status-get"}']))

    def test(self, configuration: bytes) -> str | None:
        """Why `kea-dhcp4 -t` refuses a configuration, or None."""
        shown = f"{KEA_STATE}/.test.json"
        (Path(next(iter(self.volumes))) / ".test.json").write_bytes(configuration)
        done = self.exec(ExecConfig(["env", "KEA_LOCKFILE_DIR=none", "kea-dhcp4", "-t", shown]))
        said = done.output.decode(errors="replace").strip().splitlines()
        return None if done.exit_code == 0 else said[-1] if said else "no reason given"


class BindContainer(_Server):
    """named, primary for `zones` (name → zone file); it answers on port 53, UDP and TCP."""

    def __init__(self, image: str, zones: Mapping[str, str]) -> None:
        super().__init__(image, ports=[53])
        text = _BIND_OPTIONS
        for number, (name, zone) in enumerate(zones.items()):
            file = f"/etc/bind/zone-{number}"
            text += f'zone "{name}" {{ type primary; file "{file}"; }};\n'
            self.with_file(file, zone)
        self.with_file(BIND_FILE, text)
        self.with_command(["sh", "-ec", _BIND])
        self.waiting_for(CompositeWaitStrategy(LogMessageWaitStrategy(r"running$"), PortWaitStrategy(53)))

    def resolve(self, name: str, kind: str = "A") -> list[str]:
        """The records that it answers with, as dig(1) prints them."""
        return _run(self, ["dig", "+short", "+tries=1", "@127.0.0.1", name, kind]).splitlines()


class PostgresContainer(_Server):
    """PostgreSQL with one superuser, `postgres`, with a new password each time; what it stores goes with it."""

    def __init__(self, image: str) -> None:
        super().__init__(image, ports=[5432])
        self.password = secrets.token_hex(16)
        self.with_file(PASSWORD_FILE, f"{self.password}\n")
        self.with_command(["sh", "-ec", _POSTGRES])
        ready = ExecWaitStrategy(["pg_isready", "--quiet", "--host=127.0.0.1"])
        self.waiting_for(CompositeWaitStrategy(LogMessageWaitStrategy("ready to accept connections"), ready))

    def query(self, sql: str) -> str:
        """What psql(1) of the image prints for a statement: rows of unaligned columns."""
        argv = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "-c", sql]
        return _run(self, argv, user="postgres")

    def get_connection_url(self, driver: str = "") -> str:
        """A URL for SQLAlchemy or libpq, through the mapped port."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        where = f"{self.get_container_host_ip()}:{self.get_exposed_port(5432)}"
        return f"{scheme}://postgres:{self.password}@{where}/postgres"


class SshContainer(_Server):
    """sshd, in which the owners of `keys` (lines of authorized_keys) are root. `host_key` is its public host key."""

    def __init__(self, image: str, *, keys: list[str]) -> None:
        super().__init__(image)
        self.with_file(AUTHORIZED_KEYS, "".join(f"{key}\n" for key in keys))
        self.with_command(["sh", "-ec", _SSHD])
        self.waiting_for(LogMessageWaitStrategy("Server listening on 0.0.0.0"))

    @property
    def host_key(self) -> str:
        """Kind and key, without a comment."""
        return " ".join(_run(self, ["cat", "/run/sshd/host_key.pub"]).split()[:2])

    @property
    def address(self) -> str:
        """Its own address, where it listens on port 22."""
        container = self.get_wrapped_container()
        container.reload()  # what is known from its start may be from before it had one
        return str(container.attrs["NetworkSettings"]["IPAddress"])


class NginxContainer(_Server):
    """nginx as the edge of gw, with the servers that `backline hall` renders.

    `run` is a folder of this host that it has as /run/backline: the hall's ca.pem, and the sockets of services, which
    see an ordinary process of nginx's user. It answers on ports 80 and, with a `certificate` (and key), 443.
    """

    def __init__(self, image: str, servers: str, run: Path, *, certificate: bytes) -> None:
        super().__init__(image, ports=[80, 443])
        self.with_file(NGINX_FILE, (_EXTRA / NGINX_FILE.lstrip("/")).read_text())
        # Writable: the image's /etc/hosts is a link into it, and podman puts one there.
        self.with_volume_mapping(str(run), "/run/backline", "rw")
        (run / "nginx.d").mkdir(exist_ok=True)
        (run / "nginx.d/50-hall.conf").write_text(servers)
        self.with_file(edge.CERTIFICATE, certificate.decode())
        self.with_command(["sh", "-ec", _NGINX])
        self.waiting_for(CompositeWaitStrategy(PortWaitStrategy(80), PortWaitStrategy(443)))


def _run(container: DockerContainer, argv: list[str], *, user: str | None = None) -> str:
    """What a program in a container prints, without its last newline. Raises HostError("containers.command")."""
    done = container.exec(ExecConfig(argv, user=user))
    text = done.output.decode(errors="replace").rstrip("\n")
    if done.exit_code != 0:
        raise HostError("containers.command", f"`{argv[0]}` ended with exit code {done.exit_code}: {text}")
    return text
