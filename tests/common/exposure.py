"""How much a unit is exposed, as systemd rates it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from services.common.process import run


def exposure(unit: Path) -> float:
    """The level of `systemd-analyze security`: 0 is shut in, 10 is wide open."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])
