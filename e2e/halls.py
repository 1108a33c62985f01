"""The hall.toml of a lab: the proposal of `backline init`, with a certificate authority that lives as long as the lab.

The lab's Internet is its upstream segment, so the way out is static there and nobody is asked for the time. Whoever has
the lab has what its administrator has: the CA's key, and an SSH key that opens the machines and logs in to services.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.common import toml
from services.common.errors import UsageError
from services.hall import ca, certificates, init, load
from services.hall.certificates import Authority
from services.hall.schema import Hall

NAME = "lab"
DOMAIN = "prolo"
_SCOPES: Mapping[str, tuple[str | None, ...]] = {
    "gw": (None, "host", "state"),
    "rhfs": (None, "feed", "feed-private", "rfs"),
}
UPSTREAM = """[upstream]
method = "static"
address = "198.51.100.2/24"
gateway = "198.51.100.1"
"""
# Beside the proposal's one server, in labs whose topology has another.
RHFS23 = """[hosts.rhfs23]
role = "rhfs"

[[hosts.rhfs23.nics]]
addresses = { hall = "192.168.1.12" }
aliases = ["rhfs2", "hfs2", "rfs2"]

"""


@dataclass(frozen=True)
class LabHall:
    """A hall as text, for credentials, and as data."""

    text: str
    data: Hall
    authority: Authority | None = None
    """The CA with its key; None for an administrator's own hall."""
    administrator: str | None = None
    """The private key (OpenSSH) of the hall's administrator; None as above."""

    signer: str | None = None
    """The private key (OpenSSH) that signs what is published there; None as above."""
    state_key: str | None = None
    """What seals archives of gw's state; None as above."""

    def key_in(self, folder: Path) -> Path:
        """The administrator's key as a file that ssh and `backline login --key` take."""
        assert self.administrator is not None, "this hall's administrator keeps his key"
        path = folder / "administrator"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(self.administrator)
        return path

    def signer_in(self, folder: Path) -> Path:
        """The signer's key as a file that ssh-keygen and `backline publish --key` take, named as he is there."""
        assert self.signer is not None, "this hall's signer keeps his key"
        path = folder / "publisher"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(self.signer)
        return path

    def certificates(self, host: str) -> dict[str, bytes]:
        """The certificates of a server, as credentials: for its names, and for what its role calls others for."""
        if self.authority is None or host not in self.data.hosts:
            return {}
        role = self.data.hosts[host].role
        found = {
            certificates.credential(scope): certificates.for_host(self.data, self.authority, host, scope=scope)
            for scope in _SCOPES.get(role, ())
        }
        if role == "gw" and self.state_key is not None:
            found[certificates.STATE_KEY] = self.state_key.encode()
        return found


def make(
    *,
    roles: Mapping[str, str] | None = None,
    administrator_keys: list[str] | None = None,
    upstream: str = UPSTREAM,
) -> LabHall:
    """A throwaway hall, in which some hosts have other `roles` than usual: stand-ins for images to come.

    Its private keys are made in memory and stay there. `administrator_keys` open it besides its own; `upstream` is
    its table of that name. Raises UsageError("lan.hall") when gw is to be something else.
    """
    if (other := (roles or {}).get("gw", "gw")) != "gw":
        hint = "another name for that node, or `hall = false` for a machine that knows of no hall"
        raise UsageError("lan.hall", f"the node gw has the role {other}, and a hall's gw is its gateway", hint=hint)
    key, certificate = ca.make(NAME, DOMAIN, passphrase=None)
    administrator = Ed25519PrivateKey.generate()
    signer = Ed25519PrivateKey.generate()
    people = [f"{_line(administrator.public_key())} administrator", *(administrator_keys or [])]
    text = init.proposal(NAME, DOMAIN, certificate.decode(), (NAME, f"{_line(signer.public_key())} publisher"), people)
    before, _, rest = text.partition("[upstream]")
    text = before + upstream + rest[rest.index("\n# Who may log in") :]
    if "rhfs23" in (roles or {}):
        text = text.replace("[hosts.web]\n", f"{RHFS23}[hosts.web]\n", 1)
    for host, role in (roles or {}).items():
        text = re.sub(rf"(?m)^(\[hosts\.{re.escape(host)}\]\nrole = ).*$", rf'\g<1>"{role}"', text)
    hall = parse(text, Path("hall.toml"))
    authority = Authority.open(key, certificate)
    return replace(
        hall,
        authority=authority,
        administrator=_private(administrator),
        signer=_private(signer),
        state_key=secrets.token_hex(32),
    )


def _private(key: Ed25519PrivateKey) -> str:
    form = serialization.PrivateFormat.OpenSSH
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _line(key: Ed25519PublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def parse(text: str, where: Path) -> LabHall:
    """A hall from text. Raises InputError("hall.*")."""
    return LabHall(text, load.check(toml.TomlDocument(text, path=where, area="hall")))


def read(path: Path) -> LabHall:
    """An administrator's own hall.toml, to rehearse with it. Raises InputError("hall.*")."""
    load.load(path)
    return parse(path.read_text(), path)
