"""Unit files are shown to systemd before they count: `systemd-analyze verify` on a folder that nothing runs from."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from services.common.errors import HostError, InputError
from services.common.process import run
from services.hostd.planner import Kind, Step
from services.hostd.unit_files import UnitFiles

SECONDS = 30.0
_LINES = 20


def verify(steps: Sequence[Step], files: UnitFiles, *, program: str = "systemd-analyze") -> None:
    """Refuse what systemd would ignore or not load. Blocks.

    Raises InputError("unit.invalid"), whose message names file and line; HostError("unit.unverified") where the program
    is missing.
    """
    written = [step for step in steps if step.kind is Kind.WRITE and step.text is not None and step.unit is not None]
    if not written:
        return
    if shutil.which(program) is None:
        raise HostError("unit.unverified", f"{program} is not here, and nothing is put into force unseen")
    removed = {(step.unit, step.drop_in) for step in steps if step.kind is Kind.REMOVE}
    with tempfile.TemporaryDirectory(prefix="backline-units-") as name:
        staged = UnitFiles(Path(name))
        # The whole of what the document's files will be: a drop-in is judged with the unit file that it is for.
        for unit, found in files.found(set()).items():
            for drop_in, text in [(None, found.file), *found.drop_ins.items()]:
                if text is not None and (unit, drop_in) not in removed:
                    _put(staged, unit, drop_in, text)
        for step in written:
            assert step.unit is not None
            assert step.text is not None
            _put(staged, step.unit, step.drop_in, step.text)
        units = sorted({_verifiable(step.unit) for step in written if step.unit is not None})
        # A colon at the end: then the usual folders, systemd.unit(5).
        env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{name}:"}
        argv = [program, "verify", "--man=no", "--recursive-errors=no", *units]
        done = run(argv, env=env, check=False, deadline=time.monotonic() + SECONDS)
        complaints = _about(done.stderr, name, units)
        if complaints or done.returncode != 0:
            words = complaints or done.stderr.strip().splitlines()[-_LINES:] or ["no reason was given"]
            raise InputError("unit.invalid", "systemd would not take it: " + "; ".join(words[:_LINES]))


def _put(staged: UnitFiles, unit: str, drop_in: str | None, text: str) -> None:
    path = staged.path(unit, drop_in)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)  # without the mark: the line numbers are the document's


def _verifiable(unit: str) -> str:
    """A template is verified as an instance of itself."""
    return unit.replace("@.", "@verify.") if "@." in unit else unit


def _about(errors: str, folder: str, units: Sequence[str]) -> list[str]:
    """Lines about the staged files, as "FILE:LINE: what is wrong"."""
    mine = re.compile(rf"^(?:{re.escape(folder)}/|(?:{'|'.join(re.escape(unit) for unit in units)}): )")
    return [line.removeprefix(f"{folder}/") for line in errors.splitlines() if mine.match(line)]
