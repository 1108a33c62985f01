"""Archives as they lie on disk: one line that says how to read them and what they hash to, then the archive itself.

    backline state 1 sealed <key's name> <HMAC-SHA256 of the rest>
    backline state 1 plain - <SHA-256 of the rest>

Sealed is AES-256-CTR by openssl(1) with a key for this one archive (PBKDF2 with a fresh salt), and the MAC is over what
came out of that; it is verified before a byte is deciphered. The hall's key is a credential of gw and never on a
command line. Without a key an archive is plain, and only its mode (0600) protects it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.common.errors import InputError, IntegrityError, MissingError
from services.common.process import run

CREDENTIAL = "backline.state"
_PLACES = ("/run/credentials/@system", "/etc/credstore")
_HEADER = re.compile(rb"backline state 1 (sealed|plain) ([0-9a-f]{16}|-) ([0-9a-f]{64})\n")
_HEADER_MAX = 128
_PIECE = 1024 * 1024
_ITERATIONS = "10000"  # the key is 32 random bytes already: this only spreads it


@dataclass(frozen=True)
class Key:
    """The hall's key for archives. `name` is its fingerprint."""

    cipher: bytes
    tag: bytes
    name: str

    @classmethod
    def parse(cls, text: str) -> Key:
        """From 64 hexadecimal digits. Raises InputError("state.key")."""
        if not re.fullmatch(r"[0-9a-f]{64}", text.strip()):
            raise InputError(
                "state.key",
                "the key for archives is not 64 hexadecimal digits",
                hint="backline hall state-key makes one",
            )
        secret = bytes.fromhex(text.strip())

        def derive(what: bytes) -> bytes:
            return hmac.digest(secret, b"backline state: " + what, "sha256")

        return cls(derive(b"cipher").hex().encode(), derive(b"tag"), derive(b"name").hex()[:16])


def credential(name: str) -> Path | None:
    """Where a credential of this host can be read: a unit's own, else the host's; None where there is none."""
    own = os.environ.get("CREDENTIALS_DIRECTORY")
    places = ([own] if own else []) + list(_PLACES)
    return next((path for place in places if (path := Path(place, name)).is_file()), None)


def read_key() -> Key | None:
    """The hall's key, where this host has it. Raises InputError("state.key")."""
    path = credential(CREDENTIAL)
    return None if path is None else Key.parse(path.read_text())


def seal(source: Path, target: IO[bytes], key: Key | None) -> None:
    """Write the archive `source` to `target`, which is empty and can be sought in, and synchronise it."""
    kind, name = (b"sealed", key.name.encode()) if key else (b"plain", b"-")
    head = b"backline state 1 " + kind + b" " + name + b" "
    target.write(head + b"0" * 64 + b"\n")
    digest = _digest(key)
    body = source
    if key is not None:
        body = source.with_name(f"{source.name}.sealed")
        _cipher(source, body, key, back=False)
    with body.open("rb") as file:
        for piece in _pieces(file):
            digest.update(piece)
            target.write(piece)
    if key is not None:
        body.unlink()
    target.seek(len(head))
    target.write(digest.hexdigest().encode())
    target.flush()
    os.fsync(target.fileno())


def is_sealed(path: Path) -> bool:
    """Whether an archive is of use to nobody without the key. Raises IntegrityError("state.form")."""
    with path.open("rb") as file:
        return _head(file, path)[0] == "sealed"


def unseal(path: Path, target: Path, key: Key | None) -> None:
    """Verify all of an archive, then write what is in it to `target`.

    Raises MissingError("state.key") where a key is needed and missing or is another one, IntegrityError: "state.form"
    for what is no archive, "state.damaged" for what was cut off or changed.
    """
    with path.open("rb") as file:
        kind, name, expected = _head(file, path)
        if kind == "sealed" and (key is None or key.name != name):
            have = f"the key here is {key.name}" if key else "there is no key here"
            raise MissingError(
                "state.key",
                f"sealed with the key {name}, and {have}",
                where=str(path),
                hint=f"give this host the hall's {CREDENTIAL} as a credential: docs/state.md",
            )
        key = key if kind == "sealed" else None
        start = file.tell()
        digest = _digest(key)
        for piece in _pieces(file):
            digest.update(piece)
        if not hmac.compare_digest(digest.hexdigest(), expected):
            raise IntegrityError(
                "state.damaged",
                "was cut off or changed: it is not what was saved",
                where=str(path),
                hint="take another archive: `backline state list`, `backline state list --from HOST`",
            )
        file.seek(start)
        if key is None:
            with target.open("wb") as out:
                shutil.copyfileobj(file, out, _PIECE)
            return
        body = target.with_name(f"{target.name}.sealed")
        with body.open("wb") as out:
            shutil.copyfileobj(file, out, _PIECE)
    try:
        _cipher(body, target, key, back=True)
    finally:
        body.unlink()


def _head(file: IO[bytes], path: Path) -> tuple[str, str, str]:
    found = _HEADER.match(file.read(_HEADER_MAX))
    if found is None:
        raise IntegrityError(
            "state.form", "is no archive of `backline state save`, or of a newer form", where=str(path)
        )
    file.seek(found.end())
    return found[1].decode(), found[2].decode(), found[3].decode()


def _digest(key: Key | None) -> hmac.HMAC:
    """Both have update and hexdigest; a plain one is no secret's."""
    if key is not None:
        return hmac.new(key.tag, digestmod="sha256")
    return hashlib.sha256()  # type: ignore[return-value]


def _cipher(source: Path, target: Path, key: Key, *, back: bool) -> None:
    """openssl-enc(1); the password comes through a pipe."""
    argv = ["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-iter", _ITERATIONS, "-md", "sha256", "-salt"]
    reading, writing = os.pipe()
    try:
        os.write(writing, key.cipher + b"\n")
        os.close(writing)
        argv += [*(["-d"] if back else []), "-pass", f"fd:{reading}", "-in", str(source), "-out", str(target)]
        run(argv, pass_fds=[reading])
    finally:
        os.close(reading)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
