"""What the depot deletes and what it keeps, beside a real netboot that a real mdb feeds; and a disk that is full."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from netboot.client import Netboot
from netboot.schema import NewPin, NewPointer, PinKind
from services.common.collecting import GcAnswer, GcRequest
from services.common.errors import BacklineError
from services.depot.cli import parser
from services.depot.client import Depot
from services.depot.schema import NewProgress, State
from tests.depot.rig import Image, People, bring, image, publication, says, serving
from tests.netboot.rig import Pair, pair, until

OLD_SECONDS = 7200.0


def version(number: int) -> str:
    return f"202611{number:02}.{number:012x}"


@dataclass
class Rig:
    """A depot with versions 1 to 8 of nfsroot, the first one the oldest, and what netboot says of them."""

    depot: Depot
    netboot: Netboot
    people: People
    folder: Path
    sequences: dict[str, int] = field(default_factory=dict)

    @property
    def images(self) -> Path:
        return self.folder / "state/files/images/nfsroot"

    def bring(self, made: Image, *, ago: float) -> None:
        bring(self.depot, made, self.people)
        moment = time.time() - ago
        os.utime(self.images.parent / str(made.ref) / "manifest.json", (moment, moment))

    def publish(self, number: int, channel: str) -> int:
        sequence = self.sequences[channel] = self.sequences.get(channel, 0) + 1
        said = says(image(version(number)), sequence, channel=channel)
        return self.depot.publish(publication(self.people, said)).id


@pytest.fixture(scope="module")
def gw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory.mktemp("gw")) as running:
        with Netboot(running.netboot.unix) as netboot:
            until(lambda: heard(netboot))
        yield running


def heard(netboot: Netboot) -> bool:
    """Whether mdb was: until then netboot does not say who has a pin."""
    try:
        netboot.users(version(1))
    except BacklineError as error:
        return error.code == "version.unknown"
    return True


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, people: People, gw: Pair) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("depot")
    with serving(folder, people, netboot=gw.netboot.unix) as service:
        with Depot(service.unix) as depot, Netboot(gw.netboot.unix) as netboot:
            made = Rig(depot, netboot, people, folder)
            for number in range(1, 9):
                made.bring(image(version(number)), ago=OLD_SECONDS + 100 - number)
                until(lambda: depot.version("nfsroot", version(number), wait=20).pending == 0)  # noqa: B023
            for number in range(2, 7):
                made.publish(number, "stable")
            made.publish(2, "next")
            netboot.switch_channel("stable", NewPointer(version=version(3), why="a test"))
            netboot.switch_channel("stable", NewPointer(version=version(4), why="a test"))
            netboot.pin(PinKind.ROOM, "pasteur", NewPin(version=version(5), why="a test"))
            yield made


def why(answer: GcAnswer, number: int) -> str:
    """What speaks for a version; "" for one that goes."""
    return next(("; ".join(each.why) for each in answer.kept if each.version == version(number)), "")


def test_each_version_that_stays_is_named_with_its_reasons(rig: Rig) -> None:
    answer = rig.depot.collect(GcRequest(keep=1, plan=True))
    assert why(answer, 2) == "what channel next got last"
    assert why(answer, 3) == "channel stable"  # netboot goes back to it
    assert why(answer, 4) == "channel stable"
    assert why(answer, 5) == "pin of room pasteur"
    assert why(answer, 6) == "what channel stable got last"
    assert why(answer, 8) == "one of the 1 newest of nfsroot"
    assert answer.removed == [f"nfsroot/{version(7)}", f"nfsroot/{version(1)}"]
    assert answer.bytes == 2 * 355_000
    assert len(rig.depot.versions().versions) == 8, "a plan changes nothing"


def test_as_many_as_are_wanted_of_the_newest_stay(rig: Rig) -> None:
    assert rig.depot.collect(GcRequest(keep=2, plan=True)).removed == [f"nfsroot/{version(1)}"]
    assert rig.depot.collect(GcRequest(plan=True)).removed == [f"nfsroot/{version(1)}"]


def test_what_a_receiver_pulls_stays_until_it_has_it(rig: Rig) -> None:
    id = rig.publish(7, "pulled")
    rig.publish(8, "pulled")
    word = NewProgress(bytes=1, total=2, full=3, state=State.PULLING)
    rig.depot.progress(id, "rhfs2", word)
    assert why(rig.depot.collect(GcRequest(keep=1, plan=True)), 7) == "rhfs2 is pulling it"
    rig.depot.progress(id, "rhfs2", NewProgress(bytes=2, total=2, full=3, state=State.CONFIRMED))
    assert why(rig.depot.collect(GcRequest(keep=1, plan=True)), 7) == ""


def test_what_has_just_come_waits_for_its_publication(rig: Rig) -> None:
    rig.bring(image(version(9), role="web"), ago=0)
    answer = rig.depot.collect(GcRequest(keep=0, plan=True))
    assert why(answer, 9) == "it has just come, and is not published yet"


def test_what_nobody_needs_goes_with_the_deltas_to_it(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gc", "--keep", "1", "--address", str(rig.depot.endpoint)]
    arguments = parser("depot").parse_args(words)
    assert arguments.run(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"removed nfsroot/{version(7)}", f"removed nfsroot/{version(1)}"]
    assert f"kept nfsroot/{version(5)}: pin of room pasteur" in said
    assert said[-1] == "693.4 KiB freed"
    assert not (rig.images / version(1)).exists()
    assert not (rig.images.parent.parent / f"deltas/nfsroot/{version(7)}").exists()
    assert (rig.images / version(8)).exists()


def test_without_netboot_nothing_goes_that_a_machine_could_boot(tmp_path: Path, people: People) -> None:
    with serving(tmp_path, people) as service, Depot(service.unix) as depot:
        rig = Rig(depot, Netboot("unix:/nowhere"), people, tmp_path)
        rig.bring(image(version(1)), ago=OLD_SECONDS)
        other = image(version(2), role="web")
        other = Image(other.ref, {name: data for name, data in other.files.items() if name.startswith("root")})
        bring(depot, other, people)
        os.utime(rig.images.parent / f"web/{version(2)}/manifest.json", (1, 1))
        answer = depot.collect(GcRequest(keep=0))
        assert answer.removed == [f"web/{version(2)}"]
        assert why(answer, 1).startswith("netboot does not say who uses it")


def test_an_upload_that_does_not_fit_makes_room_for_itself(tmp_path: Path, people: People, gw: Pair) -> None:
    if os.geteuid() != 0:
        pytest.skip("missing capability: root")
    (tmp_path / "state").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "depot", tmp_path / "state"], check=True)
    small = {"BACKLINE_DEPOT_KEEP": "1", "BACKLINE_DEPOT_DELTAS": "0", "BACKLINE_DEPOT_ROOM_BYTES": "0"}
    try:
        with serving(tmp_path, people, netboot=gw.netboot.unix, **small) as service, Depot(service.unix) as depot:
            rig = Rig(depot, Netboot(gw.netboot.unix), people, tmp_path)
            for number in (11, 12, 13):
                rig.bring(image(version(number), size=1_200_000), ago=OLD_SECONDS - number)
            rig.bring(image(version(14), size=1_200_000), ago=0)
            assert [each.version for each in depot.versions().versions] == [version(14), version(13)]
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "state"], check=True)
