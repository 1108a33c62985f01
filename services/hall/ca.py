"""The hall's own certificate authority: one P-256 key whose certificates are good for the hall's names only.

P-256, because browsers refuse Ed25519 in TLS certificates. Name constraints (RFC 5280 section 4.2.1.10, critical):
names of the hall's domain, private IPv4 addresses (RFC 1918); so whoever steals the key cannot pose as another site on
a machine that trusts this CA. Runs on the administrator's machine only: images have no cryptography package.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.common.errors import InputError

YEARS = 10
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


def make(name: str, domain: str, *, passphrase: bytes | None, now: datetime | None = None) -> tuple[bytes, bytes]:
    """A new CA: its private key (PKCS #8 PEM, encrypted when a passphrase is given) and its certificate (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    start = (now or datetime.now(UTC)).replace(microsecond=0) - timedelta(days=1)  # clocks of a hall differ
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Backline CA of {name}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1 + 365 * YEARS + YEARS // 4))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=[
                    x509.DNSName(domain),
                    *(x509.IPAddress(IPv4Network(network)) for network in _PRIVATE),
                ],
                excluded_subtrees=None,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def domains(pem: bytes) -> list[str]:
    """The DNS domains that a CA certificate is good for. Raises ValueError when it is no certificate."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return []
    return [name.value for name in constraints.permitted_subtrees or [] if isinstance(name, x509.DNSName)]


def keep(folder: Path, name: str, domain: str, *, passphrase: bytes | None) -> tuple[str, bool]:
    """The CA certificate in `folder` (PEM), and whether it was made just now: `ca.key` (0600) and `ca.pem`.

    What is there is never overwritten; the folder appears as a whole or not at all. Raises InputError("hall.ca") when
    there is a CA of another domain or half of one.
    """
    certificate = folder / "ca.pem"
    if folder.exists():
        try:
            pem = certificate.read_bytes()
            known = domains(pem)
        except (OSError, ValueError) as error:
            hint = "restore it from a backup, or take another --name"
            raise InputError(
                "hall.ca", f"the CA here is not complete: {error}", where=str(folder), hint=hint
            ) from error
        if known != [domain]:
            message = f"the CA here is for {', '.join(known) or 'any domain'}, not for {domain}"
            raise InputError("hall.ca", message, where=str(certificate), hint="take another --name for this hall")
        return pem.decode(), False
    private, public = make(name, domain, passphrase=passphrase)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for file, content, mode in (("ca.key", private, 0o600), ("ca.pem", public, 0o644)):
            descriptor = os.open(aside / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(descriptor)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return public.decode(), True
