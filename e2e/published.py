"""Where a lab begins: root file servers that hold a version of the store already, and netboot told so.

A root file server's folder of versions is one on the store's own disk, and what the lab begins with lies in it as hard
links with a statement that the lab's hall has signed: to the server it is a version that it pulled some day, and it
verifies, serves and confirms it as any other. netboot is told by its own API over its unix socket, as an administrator
does it: the version, who holds it, and the channel that points to it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from builder.store import Store
from e2e import serial
from e2e.halls import LabHall
from netboot.client import Netboot
from netboot.schema import NewPointer, NewVersion
from services.common import manifest as manifests
from services.common import signing
from services.common import statement as statements
from services.common.codec import encode_json
from services.common.statement import Publication, Statement
from services.common.versions import Ref
from services.roots.held import RECORD, Folder, served
from services.roots.schema import Record

HELD = "/var/lib/backline/roots"
"""Where root file servers have their versions."""
PATH = "/images"
CHANNEL = "stable"
OWNER = 20070
"""The user backline-roots (images/ids.toml). Its folders are its own; the hard links stay the store's."""


@dataclass(frozen=True)
class Published:
    """A version, and the numbers of the root file servers of this lab that hold it."""

    ref: Ref
    root_hash: str
    size: int
    holders: tuple[int, ...]

    @property
    def path(self) -> str:
        """The version's part of every URL and path: one boot is one version."""
        return f"{PATH}/{self.ref.role}/{self.ref.version}"


def plan(store: Store, ref: Ref, holders: tuple[int, ...]) -> Published:
    """What there is of a version. Raises MissingError("store.unknown")."""
    manifest = store.manifest(ref.role, ref.version)
    size = sum(artefact.size for artefact in manifest.artefacts.values())
    return Published(ref, manifest.root_hash, size, holders)


def publish(address: str, published: Published, *, channel: str = CHANNEL) -> None:
    """Tell netboot at `address` of a version and who holds it, and let a channel point to it."""
    known = published.ref.version
    with Netboot(address) as netboot:
        netboot.add_version(version(published))
        for number in published.holders:
            netboot.hold(number, known)
        netboot.switch_channel(channel, NewPointer(version=known, why="the lab begins with it"))


def version(published: Published) -> NewVersion:
    """A version as netboot is told of it."""
    return NewVersion(
        version=published.ref.version,
        role=published.ref.role,
        root_hash=published.root_hash,
        options=" ".join(serial.COMMAND_LINE),
        size=published.size,
    )


def seed(folder: Path, store: Store, ref: Ref, hall: LabHall, *, key: Path, sequence: int = 1) -> None:
    """Make `folder` that of a root file server that holds a version, and give it to its service.

    A service that runs finds it when it is started again.
    """
    held = Folder(folder)
    held.prepare()
    place = held.place_of(ref)
    place.mkdir(parents=True)
    version = store.find(ref.role, ref.version)
    manifest = store.manifest(ref.role, ref.version)
    for name in (manifests.NAME, *served(manifest)):
        (place / name).hardlink_to(version / name)
    statement = Statement(
        channel=CHANNEL,
        sequence=sequence,
        role=ref.role,
        version=ref.version,
        manifest_sha256=manifests.hash_file(version / manifests.NAME).sha256,
        published_at=statements.now(),
        by="lab",
        hall=hall.data.site.name,
    )
    text = statements.encode(statement)
    signature = signing.sign(text, key, statements.NAMESPACE).decode()
    publication = Publication(id=0, statement=text.decode(), signatures=[signature])
    held.write(place / RECORD, encode_json(Record(publication=publication, taken=time.time())))
    own(folder)


def own(folder: Path) -> None:
    """Give the folders, not the files, to the service: what is in them are the store's."""
    for path, _, _ in os.walk(folder):
        os.chown(path, OWNER, OWNER)
