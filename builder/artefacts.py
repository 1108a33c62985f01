"""Makes a version's files from a finished tree: root.erofs, root.verity, tree.zst. Same tree, same bytes.

All by programs of the tools tree, on a fixed path inside, with UUIDs made from the recipe id. EROFS keeps
each file's own time (Python checks its bytecode against it), sorts names itself, and is told to store hard links as
files. The compression was chosen by measuring: docs/decisions/erofs-compression.md.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from builder.recipe import Recipe
from builder.sandbox import Environment, Sandbox
from services.common.errors import BacklineError, HostError
from services.common.process import ProcessFailed, explain_exit, replay_line

# A seat reads its root over the network, where bytes count; a server from its own disk, where time counts, and a kernel
# before 6.10 can read lz4 only.
SEAT_COMPRESSION = ("-zzstd,3", "-C65536")
SERVER_COMPRESSION = ("-zlz4", "-C65536")
_LABEL = "backline-root"
_FULL = "No space left on device"


def _run(
    tools: Path, argv: Sequence[str], *, tree: Path | None, out: Path, epoch: int, environment: Environment
) -> str:
    sandbox = Sandbox(
        tools=tools,
        read_only={tree: "/tree"} if tree else {},
        writable={out: "/out"},
        environment=environment,
    )
    if argv[0] == "mkfs.erofs":  # 1.8.6 says that the disk is full, and then waits for itself for ever
        done = sandbox.run_until(argv, _FULL, variables=environment.variables(epoch))
    else:
        done = sandbox.run(argv, variables=environment.variables(epoch), check=False)
    if done.returncode != 0 and (_FULL in done.stderr or _room(out) < 1 << 20):  # some call it an I/O error
        hint = f"`build gc` deletes what nobody uses; `df {out}` shows the disk"
        raise HostError("store.full", "no space left on the disk", where=str(out), hint=hint)
    if done.returncode != 0:
        raise ProcessFailed(done, explain_exit(done.returncode), replay_line(done.argv, cwd=None, env=None))
    return done.stdout


def _room(folder: Path) -> int:
    """Bytes that can still be written there."""
    info = os.statvfs(folder)
    return info.f_bavail * info.f_frsize


def make_erofs(
    tools: Path, tree: Path, out: Path, recipe: Recipe, *, seat: bool, epoch: int, environment: Environment
) -> None:
    """Write `out`/root.erofs (mkfs.erofs(1)), compressed as for a `seat` or as for a server."""
    compression = SEAT_COMPRESSION if seat else SERVER_COMPRESSION
    command = ["mkfs.erofs", "--quiet", *compression, "-T", str(epoch), "--mkfs-time", "-U", recipe.seed]
    command += ["-L", _LABEL[:15], "--hard-dereference", "/out/root.erofs", "/tree"]
    _run(tools, command, tree=tree, out=out, epoch=epoch, environment=environment)


def make_verity(tools: Path, out: Path, recipe: Recipe, *, epoch: int, environment: Environment) -> str:
    """Write `out`/root.verity over root.erofs and return the root hash, 64 hex digits (veritysetup(8))."""
    # One salt for all versions of a role: blocks that are the same have the same hash, so a delta of the tree is small.
    salt = hashlib.sha256(f"verity {recipe.role}".encode()).hexdigest()
    command = ["veritysetup", "format", "--salt", salt, "--uuid", recipe.seed]
    command += ["/out/root.erofs", "/out/root.verity"]
    text = _run(tools, command, tree=None, out=out, epoch=epoch, environment=environment)
    match = re.search(r"^Root hash:\s+([0-9a-f]{64})$", text, re.MULTILINE)
    if match is None:
        raise BacklineError("image.verity", f"veritysetup printed no root hash:\n{text}")
    return match[1]


def compress(tools: Path, out: Path, name: str, *, epoch: int, environment: Environment) -> None:
    """Replace `out`/`name` by `out`/`name`.zst: level 12, one thread."""
    command = ["zstd", "--quiet", "-12", "--single-thread", "--rm", f"/out/{name}", "-o", f"/out/{name}.zst"]
    _run(tools, command, tree=None, out=out, epoch=epoch, environment=environment)
