"""The depot's settings on gw, from hall.toml: the hall's name, and which servers receive versions. Pure."""

from __future__ import annotations

import json

from services.hall.schema import Hall

RECEIVERS = "rhfs"
"""The role of the servers that hold what machines boot."""


def settings(hall: Hall) -> str:
    """TOML for `backline depot serve --config`."""
    values: dict[str, object] = {"hall": hall.site.name, "receivers": sorted(hall.with_role(RECEIVERS))}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
