"""Records as udb's feed has them."""

from __future__ import annotations

from typing import Any

from services.common.users import UID_POOLS, UserGroup

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFB0G8KSd8wG1C4mKE5l+4WnGnxCXXNhypDtLBYLbq4e"


def person(number: int, login: str, group: UserGroup = UserGroup.USER, **more: Any) -> dict[str, Any]:
    """The record of user `number`."""
    return {
        "id": number,
        "login": login,
        "firstname": login.capitalize(),
        "lastname": "Martin",
        "uid": UID_POOLS[group].first + number,
        "group": group.value,
        "shell": "/bin/bash",
        "revision": number,
        **more,
    }


def hall(count: int) -> list[tuple[str, dict[str, Any]]]:
    """So many contestants."""
    return [(str(number), person(number, f"user{number}", uid=10_000 + number)) for number in range(count)]
