"""Tokens: claims that a service can believe without asking anybody, because they carry a MAC (HMAC-SHA256) of the hall.

Promises: a token is what this hall's key made, is of the kind that is asked for, and has not expired; anything else is
refused by name. A token is a secret of its holder. Nothing is stored, so nothing but time, a new key, or the facts that
a service checks itself (an administrator is gone, a machine has booted again) takes one back (docs/decisions).

A token is `KIND.CLAIMS.MAC`, the last two in URL-safe base64 without padding; the MAC is over all that stands before.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Literal

import msgspec

from services.common.credentials import read_credential
from services.common.errors import AccessError, HostError

CREDENTIAL = "access.key"
KEY_BYTES = 32
LONGEST = 4096
MachineScope = Literal["heartbeat", "login", "feed"]
MACHINE_SCOPES: frozenset[MachineScope] = frozenset({"heartbeat", "login", "feed"})
_TEXT = re.compile(r"[a-z]{1,16}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}")


class Kind(Enum):
    """What a token is good for; one kind never passes for another."""

    SESSION = "session"
    """An administrator's session."""
    MACHINE = "machine"
    """A machine, for one boot."""
    CHALLENGE = "challenge"
    """To be signed by an administrator's key, once."""
    LINK = "link"
    """Opens a session in a browser, once."""


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a token says. `expires` is in seconds since 1970; `id` tells two tokens of the same claims apart."""

    name: str
    expires: int = 0
    id: str = ""
    scopes: tuple[str, ...] = ()
    machine: int | None = None
    boot: str | None = None
    key: str | None = None
    """The fingerprint of the SSH key that opened the session."""
    audience: str | None = None
    """The one process, or process and address, that takes it."""
    session_ends: int | None = None
    """Of a link: when the session ends that it opens."""


class Tokens:
    """Makes and reads tokens with one key. `clock` gives seconds since 1970."""

    def __init__(self, key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        if len(key) != KEY_BYTES:
            raise HostError("auth.key", f"the key for tokens has {len(key)} bytes, not {KEY_BYTES}")
        self._key = key
        self.clock = clock

    @classmethod
    def of_this_service(cls, environ: Mapping[str, str] | None = None) -> Tokens | None:
        """With the key in the systemd credential access.key; None without that. Raises HostError("auth.key")."""
        key = read_credential(CREDENTIAL, code="auth.key", what="the key for tokens", environ=environ)
        return None if key is None else cls(key)

    def mint(self, kind: Kind, claims: Claims, *, seconds: int) -> str:
        """A token of `kind` that is good for `seconds` from now; `expires` and `id` of the claims are filled in."""
        whole = msgspec.structs.replace(claims, expires=int(self.clock()) + seconds, id=secrets.token_hex(8))
        signed = f"{kind.value}.{_encode(msgspec.json.encode(whole))}"
        return f"{signed}.{_encode(self._mac(signed))}"

    def for_machine(
        self, name: str, *, machine: int, boot: str, seconds: int, scopes: frozenset[MachineScope] = MACHINE_SCOPES
    ) -> str:
        """The token of machine id `machine` for the boot of id `boot`: what a diskless machine gets once a boot."""
        claims = Claims(name=name, machine=machine, boot=boot, scopes=tuple(sorted(scopes)))
        return self.mint(Kind.MACHINE, claims, seconds=seconds)

    def read(self, token: str, *kinds: Kind) -> tuple[Kind, Claims]:
        """The kind and claims of a token that is one of `kinds`.

        Raises AccessError: "auth.malformed" (no token at all), "auth.foreign" (another key's, or changed), "auth.kind",
        "auth.expired".
        """
        if len(token) > LONGEST or not _TEXT.fullmatch(token):
            raise AccessError("auth.malformed", "this is no token", hint="log in again: backline login")
        signed, _, given = token.rpartition(".")
        # Over the text, not the decoded bytes: base64 has several spellings of its last letter.
        if not hmac.compare_digest(given.encode(), _encode(self._mac(signed)).encode()):
            raise AccessError("auth.foreign", "this token is not from this hall", hint="log in again: backline login")
        kind_text, _, payload = signed.partition(".")
        kind, claims = Kind(kind_text), msgspec.json.decode(_decode(payload), type=Claims)
        if kind not in kinds:
            wanted = " or ".join(each.value for each in kinds)
            raise AccessError("auth.kind", f"this is a token of kind {kind.value}, wanted: {wanted}")
        if self.clock() >= claims.expires:
            ago = int(self.clock()) - claims.expires
            raise AccessError(
                "auth.expired", f"this {kind.value} ended {ago} s ago", hint="log in again: backline login"
            )
        return kind, claims

    def _mac(self, signed: str) -> bytes:
        return hmac.digest(self._key, b"backline token 1\0" + signed.encode(), "sha256")


def new_key() -> bytes:
    """A key for `Tokens`."""
    return secrets.token_bytes(KEY_BYTES)


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise AccessError("auth.malformed", "this is no token") from error
