"""Room for many systemds on one kernel is made, told, and never taken away again."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e import limits
from e2e.capabilities import Capability, Found
from services.common.errors import HostError


def test_a_limit_that_is_too_low_is_raised_and_told(tmp_path: Path) -> None:
    file = tmp_path / "limit"
    file.write_text("128\n")
    assert "raised from 128 to 896" in limits.raise_for(24, file=file)
    assert file.read_text() == "896"


def test_a_limit_that_is_high_enough_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "limit"
    file.write_text("8192\n")
    assert limits.raise_for(24, file=file) == ""
    assert file.read_text() == "8192\n"


def test_a_host_that_does_not_let_us_is_told_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "limit"
    file.write_text("128\n")

    def refuse(self: Path, data: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(HostError) as caught:
        limits.raise_for(24, file=file)
    assert caught.value.hint == "sysctl fs.inotify.max_user_instances=896"


def test_what_a_machine_lacks_is_named_with_what_to_do() -> None:
    found = Found(frozenset({Capability.CGROUP2}), {Capability.ROOT: "not root"})
    with pytest.raises(HostError) as caught:
        found.require([Capability.ROOT, Capability.CGROUP2])
    assert caught.value.message == "this machine lacks root (not root)"
    assert caught.value.hint == "run it as root"
