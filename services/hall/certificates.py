"""Certificates of the hall's CA for its hosts: one for a server's names, one for each scope of a client.

A server's certificate (what nginx shows) is good for the host's names in the hall's domain and its private addresses,
and for serving only. A client's has the host as CN and one scope as OU (`services.common.access` reads both), and is
good for calling only. So a stolen file does what its name says, and nothing else. Runs on the administrator's machine
only: images have no cryptography package.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.common.errors import InputError, UsageError, nearest
from services.common.names import label_problem
from services.hall.schema import OF_GW, Hall, Host

DAYS = 365
SERVER = "backline.tls"
"""The credential of nginx: its certificate and key in one PEM."""
STATE_KEY = "backline.state"
"""The credential of gw that is no certificate: what seals archives of its state (`services.state.seal`)."""


def credential(scope: str | None) -> str:
    """The name of the systemd credential for a certificate of `scope`; None is the server's."""
    return SERVER if scope is None else f"backline.client.{scope}"


@dataclass(frozen=True)
class Authority:
    """The CA's key and certificate, opened."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def open(cls, key: bytes, certificates: bytes, *, passphrase: bytes | None = None) -> Authority:
        """From PEM, with the one of `certificates` that is the key's.

        Raises InputError("hall.ca"): no P-256 key, a wrong passphrase, or only certificates of other keys.
        """
        try:
            private = serialization.load_pem_private_key(key, passphrase)
            known = x509.load_pem_x509_certificates(certificates)
        except (ValueError, TypeError) as error:
            raise InputError("hall.ca", f"the CA's key cannot be opened: {error}") from error
        own = [each for each in known if each.public_key() == private.public_key()]
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not own:
            raise InputError("hall.ca", "the CA's key here is not that of the certificate in hall.toml")
        return cls(private, own[0])

    def networks(self) -> list[IPv4Network]:
        """The networks whose addresses its certificates may hold."""
        constraints = self.certificate.extensions.get_extension_for_class(x509.NameConstraints).value
        trees = constraints.permitted_subtrees or []
        return [
            tree.value for tree in trees if isinstance(tree, x509.IPAddress) and isinstance(tree.value, IPv4Network)
        ]

    def issue(
        self,
        host: str,
        *,
        scope: str | None = None,
        names: list[str] | None = None,
        addresses: list[IPv4Address] | None = None,
        days: float = DAYS,
        now: datetime | None = None,
    ) -> bytes:
        """A new key and its certificate, one PEM: for calling with `scope`, or for serving `names` and `addresses`.

        It ends with the CA at the latest.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        start = (now or datetime.now(UTC)).replace(microsecond=0)
        end = min(start + timedelta(days=days), self.certificate.not_valid_after_utc)
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, host)]
        if scope is not None:
            subject.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, scope))
        usage = ExtendedKeyUsageOID.SERVER_AUTH if scope is None else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(start - timedelta(days=1), end))  # clocks of a hall differ
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=False,
                    crl_sign=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if scope is None:
            held: list[x509.GeneralName] = [x509.DNSName(name) for name in names or []]
            held += [x509.IPAddress(address) for address in addresses or []]
            builder = builder.add_extension(x509.SubjectAlternativeName(held), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + private


def for_host(hall: Hall, authority: Authority, name: str, *, scope: str | None, days: float = DAYS) -> bytes:
    """The certificate and key of a host of the hall, for `scope` or, with None, for serving.

    Raises UsageError: "hall.host" (not in hall.toml), "hall.scope".
    """
    host = hall.hosts.get(name)
    if host is None:
        hint = nearest(name, sorted(hall.hosts)) or f"hosts: {', '.join(sorted(hall.hosts))}"
        raise UsageError("hall.host", f"{name} is no host of hall.toml", hint=hint)
    if scope is not None:
        if problem := label_problem(scope):
            raise UsageError("hall.scope", f"{scope!r} is no scope: {problem}")
        return authority.issue(name, scope=scope, days=days)
    allowed = authority.networks()
    addresses = [address for address in _addresses(host) if any(address in network for network in allowed)]
    return authority.issue(name, names=_names(hall, name, host), addresses=addresses, days=days)


def _names(hall: Hall, name: str, host: Host) -> list[str]:
    """Its names with the domain; the bare ones are not in the CA's domain (RFC 5280, name constraints).

    Those of gw's services are gw's, whether hall.toml has them as aliases or not.
    """
    aliases = [*host.aliases, *(alias for nic in host.nics for alias in nic.aliases)]
    aliases += OF_GW if host.role == "gw" else ()
    return [f"{label}.{hall.site.domain}" for label in dict.fromkeys([name, *aliases])]


def _addresses(host: Host) -> list[IPv4Address]:
    return list(dict.fromkeys(address for nic in host.nics for address in nic.addresses.values()))
