"""A process whose steps are seen from outside: every system call that changes a disk or tells somebody something.

`Victims` runs a program that forks a process for each run. That process puts a filter on itself (seccomp(2)), which
holds each such call back until we answer (seccomp_unotify(2)): so it stands still between two steps, its threads and
children too, for as long as somebody looks at what it has left, copies its disk, or kills it. Nobody has to name the
steps, and what C libraries and other programs do (SQLite, zstd) is seen as well. `python -m MODULE` calls `serve`.

A step is named by the call and what it is about: "rename images/nfsroot/NEW", "send PUT /v1/holdings/0/NEW".
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl), with where each says what it is about: "f" a descriptor,
# "p" a path, "a" a folder's descriptor and a path. Of two the last one names the step.
_CALLS: dict[int, tuple[str, tuple[tuple[str, int], ...]]] = {
    1: ("write", (("f", 0),)),
    2: ("open", (("p", 0),)),
    18: ("write", (("f", 0),)),
    20: ("write", (("f", 0),)),
    40: ("write", (("f", 0),)),
    44: ("send", (("f", 0),)),
    74: ("sync", (("f", 0),)),
    75: ("sync", (("f", 0),)),
    76: ("truncate", (("p", 0),)),
    77: ("truncate", (("f", 0),)),
    82: ("rename", (("p", 0), ("p", 1))),
    83: ("mkdir", (("p", 0),)),
    84: ("rmdir", (("p", 0),)),
    85: ("open", (("p", 0),)),
    86: ("link", (("p", 0), ("p", 1))),
    87: ("unlink", (("p", 0),)),
    88: ("symlink", (("p", 1),)),
    90: ("chmod", (("p", 0),)),
    91: ("chmod", (("f", 0),)),
    257: ("open", (("a", 0),)),
    258: ("mkdir", (("a", 0),)),
    263: ("unlink", (("a", 0),)),
    264: ("rename", (("a", 0), ("a", 2))),
    265: ("link", (("a", 0), ("a", 2))),
    266: ("symlink", (("a", 1),)),
    268: ("chmod", (("a", 0),)),
    277: ("sync", (("f", 0),)),
    280: ("utime", (("a", 0),)),
    285: ("allocate", (("f", 0),)),
    296: ("write", (("f", 0),)),
    306: ("sync", (("f", 0),)),
    316: ("rename", (("a", 0), ("a", 2))),
    326: ("write", (("f", 2),)),
    328: ("write", (("f", 0),)),
}
_FLAGS = {2: 1, 257: 2}
"""Where calls that may make or empty a file have their flags; without O_CREAT and O_TRUNC they are not held back."""
_X86_64 = 0xC000003E
_LOAD, _EQUAL, _MASK, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_SECCOMP = 317
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_CONTINUE = 1
_AT_FDCWD = -100
_RANDOM = re.compile(r"\b\d+-[0-9a-f]{12}\b|(?<=-)[0-9a-f]{8,16}\b")
"""What is in the names of files that nobody else shall have."""
_REQUEST = re.compile(r"(?:GET|PUT|POST|DELETE) \S+")


def _program() -> bytes:
    """The filter: calls of the table are held back, all else goes through."""
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    for number in _CALLS:
        if number in _FLAGS:
            code += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16 + 8 * _FLAGS[number])]
            code += [(_MASK, 0, 1, os.O_CREAT | os.O_TRUNC), (_RETURN, 0, 0, _NOTIFY), (_RETURN, 0, 0, _ALLOW)]
        else:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY)]
    return b"".join(struct.pack("HBBI", *line) for line in [*code, (_RETURN, 0, 0, _ALLOW)])


def _hold_back() -> int:
    """Put the filter on this process. Returns the descriptor to listen at (seccomp(2), NEW_LISTENER)."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = _program()
    kept = ctypes.create_string_buffer(code)
    argument = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(kept))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    found: int = libc.syscall(_SECCOMP, 1, 8, ctypes.create_string_buffer(argument))
    if found < 0:
        raise OSError(ctypes.get_errno(), "seccomp: no notifications here")
    return found


def available() -> bool:
    """Whether this machine can hold system calls back."""
    if os.uname().machine != "x86_64":
        return False
    with contextlib.suppress(OSError):
        return "user_notif" in Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    return False


@dataclass(frozen=True)
class Step:
    """A call that is held back: `number` from 0 in its run, what it does and to which paths, or what it says."""

    number: int
    call: str
    paths: tuple[Path, ...]
    said: str
    name: str


class Death(Exception):
    """Raised by who looks at a step: the process is to be killed before it."""


