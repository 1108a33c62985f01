"""The rollout service's settings on gw, from hall.toml. Pure."""

from __future__ import annotations

import json

from services.hall.schema import Hall


def settings(hall: Hall) -> str:
    """TOML for `backline rollout serve --config`."""
    return f"domain = {json.dumps(hall.site.domain)}\n"
