"""Where a lab begins: root file servers that hold a version of the store already, and netboot told so.

A root file server's folder of versions is one on the store's own disk, and what the lab begins with lies in it as hard
links with a statement that the lab's hall has signed: to the server it is a version that it pulled some day, and it
verifies, serves and confirms it as any other. netboot is told by its own API over its unix socket, as an administrator
does it: the version, who holds it, and the channel that points to it.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from builder.store import Store
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
"""The user backline-roots (images/ids.toml). Hard links stay the store's."""
DEPOT = "/var/lib/backline-depot"
"""Where gw has what is published."""
DEPOT_OWNER = 20050
"""The user backline-depot."""
_LINKED = "root.erofs"


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
        size=published.size,
    )


def seed(folder: Path, store: Store, ref: Ref, hall: LabHall, *, key: Path, sequence: int = 1) -> None:
    """Make `folder` that of a root file server that holds a version, and give it to its service.

    A service that runs finds it when it is started again.
    """
    held = Folder(folder)
    held.prepare()
    place = held.place_of(ref)
    version = _link(place, store, ref)
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


def stock(folder: Path, store: Store, ref: Ref) -> None:
    """Make `folder` that of a depot to which a version was brought already, and give it to its service."""
    folder.mkdir()
    _link(folder / "files/images" / ref.role / ref.version, store, ref)
    own(folder, DEPOT_OWNER)


def _link(place: Path, store: Store, ref: Ref) -> Path:
    """A version's manifest and what is served of it in `place`; returns its folder in the store.

    The root, which is nearly all of it, is the store's own by a hard link. The others are copies, since services link
    from version to version what is the same in both, and the kernel lets them do so with their own files only
    (proc_sys_fs(5), protected_hardlinks).
    """
    place.mkdir(parents=True)
    version = store.find(ref.role, ref.version)
    for name in (manifests.NAME, *served(store.manifest(ref.role, ref.version))):
        if name == _LINKED:
            (place / name).hardlink_to(version / name)
        else:
            shutil.copyfile(version / name, place / name)
            (place / name).chmod(0o444)
    return version


def own(folder: Path, owner: int = OWNER) -> None:
    """Give it to the service, but for what is the store's."""
    for path, _, names in os.walk(folder):
        for each in (path, *(f"{path}/{name}" for name in names if name != _LINKED)):
            os.chown(each, owner, owner)
