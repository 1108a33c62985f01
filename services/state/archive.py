"""Open an archive: verify all of it, then unpack it into a folder. Nothing of what is in it is believed before.

Paths come from the manifest, and are checked to be below their part; members of the tar are looked for by these names,
and read as bytes: no owner, mode, link or device of the tar counts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import msgspec

from services.common.codec import decode_json
from services.common.errors import IntegrityError, MissingError
from services.state import databases
from services.state.save import MANIFEST
from services.state.schema import FORMAT, Entry, Kind, Manifest, Settings
from services.state.seal import Key, unseal

_MANIFEST_MAX = 64 * 1024 * 1024
_PIECE = 1024 * 1024
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, KeyError, OSError)


def open_archive(path: Path, into: Path, key: Key | None) -> Manifest:
    """Unpack an archive into the empty folder `into`, as `PART/PATH`, files only. Returns its manifest.

    Raises MissingError("state.archive", "state.key"), IntegrityError: "state.form", "state.damaged".
    """
    if not path.is_file():
        raise MissingError("state.archive", "there is no such archive", where=str(path), hint="backline state list")
    plain = into / ".archive"
    unseal(path, plain, key)
    try:
        with tarfile.open(plain, "r:gz") as archive:
            manifest = _manifest(archive, path)
            for content in manifest.parts:
                for entry in content.entries:
                    if entry.kind in (Kind.FILE, Kind.DATABASE):
                        _extract(archive, f"{content.name}/{entry.path}", entry, into, path)
    except _DAMAGE as error:
        raise IntegrityError("state.damaged", f"cannot be unpacked: {error}", where=str(path)) from error
    finally:
        plain.unlink(missing_ok=True)
    for content in manifest.parts:
        for entry in content.entries:
            if entry.kind is Kind.DATABASE:
                _check_database(into / content.name / entry.path, entry)
    return manifest


def read_manifest(path: Path, work: Path, key: Key | None) -> Manifest:
    """Only what an archive says of itself, all of it verified. Raises as `open_archive`."""
    if not path.is_file():
        raise MissingError("state.archive", "there is no such archive", where=str(path), hint="backline state list")
    plain = work / "archive"
    unseal(path, plain, key)
    try:
        with tarfile.open(plain, "r:gz") as archive:
            return _manifest(archive, path)
    except _DAMAGE as error:
        raise IntegrityError("state.damaged", f"cannot be unpacked: {error}", where=str(path)) from error
    finally:
        plain.unlink()


def check_fits(manifest: Manifest, settings: Settings, path: Path, *, code: Path = databases.CODE) -> None:
    """Whether this hall, with the programs of this image, can take an archive.

    Raises IntegrityError: "state.hall" for another hall's, "state.newer" for a schema that this image does not know,
    "state.dialect" for a database of another kind than the one here.
    """
    if (manifest.hall, manifest.domain) != (settings.hall, settings.domain):
        raise IntegrityError(
            "state.hall",
            f"this is the state of the hall {manifest.hall} ({manifest.domain}), and here is {settings.hall} "
            f"({settings.domain})",
            where=str(path),
            hint="take an archive of this hall, or give this host the other hall.toml",
        )
    for content in manifest.parts:
        for entry in content.entries:
            if entry.kind is not Kind.DATABASE:
                continue
            service = entry.path.removesuffix(".db")
            if service not in databases.SERVICES:
                raise IntegrityError("state.newer", f"this image knows of no database {service}", where=str(path))
            known = databases.revisions(service, code=code)
            if entry.revision and entry.revision not in known:
                raise IntegrityError(
                    "state.newer",
                    f"the schema {entry.revision} of {service} is newer than what this image knows ({known[-1]})",
                    where=str(path),
                    hint=f"run the image {manifest.role} {manifest.version}, which has saved it, or a newer one",
                )
            here = databases.dialect(str(getattr(settings.databases, service)))
            if here != entry.dialect:
                raise IntegrityError(
                    "state.dialect",
                    f"{service} was saved from {entry.dialect}, and is in {here} here",
                    where=str(path),
                    hint=f"set databases.{service} of the state service, and its own, to a {entry.dialect} database",
                )


def _manifest(archive: tarfile.TarFile, path: Path) -> Manifest:
    member = archive.next()
    file = archive.extractfile(member) if member is not None and member.name == MANIFEST else None
    if file is None or member is None or member.size > _MANIFEST_MAX:
        raise IntegrityError("state.damaged", "has no manifest at its beginning", where=str(path))
    try:
        manifest = decode_json(file.read(), Manifest)
    except msgspec.DecodeError as error:
        raise IntegrityError("state.form", f"its manifest cannot be read: {error}", where=str(path)) from error
    if manifest.format != FORMAT:
        raise IntegrityError(
            "state.form", f"has form {manifest.format}, and this image knows {FORMAT}", where=str(path)
        )
    for content in manifest.parts:
        for name in (content.name, *(entry.path for entry in content.entries)):
            _need_inside(name, path)
        for entry in content.entries:
            if entry.kind is Kind.LINK:
                _need_inside(os.path.normpath(Path(entry.path).parent / entry.target), path)
    return manifest


def _need_inside(name: str, path: Path) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or str(PurePosixPath(name)) != name:
        raise IntegrityError("state.form", f"names {name!r}, which is outside of its part", where=str(path))


def _extract(archive: tarfile.TarFile, name: str, entry: Entry, into: Path, path: Path) -> None:
    file = archive.extractfile(archive.getmember(name))
    if file is None:
        raise IntegrityError("state.damaged", f"{name} is no file", where=str(path))
    target = into / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb+") as out:
        shutil.copyfileobj(file, out, _PIECE)
        size = out.tell()
        out.flush()
        os.fsync(out.fileno())
        out.seek(0)
        sha256 = hashlib.file_digest(out, "sha256").hexdigest()
    if (size, sha256) != (entry.size, entry.sha256):
        raise IntegrityError("state.damaged", f"{name} is not what its manifest says", where=str(path))


def _check_database(path: Path, entry: Entry) -> None:
    if entry.dialect == databases.SQLITE:
        databases.check_sqlite(path, revision=entry.revision)
    else:
        databases.check_postgresql(path)
