"""Single sign-on's settings on gw, from hall.toml. Pure."""

from __future__ import annotations

import json

from services.hall.schema import Hall


def settings(hall: Hall) -> str:
    """TOML for `backline sso serve --config`."""
    lines = [f"{json.dumps(place)} = {json.dumps(login)}" for place, login in sorted(hall.sso.overrides.items())]
    return "\n".join(["[overrides]", *lines]) + "\n"
