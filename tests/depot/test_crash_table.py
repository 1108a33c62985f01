"""A depot that dies at whichever step of bringing, publishing or deleting a version: what it serves is whole all along,
and a restart is before or after. The table is in docs/crash-table.md (`tests.crash_table`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from netboot.client import Netboot
from services.common import statement
from services.common.codec import encode_json
from services.common.errors import MissingError
from services.depot.deltas import Deltas
from services.depot.files import Files
from tests.crash_table import compare, lines, rows
from tests.depot.dying import MADE, OPERATIONS, Depot, do
from tests.depot.rig import ONE, TWO, People, delta_of, publication, says, serves
from tests.netboot import rig as netboot_rig
from tests.netboot.rig import Pair
from tests.watched import Victims

pytestmark = pytest.mark.needs("root", "loop devices", "held system calls")
LETTING_GO = ("delete", "collect")


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims("tests.depot.dying") as program:
        yield program


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with netboot_rig.pair(tmp_path_factory.mktemp("gw")) as running:
        yield running


class Operation:
    """A `tests.crash_table.Case`."""

    names: Mapping[str, str] = {ONE: "ONE", TWO: "TWO"}
    asides = ("depot/incoming", "depot/work")

    def __init__(self, operation: str, people: People, folder: Path, netboot: str, client: Netboot) -> None:
        self.operation = operation
        self.netboot = netboot
        self.client = client
        self.signers = folder / "allowed_signers"
        self.signers.write_text(statement_signers(people))
        self.publications = [folder / "publication-1.json", folder / "publication-2.json"]
        for number, (file, made) in enumerate(zip(self.publications, MADE.values(), strict=True), 1):
            file.write_bytes(encode_json(publication(people, says(made, number))))
        self.depot: Depot | None = None

    def open(self, root: Path) -> Depot:
        return Depot(root, self.netboot, self.signers)

    def prepare(self, root: Path) -> None:
        root.mkdir()
        depot = self.open(root)
        depot.files.prepare()
        depot.store.prepare()
        depot.bring(MADE[ONE])
        depot.publish(self.publications[0])
        if self.operation != "bring":
            depot.bring(MADE[TWO])
        if self.operation in LETTING_GO:
            depot.make_deltas()
            depot.publish(self.publications[1])
        depot.database.close()

    def begin(self) -> None:
        """netboot knows the first version only."""
        self.leave()
        if self.known(TWO) and self.operation == "publish":
            self.client.remove_version(TWO)

    def known(self, version: str) -> bool:
        return any(each.version == version for each in self.client.versions().versions)

    def arguments(self, root: Path) -> Mapping[str, object]:
        more = {"netboot": self.netboot, "signers": str(self.signers), "publication": str(self.publications[1])}
        return {"root": str(root), **more}

    def look(self, root: Path) -> None:
        if self.depot is None:
            self.depot = self.open(root)
        self.whole(self.depot)

    def leave(self) -> None:
        if self.depot is not None:
            self.depot.database.close()
            self.depot = None

    def whole(self, depot: Depot) -> list[int]:
        """What a receiver finds: whole versions, deltas that lead to them, and publications of such. Their numbers."""
        for made in MADE.values():
            serves(depot.files, made)  # asserts that it is whole, where it is
        deltas_lead_to_versions(depot.files)
        found = depot.store.publications()
        numbers = sorted(statement.decode(each.statement).sequence for each in found)
        assert numbers == list(range(1, len(found) + 1)), "numbers of a channel neither go back nor leave any out"
        for each in found:
            said = statement.decode(each.statement)
            assert self.known(said.version), "netboot knows what was published"
            assert self.operation in LETTING_GO or serves(depot.files, MADE[said.version])
        return numbers

    def remember(self) -> object:
        return self.known(TWO)

    def restart(self, root: Path, elsewhere: object) -> str:
        if self.operation == "publish" and not elsewhere and self.known(TWO):
            self.client.remove_version(TWO)
        depot = self.open(root)
        depot.files.prepare()
        depot.store.prepare()
        assert list(depot.files.work.iterdir()) == []
        numbers = self.whole(depot)
        jobs = list(depot.deltas.all_missing())
        done = {
            "bring": serves(depot.files, MADE[TWO]),
            "make a delta": not jobs,
            "publish": numbers == [1, 2],
            "delete": not serves(depot.files, MADE[TWO]),
            "collect": not serves(depot.files, MADE[ONE]),
        }[self.operation]
        assert done or self.operation in LETTING_GO or len(numbers) == 1
        if self.operation == "delete" and done:
            assert list(depot.files.deltas.glob("*/*")) == [], "deltas to nothing"
        if self.operation == "delete" and done:
            with pytest.raises(MissingError):
                do("delete", depot, self.publications[1])
        else:
            do(self.operation, depot, self.publications[1])
        numbers = self.whole(depot)
        if self.operation == "publish":
            assert numbers == [1, 2]
        elif self.operation == "make a delta":
            assert list(depot.deltas.all_missing()) == []
            assert delta_of(depot.files.root / "files", MADE[TWO].ref, ONE, "root.erofs")["bytes"]
        else:
            assert serves(depot.files, MADE[ONE]) == (self.operation != "collect")
            assert serves(depot.files, MADE[TWO]) == (self.operation != "delete")
        assert {path.name for path in depot.files.work.iterdir()} <= {"patch.log"}  # written over each time
        depot.database.close()
        return "after" if done else "before"


def deltas_lead_to_versions(files: Files) -> None:
    """A delta that is described is there, whole."""
    for made in MADE.values():
        for delta in Deltas(files, count=3, limit=1 << 30).of(made.ref):
            if delta.bytes is not None:
                path = files.deltas / made.ref.role / made.ref.version / delta.from_version / f"{delta.name}.zst"
                assert hashlib.sha256(path.read_bytes()).hexdigest() == delta.sha256


def statement_signers(people: People) -> str:
    from services.common import signing

    return signing.format_signers(people.signers())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_depot_that_dies_is_before_or_after(
    operation: str, victims: Victims, pair: Pair, people: People, tmp_path: Path, memory: Path
) -> None:
    with Netboot(pair.netboot.unix) as client:
        case = Operation(operation, people, tmp_path, pair.netboot.unix, client)
        found = rows("depot", case, victims, tmp_path, memory=memory)
    assert (found[0].killed, found[-1].killed) == ("before", "after")
    assert (found[0].cut, found[-1].cut) == ("before", "after"), "what was answered is there after a power cut"
    compare("depot", operation, lines(operation, found))
