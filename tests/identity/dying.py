"""Brings users into force, and dies on the way: the program of `tests.watched.Victims`."""

from __future__ import annotations

from pathlib import Path

from services.identity.accounts import Own, accounts
from services.identity.folder import Folder
from tests.identity.people import hall
from tests.watched import serve

OLD = accounts(hall(20), Own()).files
NEW = accounts(hall(30), Own()).files
OPERATION = "users"


def open_folder(root: Path) -> Folder:
    return Folder(root / "identity")


def _run(*, root: str) -> None:
    open_folder(Path(root)).put(NEW)


if __name__ == "__main__":
    serve({OPERATION: _run})
