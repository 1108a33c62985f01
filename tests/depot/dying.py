"""Brings, publishes and deletes versions, and dies on the way: the program of `tests.watched.Victims`."""

from __future__ import annotations

from pathlib import Path

from services.common.codec import decode_json
from services.common.collecting import GcRequest
from services.common.database import Database
from services.depot.app import Api
from services.depot.collecting import Collector
from services.depot.deltas import Deltas
from services.depot.files import Files
from services.depot.schema import NewPublication, Settings
from services.depot.store import Store
from tests.depot.rig import HALL, ONE, TWO, Image, image
from tests.watched import serve

SIZE = 120_000
MADE = {version: image(version, size=SIZE) for version in (ONE, TWO)}


class Depot:
    """A depot's parts over a folder, and the netboot that it tells."""

    def __init__(self, root: Path, netboot: str, signers: Path) -> None:
        self.files = Files(root / "depot")
        self.database = Database(f"sqlite:///{root}/depot.db")
        self.store = Store(self.database, self.files, signers_file=signers, hall=HALL)
        self.deltas = Deltas(self.files, count=3, limit=1 << 30)
        self.api = Api(self.store, self.deltas, Settings(netboot=netboot))

    def bring(self, made: Image) -> None:
        """A whole version, each file in two pieces."""
        for name, begin in (self.files.begin(made.ref, made.manifest, {"anna": b"signature"}) or {}).items():
            half = (begin + len(made.files[name])) // 2
            for offset, end in ((begin, half), (half, None)):
                with self.files.receive(made.ref, name, offset) as sink:
                    sink.write(made.files[name][offset:end])
        self.files.complete(made.ref)

    def publish(self, file: Path) -> None:
        """A signed publication that lies in a file."""
        self.store.publish("anna", decode_json(file.read_bytes(), NewPublication), self.api._announce)

    def make_deltas(self) -> None:
        """All that are to be made."""
        for job in list(self.deltas.all_missing()):
            self.deltas.make(job)


def do(operation: str, depot: Depot, publication: Path) -> None:
    """One operation, as the service does it on a request."""
    if operation == "bring":
        depot.bring(MADE[TWO])
    elif operation == "make a delta":
        depot.make_deltas()
    elif operation == "publish":
        depot.publish(publication)
    elif operation == "delete":
        depot.files.remove(MADE[TWO].ref)
    elif operation == "collect":
        collector = Collector(depot.store, netboot=depot.api.settings.netboot, keep=1, busy=lambda: ())
        collector.collect(GcRequest())
    else:
        raise AssertionError(operation)


OPERATIONS = ("bring", "make a delta", "publish", "delete", "collect")


def _run(operation: str, *, root: str, netboot: str, signers: str, publication: str) -> None:
    do(operation, Depot(Path(root), netboot, Path(signers)), Path(publication))


if __name__ == "__main__":
    serve({name: lambda name=name, **more: _run(name, **more) for name in OPERATIONS})
