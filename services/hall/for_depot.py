"""The depot's settings on gw, from hall.toml: the hall's name, and which servers receive versions. Pure."""

from __future__ import annotations

import json

from services.hall.for_roots import numbers
from services.hall.schema import Hall

RECEIVERS = "rhfs"
"""The role of the servers that hold what machines boot."""


def settings(hall: Hall) -> str:
    """TOML for `backline depot serve --config`."""
    receivers = sorted(host for host in hall.with_role(RECEIVERS) if numbers(hall, host))
    values: dict[str, object] = {"hall": hall.site.name, "receivers": receivers}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
