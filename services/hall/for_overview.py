"""The overview's settings on gw, from hall.toml: the hall's name, and its hosts with their addresses. Pure."""

from __future__ import annotations

import json

from services.hall.schema import Hall


def settings(hall: Hall) -> str:
    """TOML for `backline overview serve --config`."""
    lines = [f"hall = {json.dumps(hall.site.name)}", f"domain = {json.dumps(hall.site.domain)}"]
    for name, host in sorted(hall.hosts.items()):
        lines += ["", "[[hosts]]", f"name = {json.dumps(name)}", f"role = {json.dumps(host.role)}"]
        lines.append(f"address = {json.dumps(str(host.address))}")
    return "\n".join(lines) + "\n"
