"""A root file server that pulls and collects, and dies on the way: the program of `tests.watched.Victims`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.common.codec import decode_json
from services.common.collecting import GcRequest
from services.common.statement import Publication
from services.roots.held import Folder
from services.roots.keeper import Keeper
from services.roots.schema import Settings
from tests.roots.rig import HALL
from tests.watched import serve


def start(root: Path, depot: str, netboot: str, signers: Path) -> Keeper:
    """The service over a folder, as far as it does something to it: started, everything checked."""
    settings = Settings(
        host="rhfs01",
        numbers=[0, 1],
        hall=HALL,
        folder=root,
        depot=depot,
        netboot=netboot,
        signers=signers,
        keep=0,
        reserve_bytes=0,
    )
    # No time passes: how often it tells the depot how far it is would be another number of steps in each run.
    keeper = Keeper(settings, Folder(root), clock=lambda: 0.0)
    keeper.check()
    keeper.confirm()
    return keeper


def read(files: Sequence[str]) -> list[Publication]:
    """Publications that lie in files."""
    return [decode_json(Path(file).read_bytes(), Publication) for file in files]


def take(keeper: Keeper, publications: Sequence[Publication]) -> None:
    """As when the depot's feed tells of them."""
    keeper.take(publications)


def collect(keeper: Keeper, publications: Sequence[Publication]) -> None:
    """As `backline root gc` does, once it is known what is published."""
    keeper.take(publications)
    keeper.collect(GcRequest())


def remove(keeper: Keeper, publications: Sequence[Publication]) -> None:
    """As `backline root rm` does for the oldest."""
    keeper.take(publications)
    keeper.remove(keeper.held()[-1])


OPERATIONS = {"pull": take, "pull by a delta": take, "collect": collect, "remove": remove}


def _run(operation: str, *, root: str, depot: str, netboot: str, signers: str, publications: list[str]) -> None:
    OPERATIONS[operation](start(Path(root), depot, netboot, Path(signers)), read(publications))


if __name__ == "__main__":
    serve({name: lambda name=name, **more: _run(name, **more) for name in OPERATIONS})
