"""Settings of the state service on gw and on root file servers, from hall.toml. Pure."""

from __future__ import annotations

import json

from services.hall.schema import Hall

RECEIVERS = "rhfs"
"""The role of the servers that keep copies of gw's state."""


def settings(hall: Hall, host: str, role: str) -> str:
    """TOML for `backline state serve --config`. gw brings copies to every root file server; these bring none."""
    receivers = [f"{name}={known.address}" for name, known in sorted(hall.with_role(RECEIVERS).items())]
    values: dict[str, object] = {
        "hall": hall.site.name,
        "domain": hall.site.domain,
        "host": host,
        "receivers": receivers if role == "gw" else [],
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
