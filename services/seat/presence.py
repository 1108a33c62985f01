"""What a seat asks presence on gw: may this user in, and that he has left. Of Python's standard library alone, as
`services.seat.report`: every login waits for it.

Over HTTPS, as a password goes with it; gw is believed by the hall's CA. Who asks is known by the token of his boot.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.common.errors import HostError, InputError, MissingError
from services.seat.report import TOKEN

SETTINGS = Path("/run/backline/seat.toml")
CA = Path("/run/backline/ca.pem")
CREDENTIALS = (Path("/run/credentials/@system"), Path("/run/credstore"))
"""Where the token lies for who is not a unit: where systemd takes credentials over (systemd-creds(1), --system), and
where units import them from."""
SECONDS = 10.0
LONGEST = 65536


@dataclass(frozen=True)
class Decision:
    """Presence's answer: whether, and in plain words why not; `reason` is one of its codes. `group` is the user's."""

    allowed: bool
    reason: str = ""
    message: str = ""
    group: str = ""


@dataclass(frozen=True)
class Presence:
    """Presence, as this seat reaches it."""

    address: str
    token: str
    ca: Path = CA

    def login(
        self, login: str, password: str | None, stage: str, *, remote: bool = False, seconds: float = SECONDS
    ) -> Decision:
        """Ask. Raises MissingError("seat.presence") when trying again may help, InputError("seat.refused") when not."""
        what = {"login": login, "password": password, "stage": stage, **({"remote": True} if remote else {})}
        content = self._post("/v1/login", what, seconds)
        try:
            answer = json.loads(content)
            allowed = answer["allowed"]
            if not isinstance(allowed, bool):
                raise TypeError("allowed is neither true nor false")
            reason, message, group = (str(answer.get(name) or "") for name in ("reason", "message", "group"))
            return Decision(allowed, reason, message, group)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MissingError("seat.presence", f"presence's answer makes no sense: {error}") from error

    def logout(self, login: str, *, seconds: float = SECONDS) -> None:
        """Say that a user has no session here any more. Raises as `login`."""
        self._post("/v1/logout", {"login": login}, seconds)

    def _post(self, path: str, what: Mapping[str, Any], seconds: float) -> bytes:
        url = urlsplit(self.address)
        if url.scheme != "https" or not url.hostname:
            raise InputError("seat.refused", f"presence = {self.address!r} is no https:// address")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise InputError("seat.refused", f"the hall's CA in {self.ca} cannot be read: {error}") from error
        link = http.client.HTTPSConnection(url.hostname, url.port or 443, timeout=seconds, context=context)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            link.request("POST", path, json.dumps(what).encode(), headers)
            answer = link.getresponse()
            content = answer.read(LONGEST)
        except (OSError, http.client.HTTPException) as error:
            raise MissingError("seat.presence", f"presence does not answer: {error}") from error
        finally:
            link.close()
        if answer.status >= 500 or answer.status in (404, 408, 429):  # 404: an nginx that has not its servers yet
            raise MissingError("seat.presence", f"presence cannot answer now: {answer.status} {_detail(content)}")
        if answer.status >= 300:
            raise InputError("seat.refused", f"presence refuses this seat: {answer.status} {_detail(content)}")
        return content


def find_presence(environ: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> Presence:
    """Presence of the hall that this seat is in.

    Raises InputError("seat.settings") when no hall.toml has said where it is, HostError("seat.credential") when the
    token of this boot is not here.
    """
    environ = os.environ if environ is None else environ
    settings = root / SETTINGS.relative_to("/")
    try:
        address = tomllib.loads(settings.read_text())["presence"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError("seat.settings", f"{settings} does not say where presence is: {error}") from error
    return Presence(str(address), find_token(environ, root=root), root / CA.relative_to("/"))


def find_token(environ: Mapping[str, str], *, root: Path = Path("/")) -> str:
    """The token of this boot. Raises HostError("seat.credential")."""
    folders = [Path(environ["CREDENTIALS_DIRECTORY"])] if "CREDENTIALS_DIRECTORY" in environ else []
    for folder in [*folders, *(root / each.relative_to("/") for each in CREDENTIALS)]:
        with contextlib.suppress(OSError):
            return (folder / TOKEN).read_text().strip()
    raise HostError("seat.credential", f"the credential {TOKEN} is not here: netboot has not started this system")


def _detail(content: bytes) -> str:
    """The words of a problem document (RFC 9457), or of whatever else it is."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(content)["detail"])
    return content[:500].decode(errors="replace")
