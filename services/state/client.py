"""The typed client of the state service: a host's own, and root file servers' over TLS. Blocking."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2

from services.common.client import Call, Client, path_of, secured
from services.common.codec import decode_json
from services.common.errors import IntegrityError, MissingError
from services.common.problem import RemoteError, decode_problem
from services.common.tls import TlsSettings
from services.state.schema import Copies, Copy, Sequences, State

SOCKET = "unix:/run/backline/state.sock"
PORT = 20212
SCOPE = "state"
CREDENTIAL = f"backline.client.{SCOPE}"
_PIECE = 1024 * 1024
_SECONDS = 60.0


class StateClient(Client):
    """A state service. Errors are those of `services.common.client`."""

    def __init__(self, address: str, *, seconds: float = _SECONDS, tls: TlsSettings | None = None) -> None:
        super().__init__(address, seconds=seconds, tls=tls)
        self._tls = tls

    def state(self) -> State:
        """Archives of that host, and how their copies stand."""
        return self.send(Call("GET", "/v1/state", State))

    def copies(self, host: str) -> Copies:
        """Copies of a host's archives, the one that was received last first."""
        return self.send(Call("GET", path_of("v1", "copies", host), Copies))

    def sequences(self) -> Sequences:
        """The last number of a publication that was accepted there, by channel."""
        return self.send(Call("GET", "/v1/sequences", Sequences))

    def put(self, host: str, path: Path) -> Copy:
        """Bring an archive. Raises IntegrityError, MissingError, RemoteError, OSError."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            headers = {"content-type": "application/octet-stream", "content-length": str(size)}
            try:
                with self._streaming() as http:
                    url = path_of("v1", "copies", host, path.name)
                    answer = http.put(url, params={"sha256": sha256}, content=_pieces(file), headers=headers)
            except httpx2.HTTPError as error:
                raise MissingError("remote.unreachable", f"{self.endpoint} cannot be reached: {error}") from error
        if answer.is_error:
            raise RemoteError(decode_problem(answer.content, status=answer.status_code), where=str(self.endpoint))
        return decode_json(answer.content, Copy)

    def get(self, copy: Copy, target: Path) -> None:
        """Fetch a copy into `target`, as a whole and on the disk, or not at all.

        Raises MissingError, RemoteError, IntegrityError("state.damaged"), OSError.
        """
        aside = target.with_name(f".{target.name}.new")
        aside.unlink(missing_ok=True)
        found = hashlib.sha256()
        try:
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for piece in self._body(path_of("v1", "copies", copy.host, copy.name)):
                    found.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if found.hexdigest() != copy.sha256:
                raise IntegrityError("state.damaged", f"{copy.name} did not come as it was sent", hint="fetch it again")
            aside.rename(target)
        finally:
            aside.unlink(missing_ok=True)

    def _body(self, url: str) -> Iterator[bytes]:
        try:
            with self._streaming() as http, http.stream("GET", url) as answer:
                if answer.is_error:
                    problem = decode_problem(answer.read(), status=answer.status_code)
                    raise RemoteError(problem, where=str(self.endpoint))
                yield from answer.iter_raw(_PIECE)
        except httpx2.HTTPError as error:
            raise MissingError("remote.unreachable", f"{self.endpoint} cannot be reached: {error}") from error

    def _streaming(self) -> httpx2.Client:
        """Bodies that are not held in memory are not for `Client`."""
        verify, headers = secured(self.endpoint, self._tls)
        uds = str(self.endpoint.path) if self.endpoint.path else None
        return httpx2.Client(
            base_url=self.endpoint.base,
            transport=httpx2.HTTPTransport(uds=uds, verify=verify),
            headers={**headers, "accept-encoding": "identity"},
            timeout=_SECONDS,
            trust_env=False,
        )


def _pieces(file: object) -> Iterator[bytes]:
    while piece := file.read(_PIECE):  # type: ignore[attr-defined]
        yield piece
