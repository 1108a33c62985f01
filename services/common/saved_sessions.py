"""Sessions of the user who runs our commands, kept by `backline login` for the clients of `services.common.client`.

One file, 0600, in $XDG_RUNTIME_DIR (gone when the user logs out of the desktop) or ~/.cache. A session belongs to one
address, `https://host[:port]`, and is sent there and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from services.common.errors import HostError, UsageError


class Saved(msgspec.Struct, frozen=True):
    """A session for one address, and the CA file that its server was believed by (None: the usual ones)."""

    token: str
    name: str
    role: str
    expires: int
    ca: str | None = None


def address_of(url: str) -> str:
    """`https://host[:port]` of a URL, in lower case. Raises UsageError("login.address")."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError("login.address", f"{url!r} is no address: {error}") from error
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise UsageError("login.address", f"{url!r} is no address to log in to", hint="write https://HOST")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}" + (f":{port}" if port not in (None, 443) else "")


def file_of(environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's sessions are."""
    environ = os.environ if environ is None else environ
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime, "backline", "sessions.json")
    cache = environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache.startswith("/") else Path.home() / ".cache") / "backline" / "sessions.json"


def load(path: Path) -> dict[str, Saved]:
    """Every session that has not ended, by address. A file that is not ours alone, or no such file, holds none."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                return {}
            known = msgspec.json.decode(file.read(), type=dict[str, Saved])
    except (OSError, msgspec.DecodeError):
        return {}
    return {address: saved for address, saved in known.items() if saved.expires > time.time()}


def find(url: str, *, path: Path | None = None) -> Saved | None:
    """The session for the address of `url`; None for other than HTTPS, and where there is none."""
    if not url.startswith("https://"):
        return None
    try:
        return load(path or file_of()).get(address_of(url))
    except (UsageError, RuntimeError):  # RuntimeError: a service's user has no home
        return None


def save(address: str, saved: Saved | None, *, path: Path | None = None) -> bool:
    """Keep the session for `address`, or with None forget it; returns whether there was one before.

    Raises HostError("login.keep").
    """
    path = path or file_of()
    known = load(path)
    had = known.pop(address, None) is not None
    if saved is not None:
        known[address] = saved
    elif not had:
        return False
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(known))
            Path(aside).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(aside).unlink()
            raise
    except OSError as error:
        raise HostError("login.keep", f"cannot keep the session: {error.strerror}", where=str(path)) from error
    return had
