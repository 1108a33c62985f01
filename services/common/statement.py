"""What an administrator signs to publish a version on a channel, and what makes it good. Pure but for ssh-keygen.

A statement says: from this number of the channel's sequence on, machines of it boot this version, whose manifest has
this SHA-256. It is signed in its canonical form (`encode`), by ssh-keygen -Y in a namespace of its own, so a signature
over an image is none over a statement. Promises: whoever verifies a publication, with the last sequence that it
accepted, takes neither a changed statement, nor one of somebody else, nor an old one once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common import manifest as manifests
from services.common import signing
from services.common.errors import IntegrityError
from services.common.manifest import Manifest
from services.common.names import label_problem
from services.common.signing import Signer
from services.common.versions import date_of, valid_role, valid_version

NAMESPACE = "backline-publish"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed. `sequence` numbers a channel's publications; `published_at` and `by` are the signer's word."""

    channel: str
    sequence: Annotated[int, Meta(ge=1, lt=2**53)]
    role: str
    version: str
    manifest_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    published_at: str
    """RFC 3339, UTC, whole seconds."""
    by: Annotated[str, Meta(min_length=1, max_length=128)]
    why: Annotated[str, Meta(max_length=500)] = ""
    allow_downgrade: bool = False
    """Whether the signer meant it where the version is an older one (`downgrade`)."""
    hall: str = ""
    """The hall that it is for: with one key for two halls, a statement is good in one of them."""


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A statement as the depot hands it on: `id` grows with every one, over all channels."""

    id: int
    statement: str
    """The exact bytes that were signed, as text."""
    signatures: list[str]
    """Armoured, as ssh-keygen writes them."""
    to: list[str] = []
    """Names of the hosts that shall hold the version; every rhfs when empty."""


def now(moment: datetime | None = None) -> str:
    """A time as `published_at` has it."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime(_TIME)


def encode(statement: Statement) -> bytes:
    """The canonical form, the bytes that are signed: JSON with sorted keys and no spaces."""
    return msgspec.json.encode(statement, order="sorted")


def decode(text: str) -> Statement:
    """Read a statement. Raises IntegrityError("publish.statement") for anything but the canonical form of a sound one.

    Only one form is taken, so that no two readers can see two statements in the same signed bytes.
    """
    try:
        statement = msgspec.json.decode(text, type=Statement)
    except msgspec.DecodeError as error:
        raise IntegrityError("publish.statement", f"not a statement: {error}") from error
    if encode(statement) != text.encode():
        raise IntegrityError("publish.statement", "a statement in another form than the canonical one")
    if (problem := _problem(statement)) is not None:
        raise IntegrityError("publish.statement", problem)
    return statement


def _problem(statement: Statement) -> str | None:
    for name in (statement.channel, *([statement.hall] if statement.hall else [])):
        if (problem := label_problem(name)) is not None:
            return problem
    if not valid_role(statement.role):
        return f"{statement.role!r} is no role"
    if not valid_version(statement.version):
        return f"{statement.version!r} is no version"
    try:
        datetime.strptime(statement.published_at, _TIME)
    except ValueError:
        return f"{statement.published_at!r} is no time such as 2026-01-31T12:00:00Z"
    return None


def verify(
    publication: Publication,
    signers: Sequence[Signer],
    *,
    last_sequence: int,
    hall: str | None = None,
    at: datetime | None = None,
) -> Statement:
    """The statement, when somebody of `signers` has signed it and it is newer than `last_sequence` of its channel.

    Trust is judged at time `at` (now), not at the time that the statement claims. `hall` refuses one of another hall.
    Raises IntegrityError: "publish.statement" (form), "publish.signature" (nobody's who counts), "publish.hall",
    "publish.sequence" (an old statement once more).
    """
    signers_of(publication, signers, at=at)
    statement = decode(publication.statement)
    if hall is not None and statement.hall not in ("", hall):
        message = f"a statement for the hall {statement.hall}, and this is {hall}"
        raise IntegrityError("publish.hall", message, hint="publish it here: a statement is good in its own hall only")
    if statement.sequence <= last_sequence:
        message = f"number {statement.sequence} of channel {statement.channel}, and {last_sequence} was there already"
        raise IntegrityError(
            "publish.sequence", message, hint="an old statement once more; publish again for a new one"
        )
    return statement


def signers_of(publication: Publication, signers: Sequence[Signer], *, at: datetime | None = None) -> list[str]:
    """The names of those of `signers` who have signed it, sorted. Raises IntegrityError("publish.signature")."""
    return signed(
        publication.statement.encode(),
        publication.signatures,
        signers,
        namespace=NAMESPACE,
        code="publish.signature",
        at=at,
    )


def signed(
    data: bytes,
    signatures: Iterable[str],
    signers: Sequence[Signer],
    *,
    namespace: str,
    code: str,
    at: datetime | None = None,
) -> list[str]:
    """The names of those of `signers` who have signed `data`, sorted; one is enough, and others do no harm.

    Raises IntegrityError(`code`) when there is none, with the reason of each signature that does not count.
    """
    good: set[str] = set()
    refused: list[IntegrityError] = []
    for signature in signatures:
        try:
            good.add(signing.verify(data, signature.encode(), signers, namespace, at=at))
        except IntegrityError as error:
            refused.append(error)
    if not good:
        reasons = "; ".join(error.message for error in refused) or "there is no signature"
        hint = refused[0].hint if refused else "sign it with a key of trust.signers in hall.toml"
        raise IntegrityError(code, reasons, hint=hint)
    return sorted(good)


def check_manifest(statement: Statement, data: bytes) -> Manifest:
    """The manifest, when it is the one that the statement means. Raises IntegrityError("publish.manifest").

    A trusted signer vouches for it through the statement: what signatures the manifest has itself does not matter.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != statement.manifest_sha256:
        message = (
            f"the manifest of {statement.role}/{statement.version} has SHA-256 {digest[:12]}..., the statement says"
        )
        message += f" {statement.manifest_sha256[:12]}..."
        raise IntegrityError("publish.manifest", message, hint="the version was changed, or the statement is another's")
    manifest = manifests.decode(data, where=f"{statement.role}/{statement.version}")
    if (manifest.role, manifest.version) != (statement.role, statement.version):
        message = f"a manifest of {manifest.role}/{manifest.version}, not of {statement.role}/{statement.version}"
        raise IntegrityError("publish.manifest", message)
    return manifest


def downgrade(version: str, current: str | None, earlier: Collection[str]) -> str | None:
    """Why `version` after `current` is a step back, or None: an older lock, or one that the channel has left already.

    `earlier` are all versions that were published on the channel. The date of a version is its lock's, so of two
    versions of one day the newer is the one that the channel had not yet.
    """
    if current is None or version == current:
        return None
    if date_of(version) < date_of(current):
        return f"{version} is older than {current}"
    return f"{version} was on the channel before {current}" if version in earlier else None
