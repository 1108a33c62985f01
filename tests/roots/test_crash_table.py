"""A root file server that dies at whichever step of pulling or letting go of a version: what netboot offers from it is
there as a whole, all along and after the restart. The table is in docs/crash-table.md (`tests.crash_table`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from netboot.client import Netboot
from netboot.schema import NewVersion
from services.common.codec import encode_json
from services.common.versions import Ref
from services.roots.held import Folder
from services.roots.keeper import Keeper
from tests.crash_table import compare, lines, rows
from tests.netboot import rig as netboot_rig
from tests.netboot.rig import Pair
from tests.roots.dying import OPERATIONS, read, start
from tests.roots.rig import Hall, noise, same
from tests.watched import Victims

pytestmark = pytest.mark.needs("root", "loop devices", "held system calls")
SIZE = 150_000


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims("tests.roots.dying") as program:
        yield program


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with netboot_rig.pair(tmp_path_factory.mktemp("gw")) as running:
        yield running


class Operation:
    """A `tests.crash_table.Case`: the old version is held, the new one comes, or both are and the old one goes."""

    asides = ("staging", "trash")

    def __init__(self, operation: str, hall: Hall, netboot: str, client: Netboot) -> None:
        self.operation = operation
        self.comes = operation.startswith("pull")
        self.hall = hall
        self.netboot = netboot
        self.client = client
        self.old = hall.version(root=noise(1, SIZE))
        self.new = hall.version(root=noise(1, SIZE)[:-1000] + noise(2, 1000))
        self.names = {self.old.version: "OLD", self.new.version: "NEW"}
        if operation == "pull by a delta":
            hall.delta(self.new, self.old)
        self.files = []
        for number, ref in enumerate((self.old, self.new), 1):
            self.client.add_version(NewVersion(version=ref.version, root_hash="0" * 64))
            path = hall.place / f"publication-{number}.json"
            path.write_bytes(encode_json(hall.publication(ref, id=number, sequence=number)))
            self.files.append(str(path))
        self.whole: set[tuple[object, ...]] = set()

    def start(self, root: Path) -> Keeper:
        return start(root, self.hall.server.url, self.netboot, self.hall.signers)

    def prepare(self, root: Path) -> None:
        root.mkdir()
        keeper = self.start(root)
        if self.operation != "pull":
            keeper.take(read(self.files[:1]))
        if not self.comes:
            keeper.take(read(self.files))
        self.before = self.held()

    def held(self) -> frozenset[tuple[int, str]]:
        """What netboot offers from here."""
        ours = (self.old.version, self.new.version)
        return frozenset((each.rfs, each.version) for each in self.client.holdings().holdings if each.version in ours)

    def set_held(self, wanted: frozenset[tuple[int, str]]) -> None:
        for number, version in self.held() - wanted:
            self.client.release(number, version)
        for number, version in wanted - self.held():
            self.client.hold(number, version)

    def begin(self) -> None:
        self.set_held(self.before)

    def arguments(self, root: Path) -> Mapping[str, object]:
        return {
            "root": str(root),
            "depot": self.hall.server.url,
            "netboot": self.netboot,
            "signers": str(self.hall.signers),
            "publications": self.files,
        }

    def look(self, root: Path) -> None:
        """Be a seat that netboot sends here, and one that reads what is exported."""
        folder = Folder(root)
        there = {ref.version for ref in folder.refs()}
        for ref in folder.refs():
            self.is_whole(folder, ref)
        for number, version in self.held():
            assert version in there, f"netboot offers {version} from rfs{number}, where it is not"

    def is_whole(self, folder: Folder, ref: Ref) -> None:
        files = sorted(folder.place_of(ref).iterdir())
        key = (ref, *((path.name, (info := path.stat()).st_ino, info.st_size, info.st_mtime_ns) for path in files))
        if key not in self.whole:
            assert same(self.hall, folder, ref)
            assert folder.verify(ref, [self.hall.signer])
            self.whole.add(key)

    def leave(self) -> None:
        return None

    def remember(self) -> object:
        return self.held()

    def restart(self, root: Path, elsewhere: object) -> str:
        assert isinstance(elsewhere, frozenset)
        self.set_held(elsewhere)
        self.whole.clear()
        self.look(root)  # what was offered when it died is there when it is back, before anything has run
        subject = self.new if self.comes else self.old
        keeper = self.start(root)
        self.look(root)
        there = keeper.folder.have(subject)
        words = {number for number, version in self.held() if version == subject.version}
        assert words == ({0, 1} if there else set()), "netboot knows what is here, and nothing else"
        assert list(keeper.folder.trash.iterdir()) == []
        seen = keeper.memory.channels["stable"].sequence if keeper.memory.channels else 0
        assert seen >= (2 if there or not self.comes else 0), "what was taken once is not taken again"
        said = "after" if there == self.comes else "before"
        if self.comes or there:
            OPERATIONS[self.operation](keeper, read(self.files))
        assert keeper.folder.have(subject) == self.comes
        self.look(root)
        words = {number for number, version in self.held() if version == subject.version}
        assert words == ({0, 1} if self.comes else set())
        assert [path for path in keeper.folder.staging.rglob("*") if path.is_file()] == []
        return said


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_root_file_server_that_dies_is_before_or_after(
    operation: str, victims: Victims, pair: Pair, hall: Hall, tmp_path: Path, memory: Path
) -> None:
    with Netboot(pair.netboot.unix) as client:
        found = rows("roots", Operation(operation, hall, pair.netboot.unix, client), victims, tmp_path, memory=memory)
    assert (found[0].killed, found[-1].killed) == ("before", "after")
    assert (found[0].cut, found[-1].cut) == ("before", "after"), "what was told is there after a power cut"
    compare("roots", operation, lines(operation, found))
