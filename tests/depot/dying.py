"""Brings the version of rig.image(TWO) to the depot's folder in argv[1], and is killed at step number argv[2]."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from services.depot.files import Files
from tests.depot.rig import TWO, image


def main(root: Path, last: int) -> None:
    steps = 0

    def hook(step: str) -> None:
        nonlocal steps
        steps += 1
        if steps > last:
            print(step, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    made = image(TWO)
    files = Files(root, hook=hook)
    files.prepare()
    for name, begin in (files.begin(made.ref, made.manifest, {"anna": b"signature"}) or {}).items():
        half = (begin + len(made.files[name])) // 2
        for offset, end in ((begin, half), (half, None)):
            hook(f"bring {name} from {offset}")
            with files.receive(made.ref, name, offset) as sink:
                sink.write(made.files[name][offset:end])
    files.complete(made.ref)
    files.remove(made.ref)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
