"""A depot as a process beside a real netboot, as systemd starts them; small versions, and who signs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.common import manifest as manifests
from services.common import signing, statement
from services.common.manifest import Artefact, Manifest
from services.common.signing import Signer
from services.common.statement import Statement
from services.common.tokens import CREDENTIAL
from services.common.versions import Ref
from services.depot.client import Depot
from services.depot.files import Files
from services.depot.schema import NewPublication, NewUpload, Version
from tests.common.service_rig import Service, activated
from tests.netboot import rig as netboot_rig

DEPOT = [sys.executable, "-m", "services.common.main", "depot", "serve"]
HALL = "pasteur"
RECEIVERS = ("rhfs1", "rhfs2")
RECIPES = {hashlib.sha256(text).hexdigest()[:12]: text for text in (b"old", b"one", b"two", b"three")}
OLD, ONE, TWO, THREE = map(".".join, zip(("20251121", "20261121", "20261122", "20261123"), RECIPES, strict=True))
CONFIGURATION = """
folder = "{folder}/state"
database = "{database}"
netboot = "{netboot}"
signers = "{folder}/allowed_signers"
hall = "pasteur"
receivers = ["rhfs1", "rhfs2"]
"""


@dataclass
class People:
    """Whom hall.toml trusts (anna), and somebody else (eve)."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> People:
        for name in ("anna", "eve"):
            signing.new_key(folder / name, comment=name)
        return cls(folder)

    def key(self, name: str = "anna") -> Path:
        return self.folder / name

    def signers(self) -> list[Signer]:
        return [Signer("anna", signing.read_public(self.key()))]

    def sign(self, data: bytes, *, by: str = "anna", namespace: str = statement.NAMESPACE) -> str:
        return signing.sign(data, self.key(by), namespace).decode()


@dataclass
class Image:
    """A version of a role: its files and manifest."""

    ref: Ref
    files: dict[str, bytes]
    manifest: bytes = field(init=False)

    def __post_init__(self) -> None:
        artefacts = {name: Artefact(len(data), hashlib.sha256(data).hexdigest()) for name, data in self.files.items()}
        self.manifest = manifests.encode(
            Manifest(
                role=self.ref.role,
                version=self.ref.version,
                recipe_id=hashlib.sha256(self.recipe).hexdigest(),
                tree_id="b" * 64,
                root_hash="c" * 64,
                epoch=0,
                kernel="6.12" if "vmlinuz" in self.files else None,
                artefacts=artefacts,
                packages=[],
                wheels=[],
            )
        )

    @property
    def recipe(self) -> bytes:
        """What it was made from, as far as a store looks at it."""
        return RECIPES.get(self.ref.version.partition(".")[2], b"")

    def announce(self, people: People, *, by: str = "anna") -> NewUpload:
        """What begins its upload."""
        signature = people.sign(self.manifest, by=by, namespace=manifests.SIGNATURE_NAMESPACE)
        return NewUpload(
            role=self.ref.role, version=self.ref.version, manifest=self.manifest.decode(), signatures=[signature]
        )

    def store(self, folder: Path) -> Path:
        """Its folder, as a store has it."""
        folder.mkdir(parents=True)
        for name, data in {**self.files, "manifest.json": self.manifest, "recipe.json": self.recipe}.items():
            (folder / name).write_bytes(data)
        return folder