@dataclass
class Place:
    """What belongs to a run: calls about `root`, and what is sent. `names` are put for what changes from run to run."""

    root: Path
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, text: str) -> str:
        for what, instead in self.names.items():
            text = text.replace(what, instead)
        return _RANDOM.sub("*", text)


class Victims:
    """The program of `module`. A context manager."""

    def __init__(self, module: str) -> None:
        self._control, its = socket.socketpair()
        with its:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(its.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=(its.fileno(),),
            )

    def __enter__(self) -> Victims:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self._control.close()
        self.process.wait()

    def run(self, operation: str, what: Mapping[str, object], place: Place, look: Callable[[Step], None]) -> int:
        """Do something in a process of its own, and call `look` before each of its steps; it may raise Death.

        Returns the exit code, negative for a signal.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"operation": operation, **what}) + "\n")
        self.process.stdin.flush()
        message, (listener,), _, _ = socket.recv_fds(self._control, 16, 1)
        with os.fdopen(listener, "rb", buffering=0) as listening:
            _listen(listening.fileno(), int(message), place, look)
        return int(self.process.stdout.readline())


def _listen(listener: int, leader: int, place: Place, look: Callable[[Step], None]) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    number, dead = 0, False
    while True:
        ((_, events),) = poll.poll()
        if not events & select.POLLIN:
            return  # POLLHUP: nobody is left who has the filter
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, _RECEIVE, request)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed meanwhile
                continue
            raise
        id, pid, _, call, _, _, *arguments = struct.unpack("QIIiIQ6Q", request)
        if dead:
            continue
        try:
            step = _step(number, pid, call, arguments, place)
            if step is not None:
                number += 1
                look(step)
        except BaseException as error:
            dead = True
            os.killpg(leader, signal.SIGKILL)
            if not isinstance(error, Death):
                raise
            continue
        with contextlib.suppress(OSError):  # it was killed meanwhile, from elsewhere
            fcntl.ioctl(listener, _ANSWER, struct.pack("QqiI", id, 0, 0, _CONTINUE))


def _step(number: int, pid: int, call: int, arguments: list[int], place: Place) -> Step | None:
    """What a call is about; None where that is nothing of ours."""
    name, about = _CALLS[call]
    if name in ("send", "write"):
        target = os.readlink(f"/proc/{pid}/fd/{arguments[about[0][1]]}")
        if target.startswith("socket:"):
            said = _REQUEST.match(_memory(pid, arguments[1], 200))
            text = said[0] if said else "more"
            return Step(number, "send", (), text, place.name(f"send {text}"))
    paths = [_path(pid, kind, arguments, at) for kind, at in about]
    if not all(path.is_relative_to(place.root) for path in paths) or paths[-1].name.endswith("-shm"):
        return None  # SQLite's shared memory is made anew by whoever comes first: https://www.sqlite.org/wal.html
    if call in _FLAGS and paths[-1].exists() and not arguments[_FLAGS[call]] & os.O_TRUNC:
        return None
    return Step(number, name, tuple(paths), "", place.name(f"{name} {paths[-1].relative_to(place.root)}"))


def _path(pid: int, kind: str, arguments: list[int], at: int) -> Path:
    if kind == "f":
        return Path(os.readlink(f"/proc/{pid}/fd/{arguments[at]}").removesuffix(" (deleted)"))
    folder = ctypes.c_int32(arguments[at]).value if kind == "a" else _AT_FDCWD
    text = _memory(pid, arguments[at + (kind == "a")], 4096)
    if text.startswith("/"):
        return Path(os.path.normpath(text))
    base = os.readlink(f"/proc/{pid}/cwd" if folder == _AT_FDCWD else f"/proc/{pid}/fd/{folder}")
    return Path(os.path.normpath(f"{base}/{text}"))


def _memory(pid: int, address: int, size: int) -> str:
    """A string of another process, up to its end or `size`."""
    found = bytearray()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        while len(found) < size and 0 not in found:
            step = min(size - len(found), 4096 - (address + len(found)) % 4096)  # a page at a time: the next may miss
            memory.seek(address + len(found))
            found += memory.read(step)
    return bytes(found).partition(b"\0")[0].decode(errors="replace")


def serve(operations: Mapping[str, Callable[..., None]]) -> None:
    """The other side: for each line, do an operation in a process that is held back at each of its steps."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for line in sys.stdin:
        what = json.loads(line)
        do = operations[what.pop("operation")]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setsid()
                listener = _hold_back()
                # sendmsg(2) and close(2) are not held back: nobody listens yet.
                socket.send_fds(control, [str(os.getpid()).encode()], [listener])
                os.close(listener)
                do(**what)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
