"""Adds, marks and collects versions of a store, and dies on the way: the program of `tests.watched.Victims`."""

from __future__ import annotations

import shutil
from pathlib import Path

from builder import gc
from builder.store import Store
from services.common.versions import Ref
from tests.watched import serve


def add(store: Store, staged: Path, ref: Ref) -> None:
    """From a folder elsewhere, which is copied."""
    store.add(ref.role, ref.version, staged)


def build(store: Store, staged: Path, ref: Ref) -> None:
    """From the store's own folder, which is renamed: as a build does it."""
    with store.staging() as folder:
        shutil.copytree(staged, folder, dirs_exist_ok=True)
        store.add(ref.role, ref.version, folder)


def mark(store: Store, staged: Path, ref: Ref) -> None:
    """Pin it, and make it the current one."""
    del staged
    store.pin("keep", ref)
    store.set_current(ref)


def collect(store: Store, staged: Path, ref: Ref) -> None:
    """Delete what nobody wants."""
    del staged, ref
    gc.execute(gc.plan(gc.gather(store, None), gc.Policy(days=0)), store)


OPERATIONS = {"add": add, "build": build, "pin, make current": mark, "collect": collect}


def _run(operation: str, *, root: str, staged: str, role: str, version: str) -> None:
    OPERATIONS[operation](Store(Path(root)), Path(staged), Ref(role, version))


if __name__ == "__main__":
    serve({name: lambda name=name, **more: _run(name, **more) for name in OPERATIONS})
