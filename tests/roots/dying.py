"""Pulls or removes a version, and kills itself with SIGKILL before step K.

`python -m tests.roots.dying pull|remove FOLDER DEPOT PUBLICATION SIGNERS K [BASE]`
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from services.common import statement as statements
from services.common.codec import decode_json
from services.common.signing import read_signers
from services.common.statement import Publication
from services.common.versions import Ref
from services.roots.held import Folder
from services.roots.pull import Pull
from services.roots.remote import Depot


class Fuse:
    """A hook that ends the process at the k-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, step: str) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def main(what: str, root: str, url: str, file: str, signers: str, steps: str, *bases: str) -> None:
    publication = decode_json(Path(file).read_bytes(), Publication)
    statement = statements.decode(publication.statement)
    ref = Ref(statement.role, statement.version)
    folder = Folder(Path(root), hook=Fuse(int(steps)))
    folder.prepare()
    if what == "remove":
        folder.remove(ref)
        return
    with Depot(url) as depot:
        held = [Ref(ref.role, base) for base in bases]
        Pull(folder, depot, publication, signers=read_signers(Path(signers)), bases=held).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
