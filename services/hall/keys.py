"""What counts as a certificate or a secret in hall.toml. Pure: standard library only.

Images have no cryptography package, so a certificate is checked by OpenSSL through the ssl module.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl

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
