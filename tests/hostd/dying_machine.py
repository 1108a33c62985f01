"""Does things to machines of a `machines_rig`, and dies on the way: the program of `tests.crash.Victims`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.crash import Dying, serve
from tests.hostd.machines_rig import FAILING, HANGING, NAME, NEW, OLD, ROLE, Rig


def _upgrade(version: str) -> Callable[[Rig], None]:
    def run(rig: Rig) -> None:
        rig.machines.plan_upgrade(NAME, version, gate_seconds=10, settle_seconds=1)
        rig.machines.settle(NAME)

    return run


def _create(rig: Rig) -> None:
    rig.machines.create(NAME, ROLE, version=OLD)
    rig.machines.settle(NAME)


def _revert(rig: Rig) -> None:
    rig.machines.revert(NAME)
    rig.machines.settle(NAME)


def _stop(rig: Rig) -> None:
    rig.machines.want(NAME, "stopped")
    rig.machines.settle(NAME)


OPERATIONS: dict[str, Callable[[Rig], None]] = {
    "create": _create,
    "upgrade": _upgrade(NEW),
    "upgrade that fails": _upgrade(FAILING),
    "upgrade that hangs": _upgrade(HANGING),
    "revert": _revert,
    "stop": _stop,
}


def prepare(rig: Rig, operation: str) -> None:
    """What is there before the operation."""
    rig.furnish()
    if operation != "create":
        _create(rig)
    if operation == "revert":
        OPERATIONS["upgrade"](rig)


def do(folder: Path, operation: str, step: Dying) -> None:
    OPERATIONS[operation](Rig(folder, step=step))


if __name__ == "__main__":
    serve(do)
