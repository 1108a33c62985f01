"""The service manager's side of a service: sd_notify(3) messages and sd_listen_fds(3) sockets, in plain Python.

pystemd has both, but importing it costs 8 MB and a parser of XML; every service of ours would pay that.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from services.common.errors import HostError

LISTEN_FDS_START = 3


@dataclass(frozen=True)
class Listener:
    """A listening socket and its FileDescriptorName= (the name of the .socket unit when it has none)."""

    name: str
    socket: socket.socket


class Notifier:
    """Sends states to $NOTIFY_SOCKET; without one, silently nothing (the service was not started by a manager)."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog = _watchdog(environ)

    def send(self, **states: str | int) -> None:
        """Send one datagram, as in `send(READY=1, STATUS="serving")`.

        Only `AF_UNIX` addresses; a manager that is gone is no error, because nothing could be done about it.
        """
        if not self.address.startswith(("/", "@")):
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        text = "\n".join(f"{key}={value}" for key, value in states.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(text.encode(), address)
            except OSError:
                return


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Seconds within which WATCHDOG=1 is due, or None (sd_watchdog_enabled(3))."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isdecimal() and int(text) > 0 else None


def inherited_socket(environ: MutableMapping[str, str], name: str) -> socket.socket | None:
    """The one socket of that FileDescriptorName=, which is none to listen on; None when it was not passed.

    It is taken out of what was passed: the last one takes its place there. To be asked before `inherited_listeners`.
    """
    pid, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal() or name not in names[: int(count)]:
        return None
    place, last = names.index(name), int(count) - 1
    taken = socket.socket(fileno=fcntl.fcntl(LISTEN_FDS_START + place, fcntl.F_DUPFD_CLOEXEC, 100))
    if place != last:
        os.dup2(LISTEN_FDS_START + last, LISTEN_FDS_START + place)
    os.close(LISTEN_FDS_START + last)
    names[place] = names[last]
    environ["LISTEN_FDS"], environ["LISTEN_FDNAMES"] = str(last), ":".join(names[:last])
    return taken


def inherited_listeners(environ: MutableMapping[str, str]) -> list[Listener]:
    """The sockets that the service manager opened for this process, or [] when there are none.

    Takes the variables out of `environ`, so that no child mistakes them for its own. The sockets are wrapped with their
    true family (AF_INET keeps TCP_NODELAY working) and close on exec. Raises HostError("serve.activation") when what
    was passed is not a listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    listeners = []
    for index in range(int(count)):
        number = LISTEN_FDS_START + index
        name = names[index] if index < len(names) and names[index] else "unknown"
        try:
            is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError as error:
            raise HostError("serve.activation", f"file descriptor {number} ({name}) is not open") from error
        if not is_socket:
            raise HostError("serve.activation", f"file descriptor {number} ({name}) is not a socket")
        os.set_inheritable(number, False)  # noqa: FBT003
        wrapped = socket.socket(fileno=number)
        if wrapped.type != socket.SOCK_STREAM or not wrapped.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            wrapped.close()
            raise HostError("serve.activation", f"file descriptor {number} ({name}) is not a listening stream socket")
        wrapped.settimeout(0)
        listeners.append(Listener(name, wrapped))
    return listeners
