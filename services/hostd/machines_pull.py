"""A published version of a server's role comes to the iron from gw's depot.

The publication says which manifest its signers mean, the manifest which bytes; so neither the depot nor the way to it
has to be trusted. What comes is kept in `images/ROLE/.pull-VERSION` until all of it is verified, so that a pull that
was cut off goes on, and becomes the version's folder by one rename. `pulled.json` remembers the newest number of each
channel and role: an old statement is not taken once more, unless somebody asks for that version by name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.common import manifest as manifests
from services.common import statement as statements
from services.common.codec import decode_json, encode_json
from services.common.depot import DepotFiles, image_path
from services.common.errors import HostError, IntegrityError, MissingError
from services.common.manifest import Artefact
from services.common.signing import Signer
from services.common.statement import Publication, Statement
from services.common.versions import Ref
from services.hostd import durable
from services.hostd.durable import synchronise
from services.hostd.machines_images import Images
from services.hostd.machines_records import make_folder, remove

ROOT = "root.erofs"
PUBLICATION = "publication.json"
RESERVE = 256 << 20
"""Bytes that stay free on the disk."""
Moved = Callable[[int], None]


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """`pulled.json`: by channel and role ("stable/rhfs"), the newest number that was taken."""

    numbers: dict[str, int] = {}


@dataclass(frozen=True)
class Found:
    """A publication that is good, and the version that it means."""

    publication: Publication
    statement: Statement

    @property
    def ref(self) -> Ref:
        return Ref(self.statement.role, self.statement.version)


class Puller:
    """Pulls into `images`. The caller holds the lock of all machines while `pull` runs."""

    def __init__(
        self, images: Images, depot: DepotFiles, *, signers: Sequence[Signer], hall: str, reserve: int = RESERVE
    ) -> None:
        self.images, self.depot, self.signers, self.hall, self.reserve = images, depot, signers, hall, reserve
        self._memory = images.base / "pulled.json"

    def find(self, role: str, version: str, *, channel: str) -> Found:
        """The publication of that version, or the newest one of a role on a channel.

        Raises MissingError("machine.unpublished"); IntegrityError("publish.*") when there is one and it is not good:
        nobody's whom the hall trusts, another hall's, or an old one once more.
        """
        last = self._remembered().numbers.get(f"{channel}/{role}", 0)
        meant: list[tuple[int, Publication]] = []
        for publication in self.depot.publications(channel):
            with contextlib.suppress(IntegrityError):
                statement = statements.decode(publication.statement)
                if statement.channel == channel and statement.role == role and version in ("", statement.version):
                    meant.append((statement.sequence, publication))
        if not meant:
            what = f"{role}@{version}" if version else f"a version of {role}"
            raise MissingError(
                "machine.unpublished",
                f"{what} was not published on channel {channel}",
                hint=f"`backline publish {role} --channel {channel}` where it was built",
            )
        refused: IntegrityError | None = None
        for _, publication in sorted(meant, key=lambda each: each[0], reverse=True):
            try:
                # What was taken last may be taken again; asked for by name, any that was ever published.
                after = 0 if version else last - 1
                statement = statements.verify(publication, self.signers, last_sequence=after, hall=self.hall)
            except IntegrityError as error:
                refused = refused or error
            else:
                return Found(publication, statement)
        assert refused is not None
        raise refused

    def pull(self, found: Found, moved: Moved) -> bool:
        """Have the version afterwards; False when it was here already. `moved` hears of bytes that came.

        Raises IntegrityError: "publish.manifest", "machine.artefact"; MissingError("depot.*"), RemoteError,
        HostError("machine.space").
        """
        target = self.images.base / found.ref.role / found.ref.version
        if not target.exists():
            aside = target.with_name(f".pull-{found.ref.version}")
            make_folder(aside)
            self._fill(aside, found, moved)
            synchronise(aside)
            aside.rename(target)
            synchronise(target.parent)
            fresh = True
        else:
            fresh = False
        self._remember(found.statement)
        return fresh

    def _fill(self, aside: Path, found: Found, moved: Moved) -> None:
        path = image_path(found.ref, manifests.NAME)
        data = self.depot.small(path)
        if data is None:
            raise MissingError("depot.file", f"the depot has no {found.ref}", where=path)
        wanted = statements.check_manifest(found.statement, data).artefacts.get(ROOT)
        if wanted is None:
            raise IntegrityError("machine.manifest", f"{found.ref} has no {ROOT}")
        part, whole = aside / f"{ROOT}.part", aside / ROOT
        if not whole.exists():
            self._need_room(aside, wanted, part)
            came = part.stat().st_size if part.exists() else 0
            moved(came)
            self.depot.fetch(image_path(found.ref, ROOT), part, wanted.size, moved)
            if came and not _same(part, wanted):  # what an earlier pull had left was no good: once, from its start
                part.unlink()
                self.depot.fetch(image_path(found.ref, ROOT), part, wanted.size, lambda _: None)
            if not _same(part, wanted):
                remove(aside)
                raise IntegrityError("machine.artefact", f"{ROOT} of {found.ref} is not what was signed")
            part.rename(whole)
        elif not _same(whole, wanted):
            remove(aside)
            raise IntegrityError("machine.artefact", f"{ROOT} of {found.ref} is not what was signed")
        durable.write(aside / manifests.NAME, data)
        durable.write(aside / PUBLICATION, encode_json(found.publication))
        whole.chmod(0o644)

    def _need_room(self, aside: Path, wanted: Artefact, part: Path) -> None:
        info = os.statvfs(aside)
        need = wanted.size - (part.stat().st_size if part.exists() else 0)
        if info.f_bavail * info.f_frsize < need + self.reserve:
            hint = "`backline machine drop-image` removes a version that no machine runs or can go back to"
            raise HostError("machine.space", f"it needs {need} bytes, and {self.reserve} stay free", hint=hint)

    def _remembered(self) -> Pulled:
        try:
            return decode_json(self._memory.read_bytes(), Pulled)
        except (OSError, msgspec.DecodeError):
            return Pulled()

    def _remember(self, statement: Statement) -> None:
        numbers, key = self._remembered().numbers, f"{statement.channel}/{statement.role}"
        if statement.sequence > numbers.get(key, 0):
            durable.write(self._memory, encode_json(Pulled(numbers={**numbers, key: statement.sequence})))


def size_of(depot: DepotFiles, ref: Ref) -> int | None:
    """The bytes of a version's root, as the depot says; nothing depends on it."""
    with contextlib.suppress(IntegrityError):
        data = depot.small(image_path(ref, manifests.NAME))
        artefact = manifests.decode(data, where=str(ref)).artefacts.get(ROOT) if data is not None else None
        return artefact.size if artefact is not None else None
    return None


def _same(path: Path, wanted: Artefact) -> bool:
    return path.stat().st_size == wanted.size and manifests.hash_file(path).sha256 == wanted.sha256
