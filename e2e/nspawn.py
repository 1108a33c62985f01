"""The back end for containers: systemd-nspawn, one recipe, with and without systemd on the host.

nspawn runs inside the lab's namespaces, in a cgroup of the node's, on a root that `roots` mounted, in a network
namespace that `network` made. It tells on a socket of ours when init is there and when the node's default target is
reached; the node's journal comes over another. No output is parsed and nothing is polled. Never killed alone: init
would live on without it, so it is the cgroup that is killed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from e2e import cgroups
from e2e.backend import Ended, Listener, Order
from e2e.keeper import remove_cgroup
from e2e.reactor import Reactor
from e2e.roots import Roots
from e2e.sandbox import Sandbox
from services.common.errors import HostError

REBOOT = 133
"""nspawn's exit code when the container asked to restart (systemd-nspawn(1), --keep-unit)."""
IO = "/run/backline-lab"
"""Where a node sees the lab's sockets."""
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")
_SYSFS = 'mount -t sysfs -o ro sysfs /sys; mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec "$@"'
_DIE = ("setpriv", "--pdeathsig", "KILL", "--")


class NspawnBackend:
    """Implements `backend.Backend`."""

    name = "nspawn"

    def __init__(self, sandbox: Sandbox, roots: Roots, reactor: Reactor) -> None:
        self.sandbox = sandbox
        self.roots = roots
        self.reactor = reactor

    def start(self, order: Order, listener: Listener) -> NspawnRun:
        """Start a container."""
        return NspawnRun(self, order, listener)


