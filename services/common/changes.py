"""Who changed what: the structs of a history that a service keeps beside its records (`services.common.history`)."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """Who is acting, and from where: an address, or `local`."""

    name: str
    origin: str


class Action(Enum):
    """What a change of the audit log did."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed what, when and from where; `before` and `after` hold the fields that differ, null for no record."""

    id: int
    at: float
    actor: str
    origin: str
    action: Action
    topic: str
    key: str
    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the history, the newest first."""

    entries: list[AuditEntry]