def noise(seed: str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def image(version: str = ONE, *, role: str = "nfsroot", change: str = "", size: int = 300_000) -> Image:
    """A version whose root differs from the others in a few bytes, and whose kernel is the same."""
    root = noise("root", size)
    middle = size // 2
    text = f"{version}{change}".encode()
    files = {
        "root.erofs": root[:middle] + text + root[middle + len(text) :],
        "root.verity": noise(version + change, 5000),
        "vmlinuz": noise("vmlinuz", 20_000),
        "initrd": noise("initrd", 30_000),
        "sbom.cdx.json": b"{}",
    }
    return Image(Ref(role, version), files)


def bring(depot: Depot, made: Image, people: People, *, piece: int = 100_000) -> Version:
    """Upload a whole version."""
    missing = depot.begin(made.announce(people)).missing
    for name, begin in missing.items():
        data = made.files[name]
        for offset in range(begin, len(data), piece):
            depot.put(made.ref.role, made.ref.version, name, offset, data[offset : offset + piece])
    return depot.complete(made.ref.role, made.ref.version)


def says(made: Image, sequence: int, *, channel: str = "stable", **more: object) -> Statement:
    """A statement about a version."""
    said = Statement(
        channel=channel,
        sequence=sequence,
        role=made.ref.role,
        version=made.ref.version,
        manifest_sha256=hashlib.sha256(made.manifest).hexdigest(),
        published_at="2026-11-26T00:00:00Z",
        by="anna",
        hall=HALL,
    )
    return msgspec.structs.replace(said, **more)


def publication(people: People, said: Statement, *, by: str = "anna", to: list[str] | None = None) -> NewPublication:
    """A statement, signed."""
    text = statement.encode(said)
    return NewPublication(statement=text.decode(), signatures=[people.sign(text, by=by)], to=to or [])


def configure(folder: Path, people: People, *, database: str = "", netboot: str = "unix:/nowhere") -> Path:
    """The settings of a depot whose state lies below `folder`."""
    (folder / "state").mkdir(parents=True, exist_ok=True)
    (folder / "allowed_signers").write_text(signing.format_signers(people.signers()))
    file = folder / "depot.toml"
    database = database or f"sqlite:///{folder}/depot.db"
    file.write_text(CONFIGURATION.format(folder=folder, database=database, netboot=netboot))
    return file


@contextlib.contextmanager
def serving(folder: Path, people: People, *, netboot: str = "unix:/nowhere", **more: str) -> Iterator[Service]:
    """A depot, ready to answer; a second time over the same state."""
    file = configure(folder, people, netboot=netboot)
    own = folder / "run"
    own.mkdir(exist_ok=True)
    for left in ("service.sock", "notify"):
        (own / left).unlink(missing_ok=True)
    (own / CREDENTIAL).write_bytes(netboot_rig.KEY)
    env = {"CREDENTIALS_DIRECTORY": str(own), **more}
    with activated(own, [*DEPOT, "--config", str(file)], env=env) as service:
        own.chmod(0o711)
        yield service


@dataclass
class Hall:
    """A depot and the netboot that it tells of versions."""

    depot: Service
    netboot: Service
    people: People
    folder: Path

    @property
    def served(self) -> Path:
        """The folder that nginx serves as /files/."""
        return self.folder / "state/files"


@contextlib.contextmanager
def hall(folder: Path, people: People) -> Iterator[Hall]:
    """Both, with empty databases. There is no mdb: netboot waits for it."""
    below = folder / "netboot"
    below.mkdir()
    with netboot_rig.serving(below, f"sqlite:///{below}/netboot.db", f"unix:{below}/mdb.sock") as netboot:
        with serving(folder / "depot", people, netboot=netboot.unix) as depot:
            yield Hall(depot, netboot, people, folder / "depot")


def delta_of(served: Path, ref: Ref, old: str, name: str) -> dict[str, object]:
    """What is said of a delta, as a receiver reads it."""
    made: dict[str, object] = json.loads((served / f"deltas/{ref.role}/{ref.version}/{old}/{name}.json").read_bytes())
    return made


def serves(files: Files, made: Image) -> bool:
    """Whether nginx would serve all of it, byte by byte; false when it would serve nothing of it."""
    folder = files.images / made.ref.role / made.ref.version
    if not folder.exists():
        return False
    names = {"root.erofs", "root.verity", "vmlinuz", "initrd"} & made.files.keys()
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json", "manifest.json.anna.sig"}
    assert all((folder / name).read_bytes() == made.files[name] for name in names)
    assert (folder / "manifest.json").read_bytes() == made.manifest
    return True
