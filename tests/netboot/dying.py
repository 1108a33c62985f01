"""Moves a channel's pointer, and dies on the way: the program of `tests.watched.Victims`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from netboot.schema import Extension, Move, NewPointer, Rollback
from netboot.store import Actor, Store
from services.common.database import Database
from tests.netboot.rig import ONE, TWO, machines, new_version, seat
from tests.watched import serve

ME = Actor("alice")
ON_TRIAL = NewPointer(version=TWO, commit_within=600, only=[1])


def open_store(root: Path) -> Store:
    """netboot's database in a folder; mdb knows two seats."""
    return Store(Database(f"sqlite:///{root}/netboot.db"), machines(seat(1), seat(2)))


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "switch": lambda store: store.switch_channel(ME, "stable", NewPointer(version=TWO)),
    "switch on trial": lambda store: store.switch_channel(ME, "stable", ON_TRIAL),
    "extend a trial": lambda store: store.extend_channel(ME, "stable", Extension(commit_within=900)),
    "commit": lambda store: store.commit_channel(ME, "stable", Move()),
    "rollback": lambda store: store.rollback_channel(ME, "stable", Rollback()),
    "rollback of a trial, quarantine": lambda store: store.rollback_channel(ME, "stable", Rollback(quarantine=True)),
    "confirm a version": lambda store: store.hold(2, TWO),
    "take a confirmation back": lambda store: store.release(1, TWO),
}


def prepare(root: Path, operation: str) -> None:
    """What is there before: two versions on rfs1, and a pointer."""
    root.mkdir()
    store = open_store(root)
    store.prepare()
    for version in (ONE, TWO):
        store.add_version(ME, new_version(version))
        store.hold(1, version)
    store.switch_channel(ME, "stable", NewPointer(version=ONE))
    if operation == "rollback":
        OPERATIONS["switch"](store)
    elif operation in ("commit", "extend a trial", "rollback of a trial, quarantine"):
        OPERATIONS["switch on trial"](store)
    store.database.close()


if __name__ == "__main__":
    serve({name: lambda root, do=do: do(open_store(Path(root))) for name, do in OPERATIONS.items()})
