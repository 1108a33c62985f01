"""What counts as a public key, a certificate, or a secret in hall.toml. Pure: standard library only.

Images have no cryptography package, so an SSH key is checked by its wire format (RFC 4251, RFC 4253 section 6.6,
RFC 5656, RFC 8709, PROTOCOL.u2f of OpenSSH) and a certificate by OpenSSL through the ssl module.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
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
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)-----END \1-----", re.DOTALL)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|AGE-SECRET-KEY-1|\$(?:y|gy|7|2[aby]|6|5|1|argon2id?)\$\S{10}"
)
_SECRET_NAME = re.compile(
    r"(?:^|_|-)(?:pass(?:word|wd|phrase)?|secrets?|tokens?|psk|pin|private(?:_?key)?)(?:$|_|-)", re.I
)


def looks_secret(text: str) -> str | None:
    """What secret a text holds: a private key or a password hash; None when it holds none that we know."""
    found = _SECRET_TEXT.search(text)
    if found is None:
        return None
    return "a password hash" if found[0].startswith("$") else "a private key"


def names_secret(field: str) -> bool:
    """Whether a field of this name would hold a secret."""
    return _SECRET_NAME.search(field) is not None


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


def check_ca(pem: str) -> str:
    """PEM certificates of one or more CAs, normalised. Raises ValueError that says what is wrong.

    Nothing but CERTIFICATE blocks is accepted. Validity in time is not looked at: who boots may have no clock.
    """
    blocks = _PEM.findall(pem)
    if not blocks:
        raise ValueError("no PEM certificate in it (-----BEGIN CERTIFICATE-----)")
    others = sorted({label for label, _ in blocks if label != "CERTIFICATE"})
    if others:
        raise ValueError(f"holds {', '.join(others)}; only certificates belong here")
    if _PEM.sub("", pem).strip():
        raise ValueError("holds text outside of the certificates")
    try:
        binary = [base64.b64decode("".join(body.split()), validate=True) for _, body in blocks]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for certificate in binary:
            context.load_verify_locations(cadata=certificate)
    except (binascii.Error, ValueError, ssl.SSLError) as error:
        raise ValueError(f"a certificate in it cannot be read: {error}") from error
    if len(context.get_ca_certs()) != len(set(binary)):
        raise ValueError("a certificate in it is not that of a CA (basic constraints)")
    return "".join(ssl.DER_cert_to_PEM_cert(certificate) for certificate in binary)


def ca_expiry(pem: str) -> float:
    """The moment when the first of these CA certificates ends, in seconds since 1970."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    return min(float(ssl.cert_time_to_seconds(str(found["notAfter"]))) for found in context.get_ca_certs())
