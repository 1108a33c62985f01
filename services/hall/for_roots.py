"""Settings of the roots service on a root file server, from hall.toml: who it is, and where gw is. Pure."""

from __future__ import annotations

import json
import re

from services.hall.schema import Hall

_RFS = re.compile(r"rfs([0-9]{1,4})")


def numbers(hall: Hall, host: str) -> list[int]:
    """Which root file servers a host is: the numbers of its aliases `rfsN`."""
    known = hall.hosts.get(host)
    aliases = [*known.aliases, *(alias for nic in known.nics for alias in nic.aliases)] if known else []
    return sorted(int(found[1]) for alias in aliases if (found := _RFS.fullmatch(alias)))


def settings(hall: Hall, host: str) -> str:
    """TOML for `backline root serve --config`."""
    values: dict[str, object] = {
        "host": host,
        "numbers": numbers(hall, host),
        "hall": hall.site.name,
        "depot": f"https://depot.{hall.site.domain}",
        "netboot": f"https://netboot.{hall.site.domain}",
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
