"""Secrets of a unit: systemd's credentials (systemd.exec(5), LoadCredential=), which its own processes alone read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from services.common.errors import HostError


def read_credential(name: str, *, code: str, what: str, environ: Mapping[str, str] | None = None) -> bytes | None:
    """A credential of this unit, None where it was given none. Raises HostError(code): `what` cannot be read."""
    folder = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY")
    try:
        return Path(folder, name).read_bytes() if folder else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(code, f"{what} cannot be read: {error.strerror}") from error
