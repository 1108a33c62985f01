"""A guarded service, its key, an administrator with a key pair, and requests to it as any user of this host."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.administrators import Administrator, Administrators
from services.common.codec import encode_json
from services.common.process import run
from services.common.signing import PublicKey, new_key
from services.common.tokens import CREDENTIAL, Claims, Kind, Tokens
from tests.common.service_rig import Service, activated

GUARDED = [sys.executable, "-m", "tests.common.guarded_service", "--group", "games"]
NOBODY, GAMES, PROXY = (65534, 65534), (65534, 60), (33, 33)
"""User and group ids of Debian: a stranger, a stranger in the group that the service knows, and nginx's user."""
HTTPS = {"X-Real-IP": "192.168.0.9", "X-Forwarded-Proto": "https", "Host": "guarded"}
"""What nginx says of a request over TLS."""


@dataclass
class Answer:
    """Status and JSON of an answer."""

    status: int
    body: dict[str, Any]
    text: str = ""

    @property
    def code(self) -> str:
        """The problem's code, or "" for an answer that is none."""
        return str(self.body.get("code", ""))


@dataclass
class Guarded:
    """The service, and what an administrator of its hall has."""

    service: Service
    folder: Path
    key: bytes
    tokens: Tokens
    public: PublicKey

    @property
    def private(self) -> Path:
        """The private key of `ada`, who is an administrator of role root."""
        return self.folder / "ada"

    def administer(self, *people: Administrator) -> None:
        """Let these and nobody else be administrators, as `backline hall reload` would."""
        aside = self.folder / "administrators.new"
        aside.write_bytes(encode_json(Administrators(list(people))))
        aside.rename(self.folder / "administrators.json")

    def ada(self, role: Any = "root") -> Administrator:
        return Administrator("ada", role, [self.public.format()])

    def session(self, *, seconds: int = 60, name: str = "ada", key: str | None = None) -> str:
        """A session's token, as logging in gives it."""
        claims = Claims(name=name, key=key or self.public.fingerprint())
        return self.tokens.mint(Kind.SESSION, claims, seconds=seconds)

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        ids: tuple[int, int] = (0, 0),
        headers: Mapping[str, str] | None = None,
        tcp: bool = False,
        body: object = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """What it answers a user with these ids, on its unix socket or over TCP."""
        argv = ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups", "curl", "--silent"]
        argv += ["--request", method, "--write-out", "\n%{http_code}"]
        if body is not None:
            argv += ["--json", json.dumps(body)]
        for name, value in (form or {}).items():
            argv += ["--data-urlencode", f"{name}={value}"]
        if form is not None:
            argv.append("--include")
        for name, value in (headers or {}).items():
            argv += ["--header", f"{name}: {value}"]
        if not tcp:
            argv += ["--unix-socket", str(self.service.socket)]
        base = self.service.http if tcp else "http://localhost"
        body, _, status = run([*argv, base + path]).stdout.rpartition("\n")
        if form is not None or body.startswith("<"):
            return Answer(int(status), {}, body)
        return Answer(int(status), json.loads(body) if body else {}, body)


@contextlib.contextmanager
def guarded(folder: Path, *, run: Path | None = None) -> Iterator[Guarded]:
    """A guarded service that answers, on a socket in `run`, else in a folder that every user of this host reaches.

    Not in pytest's folder: each pytest that starts shuts all of them to other users again.
    """
    public = new_key(folder / "ada", comment="ada")
    key = bytes(range(32))
    (folder / CREDENTIAL).write_bytes(key)
    env = {
        "CREDENTIALS_DIRECTORY": str(folder),
        "BACKLINE_GUARDED_ADMINISTRATORS": str(folder / "administrators.json"),
    }
    with contextlib.ExitStack() as stack:
        if run is None:
            run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backline-guarded-")))
            run.chmod(0o711)
        service = stack.enter_context(activated(run, GUARDED, env=env))
        made = Guarded(service, folder, key, Tokens(key), public)
        made.administer(made.ada())
        yield made
