"""The process that owns a lab's namespaces, and takes everything down when its owner is gone, even by kill -9.

Run as `python -I -S keeper.py NAME CGROUP RECORD` (or `keeper.py --erofs FILE FOLDER` inside, to mount one), with a
pipe as standard input and output. It is two processes: a janitor outside, which waits for its standard input to end,
and the lab's own PID 1 inside new PID, mount, network, cgroup and IPC namespaces. When the janitor ends PID 1, the
kernel ends every process of the lab, and with the last one go the mounts, bridges and namespaces (pid_namespaces(7));
then the janitor removes the cgroup and the record. Nothing but the standard library's core, so that it starts in 20
ms; no import of ours.

On standard output: one line `ready PID`, PID 1's process id as the host sees it, or `failed WHAT`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
FOLDERS = ("lab", "lab/roots", "lab/n", "systemd", "netns")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError."""
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()), f"mount {target}")


def _inside(cgroup: str, ready: int) -> None:
    """PID 1 of the lab: namespaces, mounts, says that it is there, and reaps what the lab's programs leave."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(PR_SET_NAME, b"backline-lab", 0, 0, 0)
    _write(f"{cgroup}/cgroup.procs", "0")  # the cgroup namespace begins where we are when it is made
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # A fresh /sys shows the new network namespace; nspawn insists on a tmpfs at /run, and on the unified hierarchy.
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("backline-lab", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=90%")
    for folder in FOLDERS:
        os.mkdir(f"/run/{folder}", 0o755)
    # A cgroup with processes of its own could not hand controllers down (cgroups(7)).
    _write("/sys/fs/cgroup/keeper/cgroup.procs", "0")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    os.write(ready, b"ready")
    os.close(ready)
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def remove_cgroup(path: str) -> None:
    """Kill what is left in a cgroup and remove it with those below it; a cgroup that is gone is no error."""
    try:
        _write(f"{path}/cgroup.kill", "1")
    except OSError:
        pass
    end = time.monotonic() + 10
    while os.path.isdir(path):
        for folder, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass
        if time.monotonic() > end:
            return
        if os.path.isdir(path):
            time.sleep(0.01)  # no event says that a killed process has left its cgroup


def main(name: str, cgroup: str, record: str) -> int:
    """The janitor. Returns the exit code."""
    _libc.prctl(PR_SET_NAME, f"lab {name}"[:15].encode(), 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is for the owner, who then lets go of us
    child = 0
    try:
        os.makedirs(f"{cgroup}/keeper", exist_ok=True)
        scope = os.path.dirname(cgroup)
        if scope.endswith(".scope"):  # a process at its top would keep it from handing controllers down
            os.makedirs(f"{scope}/keeper", exist_ok=True)
            _write(f"{scope}/keeper/cgroup.procs", "0")
        _check(_libc.unshare(CLONE_NEWPID), "unshare (a lab needs root)")
        read_ready, write_ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_ready)
            try:
                _inside(cgroup, write_ready)
            except OSError as error:
                os.write(write_ready, str(error).encode())
            os._exit(1)
        os.close(write_ready)
        answer = os.read(read_ready, 4096)
        if answer != b"ready":
            raise OSError(0, answer.decode() or "PID 1 of the lab died")
        sys.stdout.write(f"ready {child}\n")
        sys.stdout.flush()
        while os.read(0, 4096):
            pass
        code = 0
    except OSError as error:
        sys.stdout.write(f"failed {error}\n")
        code = 1
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    remove_cgroup(cgroup)
    for path in (record, f"{record}.sock"):
        try:
            os.unlink(path)
        except OSError:
            pass
    return code


def mount_erofs(source: str, target: str) -> int:
    """Mount an EROFS straight from its file: mount(8) would look for a loop device first, and a container has none."""
    try:
        mount(source, target, "erofs", MS_RDONLY | MS_NODEV)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(mount_erofs(*sys.argv[2:]) if sys.argv[1] == "--erofs" else main(*sys.argv[1:]))
