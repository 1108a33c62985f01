"""Runs a program inside the tools tree: its own mount, PID, UTS, IPC and (by default) network namespace.

The tools tree is /usr and /etc, read-only; the caller names what else is visible, at fixed paths, so that no path of
the host can reach a build. The environment is made from nothing. Without network there is not even a route: a program
that reaches for a mirror fails. The namespaces die with their first process, and that one with us, so nothing survives
a build, not even kill -9 of the builder. The mounts themselves are made by mkosi's own sandbox program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from builder import clock
from services.common import process
from services.common.process import Completed

SANDBOX_PROGRAM = "usr/lib/python3/dist-packages/mkosi/sandbox.py"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# A Python without a locale would set LC_CTYPE for what it starts (PEP 538).
_OUTSIDE = {"PATH": PATH, "LC_ALL": "C.UTF-8"}
# Runs as the first process of the namespaces: what a mount table cannot express.
_INIT = 'umask "$1"; hostname "$2"; shift 2; exec "$@"'


@dataclass(frozen=True)
class Environment:
    """What a build could notice of its surroundings; `builder.check` varies it, a build uses the defaults."""

    umask: str = "022"
    hostname: str = "build"
    timezone: str = "UTC"
    locale: str = "C.UTF-8"
    work: str = "/work"
    """Where the working folder is mounted inside."""
    cpus: int | None = None
    """Use only that many CPUs; all of them when None."""
    clock_offset_days: int = 0
    """Shift the wall clock that programs see (builder.clock)."""

    def variables(self, epoch: int) -> dict[str, str]:
        """The environment variables of a build at `epoch` (seconds)."""
        return {
            "HOME": "/root",
            "LANG": self.locale,
            "LC_ALL": self.locale,
            "PATH": PATH,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "SOURCE_DATE_EPOCH": str(epoch),
            "TERM": "dumb",
            "TZ": self.timezone,
        }

    def of_scripts(self) -> dict[str, str]:
        """What of it scripts of packages and images are told besides: mkosi gives them an environment of its own."""
        usual = Environment()
        found = {} if self.timezone == usual.timezone else {"TZ": self.timezone}
        if self.locale != usual.locale:
            found |= {"LANG": self.locale, "LC_ALL": self.locale}
        return found | self.clock()

    def clock(self) -> dict[str, str]:
        """What shifts the clock of a program, where the library is."""
        return {"LD_PRELOAD": f"/{clock.LIBRARY}"} if self.clock_offset_days else {}


@dataclass(frozen=True)
class Sandbox:
    """One way to run programs in a tools tree.

    `read_only` and `writable` map a path of the host to a path inside; `scratch` paths inside become empty tmpfs.
    """

    tools: Path
    read_only: Mapping[Path, str] = field(default_factory=dict)
    writable: Mapping[Path, str] = field(default_factory=dict)
    scratch: Sequence[str] = ()
    network: bool = False
    environment: Environment = Environment()

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        variables: Mapping[str, str],
        chdir: str = "/",
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
        check: bool = True,
    ) -> Completed:
        """Run `argv` inside, with `variables` as its whole environment. Raises ProcessFailed as `process.run` does."""
        words = self.argv(argv, variables=variables, chdir=chdir)
        return process.run(words, env=_OUTSIDE, stdout=stdout, stderr=stderr, check=check)

    def run_until(self, argv: Sequence[str | Path], said: str, *, variables: Mapping[str, str]) -> Completed:
        """Run `argv` inside, and kill it as soon as it says `said` on stderr: for what fails, says so, and goes on.

        Returns how it ended, well or not.
        """
        words = self.argv(argv, variables=variables)
        with process.spawn(words, env=_OUTSIDE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as program:
            assert program.stderr is not None
            lines = []
            for line in program.stderr:
                lines.append(line.decode(errors="replace"))
                if said in lines[-1]:
                    program.kill()
            code = program.wait()
        return Completed(tuple(words), code, "", "".join(lines))

    def argv(self, argv: Sequence[str | Path], *, variables: Mapping[str, str], chdir: str = "/") -> list[str]:
        """The whole command line that runs `argv` inside."""
        env = self.environment
        # /proc has to be that of the new PID namespace: through the host's, /proc/1/root is the host's root.
        words = ["unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
        if not self.network:
            words.append("--net")
        if env.cpus is not None:
            words += ["taskset", "--cpu-list", ",".join(map(str, sorted(os.sched_getaffinity(0))[: env.cpus]))]
        words += [sys.executable, "-I", "-S", str(self.tools / SANDBOX_PROGRAM)]
        words += ["--ro-bind", str(self.tools / "usr"), "/usr", "--ro-bind", str(self.tools / "etc"), "/etc"]
        for name in ("bin", "sbin", "lib", "lib64"):
            words += ["--symlink", f"usr/{name}", f"/{name}"]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", "/root"]
        words += ["--dir", "/var/tmp", "--dir", "/var/lib", "--dir", "/var/cache", "--dir", "/var/log"]
        for path in self.scratch:
            words += ["--tmpfs", path]
        for source, target in self.read_only.items():
            words += ["--ro-bind", str(source), target]
        for source, target in self.writable.items():
            words += ["--bind", str(source), target]
        for name, value in sorted(variables.items()):
            words += ["--setenv", name, value]
        words += ["--chdir", chdir, "--", "/usr/bin/sh", "-c", _INIT, "sh", env.umask, env.hostname]
        return [*words, *(os.fspath(word) for word in argv)]
