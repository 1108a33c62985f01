"""Machines as text, to take away and to bring back (`services.common.tables`). Pure.

Aliases are separated by spaces in CSV.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.common import tables
from services.common.formats import Format
from services.common.tables import Row
from services.mdb.rows import record
from services.mdb.schema import Machine

COLUMNS = (
    "id",
    "hostname",
    "aliases",
    "mac",
    "ip",
    "rfs",
    "hfs",
    "type",
    "room",
    "faulty",
    "faulty_reason",
    "channel",
    "pinned",
    "notes",
)


def read(content: bytes, format: Format) -> list[Row]:
    """The rows of a text. Raises InputError: `import.syntax`, `import.column`, `import.invalid` for several."""
    return tables.read(content, format, COLUMNS, what="machines")


def write(machines: Sequence[Machine], format: Format) -> str:
    """The text of some machines, which `read` understands."""
    return tables.write([record(machine) for machine in machines], format, COLUMNS)
