"""The one exception of the house: what went wrong, where, and what to do about it.

Every expected failure is a `BacklineError` with a stable `code` ("lock.stale"). The part before the dot chooses the
exit code of a command here, and the status of an HTTP answer in `services.common.problem`. A traceback is a bug.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command, one per class of failure."""

    OK = 0
    DIFFERENT = 1  # a check ran and its answer is no
    USAGE = 2  # the command line
    INPUT = 3  # a file of the administrator's: configuration, lock, hall.toml
    MISSING = 4  # something that should be reachable is not: network, mirror, version
    INTEGRITY = 5  # hash, size or signature is wrong
    FAILED = 6  # a program that we ran failed
    HOST = 7  # this machine: privileges, disk space, a missing capability
    BUSY = 8  # someone else is at it
    INTERRUPTED = 130


class BacklineError(Exception):
    """An expected failure.

    `code` is stable and dotted, for scripts and problem documents; `where` is a path, optionally with `:line`;
    `hint` says what to do next. All three are shown to the user, on one line and a hint line.
    """

    exit: Exit = Exit.FAILED

    def __init__(self, code: str, message: str, *, hint: str | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UsageError(BacklineError):
    """The command line or a call's arguments make no sense."""

    exit = Exit.USAGE


class InputError(BacklineError):
    """A file that an administrator wrote is wrong."""

    exit = Exit.INPUT


class MissingError(BacklineError):
    """Something that should be there is not: a version, a package on the mirror, the network."""

    exit = Exit.MISSING


class IntegrityError(BacklineError):
    """Bytes are not what was promised: hash, size, signature."""

    exit = Exit.INTEGRITY


class HostError(BacklineError):
    """This machine cannot do it: privileges, disk space, a missing capability."""

    exit = Exit.HOST


class AccessError(BacklineError):
    """The caller may not do this."""

    exit = Exit.HOST


class BusyError(BacklineError):
    """Someone else holds the lock and did not let go in time."""

    exit = Exit.BUSY


def nearest(word: str, known: list[str]) -> str | None:
    """A "did you mean" hint for `word` among `known`, or None when nothing is near."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else None
