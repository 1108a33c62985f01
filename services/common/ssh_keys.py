"""What counts as an SSH public key. Pure: standard library only.

Images have no cryptography package, so a key is checked by its wire format (RFC 4251, RFC 4253 section 6.6, RFC 5656,
RFC 8709, PROTOCOL.u2f of OpenSSH).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterator

RSA_BITS = 2048
_CURVES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}  # uncompressed point, SEC 1 section 2.3.3
_FIELDS = {  # algorithm: number of fields after its name
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}


def check_ssh_key(line: str) -> str:
    """The line of a .pub file in its plain form: type, blob, comment. Raises ValueError that says what is wrong.

    Refused: options before the key, ssh-dss, RSA below 2,048 bits, a blob that is not of the type it is said to be.
    """
    if "\n" in line.strip() or "\r" in line.strip():
        raise ValueError("more than one line; write one key per item")
    words = line.split(None, 2)
    if not words or words[0] not in _FIELDS:
        first = repr(words[0]) if words else "nothing"
        known = ", ".join(sorted(_FIELDS))
        raise ValueError(f"not an SSH public key: it begins with {first}, not with one of {known}")
    if len(words) < 2:
        raise ValueError(f"not an SSH public key: nothing after {words[0]}")
    kind, text = words[0], words[1]
    comment = "".join(letter for letter in words[2] if letter.isprintable()) if len(words) > 2 else ""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not an SSH public key: its body is not base64 ({error})") from error
    try:
        fields = list(_fields(blob))
    except ValueError as error:
        raise ValueError(f"not an SSH public key: {error}") from error
    if not fields or fields[0] != kind.encode() or len(fields) != _FIELDS[kind] + 1:
        raise ValueError(f"its body is not a key of type {kind}")
    if problem := _misshapen(kind, fields[1:]):
        raise ValueError(problem)
    return " ".join(part for part in (kind, text, comment) if part)


def _misshapen(kind: str, fields: list[bytes]) -> str | None:
    if "ed25519" in kind:
        return None if len(fields[0]) == 32 else "its body is not an Ed25519 key of 32 bytes"
    if kind == "ssh-rsa":
        bits = int.from_bytes(fields[1], "big").bit_length()
        return None if bits >= RSA_BITS else f"an RSA key of {bits} bits; {RSA_BITS} are the least, Ed25519 is better"
    curve = fields[0].decode(errors="replace")
    if f"ecdsa-sha2-{curve}" not in kind or len(fields[1]) != _CURVES.get(curve):
        return f"its body is not a point of the curve in {kind}"
    return None


def fingerprint(line: str) -> str:
    """`SHA256:...` of a line that `check_ssh_key` has taken, as ssh-keygen -l prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).rstrip(b"=").decode()


def _fields(blob: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(blob):
        if at + 4 > len(blob):
            raise ValueError("it is cut off")
        (length,) = struct.unpack_from(">I", blob, at)
        at += 4
        if at + length > len(blob):
            raise ValueError("it is cut off")
        yield blob[at : at + length]
        at += length
