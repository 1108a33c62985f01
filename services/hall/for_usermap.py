"""The map's settings on gw, from hall.toml: the hall's name. Pure."""

from __future__ import annotations

import json

from services.hall.schema import Hall


def settings(hall: Hall) -> str:
    """TOML for `backline usermap serve --config`."""
    return f"hall = {json.dumps(hall.site.name)}\n"
