"""The hall.toml of a lab: the proposal of `backline init`, with a certificate authority that lives as long as the lab.

The lab's Internet is its upstream segment, so the way out is static there and nobody is asked for the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.common import toml
from services.common.errors import UsageError
from services.hall import ca, init, load
from services.hall.schema import Hall

NAME = "lab"
DOMAIN = "prolo"
UPSTREAM = """[upstream]
method = "static"
address = "198.51.100.2/24"
gateway = "198.51.100.1"
"""


@dataclass(frozen=True)
class LabHall:
    """A hall as text, for credentials, and as data."""

    text: str
    data: Hall


def make(*, roles: Mapping[str, str] | None = None, administrator_keys: list[str] | None = None) -> LabHall:
    """A throwaway hall, in which some hosts have other `roles` than usual: stand-ins for images to come.

    Its private keys are made in memory and forgotten: nothing in a lab is signed by them later. Raises
    UsageError("lan.hall") when gw is to be something else.
    """
    if (other := (roles or {}).get("gw", "gw")) != "gw":
        hint = "another name for that node, or `hall = false` for a machine that knows of no hall"
        raise UsageError("lan.hall", f"the node gw has the role {other}, and a hall's gw is its gateway", hint=hint)
    _, certificate = ca.make(NAME, DOMAIN, passphrase=None)
    signer = Ed25519PrivateKey.generate().public_key()
    line = signer.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    text = init.proposal(NAME, DOMAIN, certificate.decode(), (NAME, f"{line} nobody"), administrator_keys or [])
    before, _, rest = text.partition("[upstream]")
    text = before + UPSTREAM + rest[rest.index("\n# Who may log in") :]
    for host, role in (roles or {}).items():
        text = re.sub(rf"(?m)^(\[hosts\.{re.escape(host)}\]\nrole = ).*$", rf'\g<1>"{role}"', text)
    return parse(text, Path("hall.toml"))


def parse(text: str, where: Path) -> LabHall:
    """A hall from text. Raises InputError("hall.*")."""
    return LabHall(text, load.check(toml.TomlDocument(text, path=where, area="hall")))


def read(path: Path) -> LabHall:
    """An administrator's own hall.toml, to rehearse with it. Raises InputError("hall.*")."""
    load.load(path)
    return parse(path.read_text(), path)
