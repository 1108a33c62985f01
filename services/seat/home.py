"""The home of a user on a seat: there before his first session, gone after his last one.

`backline-seat-home@UID.service` runs `open_home` and `close_home`. logind stops it with the user's own service manager
after his last session, whichever way that ended, so nothing here counts sessions and nothing has to be alive for it.

Where homes come from is a `Homes`: a tmpfs as long as there are no home servers. What it tells while it opens one is
shown to who is waiting (`services.seat.login`), line by line, from a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pwd
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.common import process
from services.common.errors import BacklineError, HostError, MissingError
from services.seat.left import PLACES, sweep
from services.seat.presence import Presence, find_presence

logger = logging.getLogger(__name__)

STATE = Path("/run/backline-seat-home")
"""Of each user who has a home open, by uid: UID is his login, UID.said what was told, UID.coming see `Coming`,
UID.hash see `services.seat.lock`."""
SKELETON = Path("/etc/skel")
SIZE = "size=30%,nr_inodes=500k"
KILL_SECONDS = 10.0
LOGOUT_SECONDS = 5.0
COMING_SECONDS = 45.0
Tell = Callable[[str], None]


def unit(uid: int) -> str:
    """The unit whose life is that of a user's home."""
    return f"backline-seat-home@{uid}.service"


@dataclass(frozen=True)
class Owner:
    """Whose home it is."""

    login: str
    uid: int
    gid: int
    path: Path


class Homes(Protocol):
    """Where homes come from. Both are idempotent, and raise BacklineError in words that its owner understands."""

    def open(self, owner: Owner, tell: Tell) -> None:
        """Have the home at its path, his alone; takes minutes where it has to be fetched, and tells how far it is."""

    def close(self, owner: Owner) -> None:
        """Take it away; none of its owner's processes is left."""


class Memory:
    """Homes in memory, new each time: nothing of them is kept. Implements `Homes`."""

    def __init__(self, skeleton: Path = SKELETON) -> None:
        self.skeleton = skeleton

    def open(self, owner: Owner, tell: Tell) -> None:
        if os.path.ismount(owner.path):
            return
        tell("Your home is in this seat's memory: what you save is gone when you log out.")
        owner.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"{SIZE},mode=0700,uid={owner.uid},gid={owner.gid},nosuid,nodev"
        process.run(["mount", "-t", "tmpfs", "-o", options, f"home-{owner.uid}", owner.path])
        if self.skeleton.is_dir():
            shutil.copytree(self.skeleton, owner.path, symlinks=True, dirs_exist_ok=True)
            for path in [owner.path, *owner.path.rglob("*")]:
                os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
            owner.path.chmod(0o700)

    def close(self, owner: Owner) -> None:
        while os.path.ismount(owner.path):
            done = process.run(["umount", "--recursive", owner.path], check=False)
            if done.returncode != 0:  # somebody else has a file of it open, who keeps it until he closes it
                logger.warning("%s is in use: %s", owner.path, done.stderr.strip())
                process.run(["umount", "--lazy", owner.path])
        with contextlib.suppress(OSError):
            owner.path.rmdir()


class Coming:
    """That somebody logs in and will open a session in a moment: his last one, which ends just now, is no logout.

    Presence forgets a password that it has just verified when it hears of a logout, so that has to be over by then:
    `begin` waits for it. It counts for less time than it takes until somebody looks for those who opened no session.
    """

    def __init__(self, uid: int, *, state: Path = STATE) -> None:
        self.file = state / f"{uid}.coming"

    def begin(self) -> None:
        with self.locked():
            self.file.touch()

    def end(self) -> None:
        self.file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody begins, and nobody tells presence of a logout, meanwhile."""
        self.file.parent.mkdir(mode=0o700, exist_ok=True)
        with self.file.with_suffix(".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def there(self) -> bool:
        """Whether it is so."""
        try:
            return abs(time.time() - self.file.stat().st_mtime) < COMING_SECONDS
        except FileNotFoundError:
            return False


def open_home(uid: int, homes: Homes, *, state: Path = STATE) -> None:
    """Open a user's home. Raises MissingError("seat.user"), and what `Homes.open` raises, which is told as well."""
    owner = _owner(uid)
    state.mkdir(mode=0o700, exist_ok=True)
    (state / str(uid)).write_text(owner.login)
    with (state / f"{uid}.said").open("w") as said:

        def tell(line: str) -> None:
            said.write(f"{line}\n")
            said.flush()

        try:
            homes.open(owner, tell)
        except BacklineError as error:
            tell(f"Your home cannot be opened: {error.message}")
            raise


def close_home(
    uid: int, homes: Homes, *, state: Path = STATE, presence: Callable[[], Presence] = find_presence
) -> None:
    """End what a user has left running, take his files and home away, and tell presence that he left, unless he comes.

    Presence that does not answer takes it from the heartbeats, half a minute later.
    """
    file = state / str(uid)
    try:
        login = file.read_text()
    except FileNotFoundError:
        login = _owner(uid).login
    kill_all(uid)
    sweep(uid, PLACES)
    homes.close(Owner(login, uid, 0, Path("/home", login)))
    for each in (file, state / f"{uid}.said"):
        each.unlink(missing_ok=True)
    coming = Coming(uid, state=state)
    with coming.locked():
        if coming.there():
            return
        forget_password(uid, state=state)
        try:
            presence().logout(login, seconds=LOGOUT_SECONDS)
        except BacklineError as error:
            logger.warning("presence was not told that %s has left: %s", login, error)


def forget_password(uid: int, *, state: Path = STATE) -> None:
    """What the lock of his screen had (`services.seat.lock.Kept`) goes with his last session."""
    (state / f"{uid}.hash").unlink(missing_ok=True)


def has_session(uid: int) -> bool:
    """Whether logind knows a user: he has a session, or one that is ending."""
    return process.run(["loginctl", "show-user", str(uid), "--property=State"], check=False).returncode == 0


def check_home(uid: int) -> bool:
    """Close the home of a user who was let in and has no session; whether there was one to close."""
    if has_session(uid):
        return False
    forget_password(uid)
    process.run(["systemctl", "stop", unit(uid)])
    return True


def kill_all(uid: int, *, seconds: float = KILL_SECONDS) -> None:
    """Kill every process of a user. Raises HostError("seat.processes") when some do not go: the kernel holds them."""
    deadline = time.monotonic() + seconds
    while left := list(_processes(uid)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                try:
                    if _uid_of(pid) == uid:
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)
        if time.monotonic() >= deadline:
            raise HostError("seat.processes", f"processes of uid {uid} do not end: {left}")
        signal.sigtimedwait((), 0.02)  # what is not our child tells nobody of its end


def _processes(uid: int) -> Iterator[int]:
    for name in (each.name for each in Path("/proc").iterdir()):
        if name.isdecimal() and int(name) != os.getpid() and _uid_of(int(name)) == uid:
            yield int(name)


def _uid_of(pid: int) -> int | None:
    """The real uid of a process that is not dead already; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return None if fields.get("State", "Z")[0] in "ZX" else int(fields["Uid"].split()[0])


def _owner(uid: int) -> Owner:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError as error:
        raise MissingError("seat.user", f"uid {uid} is nobody's here", hint="backline identity check") from error
    return Owner(entry.pw_name, uid, entry.pw_gid, Path("/home", entry.pw_name))
