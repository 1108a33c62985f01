"""TLS of our clients: whom they believe, and who they say they are.

The servers' side is nginx's on gw, the one edge of its services, and `server_context` for a service of every host.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.errors import InputError

HALL_CA = Path("/run/backline/ca.pem")


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table `tls` of the settings of whoever calls another host."""

    ca: Annotated[
        Path | None, Meta(description="certificates of the CAs that servers have theirs from; the hall's when absent")
    ] = None
    certificate: Annotated[
        Path | None, Meta(description="our own certificate, of the scope that the server wants (PEM)")
    ] = None
    key: Annotated[Path | None, Meta(description="its private key, where it is not in the same file (PEM)")] = None


def client_context(settings: TlsSettings | None = None) -> ssl.SSLContext:
    """A context that believes `settings.ca`, else the hall's CA where this host has it, else the system's.

    Raises InputError("tls.files") when a file is missing or is not what it should be.
    """
    settings = settings or TlsSettings()
    ca = settings.ca or (HALL_CA if HALL_CA.exists() else None)
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (ca, settings.certificate, settings.key) if file is not None)
        raise InputError("tls.files", f"cannot use {files}: {error}", hint="PEM files, and a key that fits") from error
    return context


def server_context(certificate: Path, ca: Path) -> ssl.SSLContext:
    """A context that shows `certificate` (with its key, PEM), and talks only to who shows one of `ca` for calling.

    Raises InputError("tls.files").
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, password=_no_passphrase)
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            "tls.files", f"cannot serve with {certificate} and {ca}: {error}", hint="PEM files, and a key that fits"
        ) from error
    return context


def _no_passphrase() -> str:
    raise ssl.SSLError("the private key has a passphrase, and nobody is there to type it")
