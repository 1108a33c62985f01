"""Adds a version and kills itself with SIGKILL before step K: `dying_add.py ROOT STAGED ROLE VERSION K MODE`.

MODE is `copy` (STAGED lies elsewhere) or `rename` (it is first put into the store's own staging folder).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from builder.store import Store
from services.common.versions import Ref


class Fuse:
    """A hook that ends the process at the k-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, step: str) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def main(root: str, staged: str, role: str, version: str, steps: str, mode: str) -> None:
    store = Store(Path(root), hook=Fuse(int(steps)))
    if mode == "rename":
        with store.staging() as folder:
            shutil.copytree(staged, folder, dirs_exist_ok=True)
            store.add(role, version, folder)
    else:
        store.add(role, version, Path(staged))
    store.set_current(Ref(role, version))
    store.pin("keep", Ref(role, version))


if __name__ == "__main__":
    main(*sys.argv[1:])
