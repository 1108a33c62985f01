"""Who administers the hall: /run/backline/administrators.json, which `backline hall` renders from hall.toml.

Read again whenever the file has changed, so that who is taken out of hall.toml is out with `backline hall reload`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from services.common.errors import HostError, InputError
from services.common.signing import PublicKey, Signer

FILE = Path("/run/backline/administrators.json")

RoleName = Literal["root", "organizer"]


class Administrator(msgspec.Struct, frozen=True):
    """Someone with a role, and the keys that prove it, each as in a .pub file."""

    name: str
    role: RoleName
    keys: list[str]

    def signers(self) -> list[Signer]:
        """The keys that can sign a challenge: Ed25519, also of a FIDO token. Keys of other kinds are left out."""
        signers = []
        for line in self.keys:
            try:
                signers.append(Signer(self.name, PublicKey.parse(line)))
            except InputError:
                continue
        return signers


class Administrators(msgspec.Struct, frozen=True):
    """All of them."""

    administrators: list[Administrator] = []

    def find(self, name: str) -> Administrator | None:
        """The administrator of that name."""
        return next((person for person in self.administrators if person.name == name), None)


class Directory:
    """The file, decoded once for each version of it. A file that is not there names nobody."""

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._known = Administrators()

    def read(self) -> Administrators:
        """Raises HostError("auth.administrators") when the file is there and cannot be understood."""
        try:
            status = self.path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if version != self._seen:
                self._known = msgspec.json.decode(self.path.read_bytes(), type=Administrators)
                self._seen = version
        except FileNotFoundError:
            self._known, self._seen = Administrators(), None
        except (OSError, msgspec.DecodeError) as error:
            raise HostError(
                "auth.administrators", f"cannot read who administers: {error}", where=str(self.path)
            ) from error
        return self._known