class NspawnRun:
    """One container. Implements `backend.Run`."""

    def __init__(self, backend: NspawnBackend, order: Order, listener: Listener) -> None:
        assert order.root is not None
        self.backend = backend
        self.sandbox = backend.sandbox
        self.listener = listener
        self.name = order.name
        self.leader: int | None = None
        self.home = f"/run/lab/n/{order.index}"
        self.outside = self.sandbox.lab / "n" / str(order.index)
        self._close: list[Callable[[], None]] = []
        self._ready = False
        self._expected: Ended | None = None
        self._ended = threading.Event()
        self.cgroup = self.sandbox.make_cgroup(order.name)
        root = self._prepare(order)
        credentials = {"journal.forward_to_socket": f"{IO}/journal".encode(), **order.credentials}
        argv = self._argv(order, root, self._write(credentials))
        (self.outside / "console").unlink(missing_ok=True)
        with (self.outside / "console").open("wb") as console:
            self.process = self.sandbox.spawn(
                argv,
                cgroup=order.name,
                env={"NOTIFY_SOCKET": f"{self.home}/notify", "SYSTEMD_LOG_LEVEL": "warning"},
                stdout=console,
                stderr=console,
            )
        threading.Thread(target=self._wait, name=f"exit of {self.name}", daemon=True).start()

    def _prepare(self, order: Order) -> str:
        """Folders, sockets and the root."""
        io = self.outside / "io"
        io.mkdir(parents=True, exist_ok=True)
        for stale in (io / "journal", self.outside / "notify"):
            stale.unlink(missing_ok=True)
        self._close.append(self.backend.reactor.datagrams(self.outside / "notify", self._notified))
        self._close.append(self.backend.reactor.streams(io / "journal", self.listener.entry))
        assert order.root is not None
        return self.backend.roots.overlay(order.root, self.home)

    def _write(self, credentials: dict[str, bytes]) -> list[str]:
        """Put credentials where nspawn reads them, never on its command line; returns its options."""
        folder = self.outside / "credentials"
        folder.mkdir(mode=0o700, exist_ok=True)
        options = []
        for name, data in credentials.items():
            with open(folder / name, "wb", opener=_private) as file:
                file.write(data)
            options.append(f"--load-credential={name}:{self.home}/credentials/{name}")
        return options

    def _argv(self, order: Order, root: str, credentials: list[str]) -> list[str]:
        # nspawn moves a card out of the network that it finds itself in, and asks the /sys of that network about it;
        # one that is read-only tells it that there is no udev to wait for.
        before = []
        if order.cables:
            before = ["nsenter", f"--net=/run/netns/{order.name}", "unshare", "--mount", "sh", "-ec", _SYSFS, "sh"]
        own_disk = any(not source.startswith("ro:") for source in order.binds.values())
        argv = [
            *before,
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            f"--machine={order.name}",
            f"--directory={root}",
            "--private-network",
            *(f"--network-interface=host{cable.index}" for cable in order.cables),
            "--notify-ready=yes",
            "--link-journal=no",
            "--timezone=off",
            "--resolv-conf=off",
            "--settings=no",
            "--console=pipe",
            # A node's root is in memory, so syncing it is a waste of time; a disk of its own (e2e.power) is to be one.
            f"--suppress-sync={'no' if own_disk else 'yes'}",
            # What nfs-ganesha opens its exports with (without it every client gets NFS4ERR_PERM).
            "--system-call-filter=open_by_handle_at",
            f"--bind={self.home}/io:{IO}",
            *credentials,
        ]
        for inside, source in order.binds.items():
            way = "--bind-ro" if source.startswith("ro:") else "--bind"
            argv.append(f"{way}={source.removeprefix('ro:')}:{inside}")
        return [*argv, "--boot", *order.words]

    def _notified(self, text: str) -> None:
        for line in text.splitlines():
            key, _, value = line.partition("=")
            if key == "X_NSPAWN_LEADER_PID" and value.isdecimal():
                self.leader = int(value)
                self.listener.entry({"MESSAGE": f"powered on, init is process {value}", "BACKLINE_KIND": "notify"})
            elif key == "READY" and value == "1" and not self._ready:
                self._ready = True
                self.listener.ready()

    def _wait(self) -> None:
        """Watch the exit, clean up, tell."""
        code = self.process.wait()
        cgroups.kill(self.cgroup)
        # Removed, not only emptied: on Linux 6.18, what systemd forks into a cgroup below one that was killed once is
        # killed too (cgroup.kill counts, and the count outlives the processes).
        remove_cgroup(str(self.cgroup))
        for close in self._close:
            with contextlib.suppress(Exception):
                close()
        self.listener.ended(*self._how(code))
        self._ended.set()
        self.listener.over()

    def _how(self, code: int) -> tuple[Ended, str]:
        if self._expected is Ended.KILLED:
            return Ended.KILLED, "power was cut"
        if code == REBOOT:
            return Ended.REBOOT, "restarts"
        if code == 0:
            return Ended.OFF, "powered off"
        return Ended.FAILED, f"systemd-nspawn ended with exit code {code}"

    def alive(self) -> bool:
        """Whether it still runs."""
        return not self._ended.is_set()

    def power_off(self) -> None:
        """SIGRTMIN+4 to init is `poweroff` (systemd(1)); before init is there, nspawn is asked."""
        self._expected = Ended.OFF
        if self.leader is not None:
            self.sandbox.run(["kill", "-s", "RTMIN+4", str(self.leader)], check=False)
        else:
            self.process.terminate()

    def kill(self) -> None:
        """Pull the plug: every process of it is gone at once."""
        self._expected = Ended.KILLED
        cgroups.kill(self.cgroup)

    def wait_ended(self, deadline: float) -> bool:
        """Wait until it and all of it is gone."""
        return self._ended.wait(max(0.0, deadline - time.monotonic()))

    def freeze(self, *, frozen: bool) -> None:
        """Freeze or thaw the container; nspawn itself goes on."""
        payload = self.cgroup / "payload"
        cgroups.freeze(payload if payload.is_dir() else self.cgroup, frozen=frozen, deadline=time.monotonic() + 10)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """`nsenter` twice, and each level dies with the one above."""
        enter = ["nsenter", f"--target={self.leader}", "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        words = [*_DIE, *enter, *_DIE, "env", "-i", *ENVIRONMENT, *argv]
        return self.sandbox.inside(words)

    def path(self, path: str) -> Path | None:
        """Through the container's /proc; absolute links in it would lead to the host's files, so only for sockets."""
        if self.leader is None:
            return None
        return self.sandbox.root / f"proc/{self.leader}/root" / path.lstrip("/")

    def memory(self) -> int:
        """Bytes that its processes use, and its overlay and /run, where the kernel counts them."""
        return cgroups.memory(self.cgroup)

    def console(self) -> str:
        """What nspawn and the early boot wrote."""
        try:
            return (self.outside / "console").read_text(errors="replace")
        except OSError:
            return ""

    def type(self, text: str) -> None:
        """Raises HostError("lan.keyboard")."""
        raise HostError("lan.keyboard", f"a container has no keyboard to type {text!r} on")

    def picture(self) -> bytes:
        """Raises HostError("lan.screen")."""
        raise HostError("lan.screen", "a container has no screen")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
