"""Users as text, to take away and to bring back (`services.common.tables`). Pure.

SSH keys are a line each in one cell of CSV. No table that we write has a password.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.common import tables
from services.common.formats import Format
from services.common.tables import Row
from services.udb.rows import plain
from services.udb.schema import User

COLUMNS = ("id", "login", "firstname", "lastname", "uid", "group", "shell", "keys", "site_id")
TAKEN = (*COLUMNS, "password")


def read(content: bytes, format: Format) -> list[Row]:
    """The rows of a text. Raises InputError: `import.syntax`, `import.column`, `import.invalid` for several."""
    return tables.read(content, format, TAKEN, what="users")


def write(users: Sequence[User], format: Format) -> str:
    """The text of some users, which `read` understands."""
    return tables.write([plain(user) for user in users], format, COLUMNS, between="\n")
