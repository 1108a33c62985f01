"""The rollout service's settings as hall.toml gives them, read by its own reader."""

from __future__ import annotations

from pathlib import Path

from services.common.settings import read
from services.hall.render import ROLLOUT, Identity, render
from services.rollout.schema import Settings
from tests.hall.halls import hall


def test_only_gw_is_given_them(tmp_path: Path) -> None:
    file = tmp_path / "rollout.toml"
    file.write_text(render(hall(), Identity("gw", "gw"))[ROLLOUT].content)
    assert read(Settings, section="rollout", file=file, environ={}).domain == "prolo"
    assert ROLLOUT not in render(hall(), Identity("web", "web"))
