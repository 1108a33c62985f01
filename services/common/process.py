"""The one place that runs other programs.

Programs are argv lists, never a shell line. They get no standard input unless asked, die with us (setpriv(1) asks the
kernel for it; Python's own hook between fork and exec is not safe beside threads), and when they fail the error holds
the command to replay, what the exit code means, and the end of stderr.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.common.errors import BacklineError, Exit, HostError

Argv = Sequence[str | Path]


@dataclass(frozen=True)
class Completed:
    """What a program left: its argv, exit code (negative: signal), and output as text."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class ProcessFailed(BacklineError):
    """A program ended with another exit code than 0, or overran its deadline. `completed` has the details."""

    exit = Exit.FAILED

    def __init__(self, completed: Completed, meaning: str, replay: str) -> None:
        tail = "\n".join(completed.stderr.strip().splitlines()[-20:])
        message = f"{Path(completed.argv[0]).name} {meaning}" + (f"\n{tail}" if tail else "")
        super().__init__("process.failed", message, hint=f"to replay: {replay}")
        self.completed = completed


def explain_exit(returncode: int) -> str:
    """The meaning of an exit code as a shell or `subprocess` reports it (signal(7), bash(1) EXIT STATUS)."""
    if returncode < 0 or 128 < returncode < 160:
        number = -returncode if returncode < 0 else returncode - 128
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(number).name}"
    return {126: "could not be executed", 127: "was not found"}.get(returncode, f"failed with exit code {returncode}")


def replay_line(argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str] | None) -> str:
    """A line to paste into a shell that runs the same program again; secrets have no place on command lines."""
    parts = []
    if cwd is not None:
        parts.append(f"cd {shlex.quote(str(cwd))} &&")
    if env is not None:
        parts.append("env -i " + " ".join(f"{k}={shlex.quote(v)}" for k, v in sorted(env.items())))
    parts.append(shlex.join(argv))
    return " ".join(parts)


def _dying_with_us(words: list[str], *, cwd: Path | None, env: Mapping[str, str] | None) -> list[str]:
    """`words` behind setpriv, which is skipped where util-linux is too old or missing."""
    path = (env if env is not None else os.environ).get("PATH", os.defpath)
    if cwd is not None and not cwd.is_dir():
        raise HostError("process.cwd", f"cannot run {words[0]}: no folder {cwd}")
    if shutil.which(words[0], path=path) is None:
        raise HostError("process.missing", f"program {words[0]} was not found", hint="run `make setup`")
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin")
    return [setpriv, "--pdeathsig", "KILL", "--", *words] if setpriv else words


def spawn(
    argv: Argv,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program that dies with us; the caller owns it (use it as a context manager).

    Raises HostError("process.missing") when the program does not exist.
    """
    words = [os.fspath(word) for word in argv]
    return subprocess.Popen(
        _dying_with_us(words, cwd=cwd, env=env),
        cwd=cwd,
        env=dict(env) if env is not None else None,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
    )


def run(
    argv: Argv,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | bytes | None = None,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = subprocess.PIPE,
    check: bool = True,
    deadline: float | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program to its end and return its output, decoded as UTF-8 (undecodable bytes are replaced).

    `deadline` is a `time.monotonic()` value, not a duration. `env` replaces the environment. `stdout` and `stderr`
    are captured unless given. Raises ProcessFailed on a non-zero exit (when `check`) or an overrun deadline.
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    words = tuple(os.fspath(word) for word in argv)
    with spawn(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
    ) as process:
        late = False
        try:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            out, err = process.communicate(data, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            late = True
        except BaseException:
            process.kill()
            process.wait()
            raise
    done = Completed(
        words, process.returncode, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace")
    )
    if late:
        raise ProcessFailed(done, "did not end before its deadline", replay_line(words, cwd=cwd, env=env))
    if check and done.returncode != 0:
        raise ProcessFailed(done, explain_exit(done.returncode), replay_line(words, cwd=cwd, env=env))
    return done


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes], *, grace: float = 5.0) -> Iterator[subprocess.Popen[bytes]]:
    """Own `process` for a block: ended with SIGTERM afterwards, with SIGKILL after `grace` seconds, and reaped."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=grace)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
