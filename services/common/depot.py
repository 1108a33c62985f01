"""The depot's static files, as everybody reads them who pulls a version: seats' servers, and the iron.

What comes is not trusted: whoever asks compares it with what was signed (`services.common.statement`). A file that was
cut off is gone on with, by this process or another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import msgspec

from services.common.client import Endpoint, path_of, secured
from services.common.codec import decode_json
from services.common.errors import IntegrityError, MissingError
from services.common.problem import RemoteError, decode_problem
from services.common.statement import Publication
from services.common.tls import TlsSettings
from services.common.versions import Ref

SMALL_BYTES = 16 * 1024 * 1024
"""The most that a manifest or another document may have."""
TRIES = 20
"""How often a file is gone on with after a cut without a byte more; a cut after new bytes does not count."""
LISTED = 1000
_SECONDS = 30.0

Moved = Callable[[int], None]
"""Told of each piece of a file: its bytes."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What the depot says of a delta; `bytes` is None where there is none that is worth it."""

    bytes: int | None
    sha256: str | None
    from_sha256: str


class Publications(msgspec.Struct, frozen=True, kw_only=True):
    """Publications, the newest first."""

    publications: list[Publication]


class DepotFiles:
    """What can be read of a depot. Blocking; a context manager.

    `at` is the depot's IP address, for whoever cannot resolve its name: the certificate still has to be the name's.
    """

    def __init__(self, address: str, *, tls: TlsSettings | None = None, at: str | None = None) -> None:
        self.endpoint = Endpoint.parse(address)
        verify, headers = secured(self.endpoint, tls)
        uds = str(self.endpoint.path) if self.endpoint.path else None
        base, self._extensions = self.endpoint.base, dict[str, str]()
        if at is not None:
            url = httpx2.URL(base)
            headers = {**headers, "host": url.netloc.decode()}
            base, self._extensions = str(url.copy_with(host=at)), {"sni_hostname": url.host}
        self._http = httpx2.Client(
            base_url=base,
            transport=httpx2.HTTPTransport(uds=uds, verify=verify),
            # What is stored is what was signed: nothing on the way shall compress it.
            headers={**headers, "accept-encoding": "identity"},
            timeout=_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> DepotFiles:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._http.close()

    def publications(self, channel: str) -> list[Publication]:
        """What was published on a channel, the newest first. Raises MissingError, RemoteError, IntegrityError."""
        path = f"/v1/publications?channel={channel}&limit={LISTED}"
        data = self.small(path)
        try:
            return decode_json(data or b"", Publications).publications
        except msgspec.DecodeError as error:
            raise IntegrityError("remote.answer", f"no list of publications: {error}", where=path) from error

    def fetch(
        self,
        path: str,
        target: Path,
        size: int,
        moved: Moved,
        *,
        pause: Callable[[float], None] = time.sleep,
        began: Callable[[], None] = lambda: None,
    ) -> None:
        """Fetch a file, going on after cuts; `began` is called before each try. Raises what the last cut was."""
        left = TRIES
        while True:
            before = _size(target)
            try:
                began()
                self.download(path, target, size, moved)
                return
            except MissingError as error:
                left = TRIES if _size(target) > before else left - 1
                if error.code == "depot.file" or left <= 0:
                    raise
                pause(min(5.0, 0.2 * 2 ** (TRIES - left)))

    def small(self, path: str) -> bytes | None:
        """A document; None when there is none. Raises MissingError, RemoteError, IntegrityError("depot.size")."""
        content = bytearray()
        with self._stream(path, 0) as response:
            if response is None:
                return None
            for piece in _pieces(response):
                content += piece
                if len(content) > SMALL_BYTES:
                    raise IntegrityError("depot.size", f"has more than {SMALL_BYTES} bytes", where=path)
        return bytes(content)

    def delta(self, ref: Ref, base: str, name: str) -> Delta | None:
        """What there is to make a file from that of version `base`; None when nothing."""
        data = self.small(delta_path(ref, base, f"{name}.json"))
        try:
            found = None if data is None else decode_json(data, Delta)
        except msgspec.DecodeError:
            return None
        return found if found is not None and found.bytes is not None and found.sha256 is not None else None

    def download(self, path: str, target: Path, size: int, moved: Moved) -> None:
        """Fetch `size` bytes into `target`, going on after what is there. On disk when it returns.

        Raises MissingError("depot.cut") when it ended early: what came is kept, so the same again goes on; also
        MissingError("depot.file"), RemoteError, IntegrityError("depot.size") for more bytes than that, OSError.
        """
        with target.open("ab") as file:
            here = file.tell()
            if here > size:
                here = 0
                file.truncate(0)
            if here < size:
                with self._stream(path, here) as response:
                    if response is None:
                        raise MissingError("depot.file", "the depot has no such file", where=path)
                    if response.status_code != 206 and here:
                        here = 0
                        file.truncate(0)
                    for piece in _pieces(response):
                        here += len(piece)
                        if here > size:
                            raise IntegrityError("depot.size", f"has more than {size} bytes", where=path)
                        file.write(piece)
                        moved(len(piece))
            file.flush()
            os.fsync(file.fileno())
        if here < size:
            raise MissingError("depot.cut", f"ended after {here} of {size} bytes", where=path)

    def _stream(self, path: str, offset: int) -> _Stream:
        return _Stream(self._http, self.endpoint, path, offset, self._extensions)


class _Stream:
    """An answer that is read piece by piece; None for a file that is not there."""

    def __init__(
        self, http: httpx2.Client, endpoint: Endpoint, path: str, offset: int, extensions: dict[str, str]
    ) -> None:
        headers = {"range": f"bytes={offset}-"} if offset else {}
        self._stream = http.stream("GET", path, headers=headers, extensions=extensions)
        self._endpoint = endpoint

    def __enter__(self) -> httpx2.Response | None:
        try:
            response = self._stream.__enter__()
            if not response.is_error:
                return response
            with_content = response.read()
        except httpx2.HTTPError as error:
            raise MissingError("depot.unreachable", f"{self._endpoint} cannot be reached: {error}") from error
        self._stream.__exit__(None, None, None)
        if response.status_code == 404:
            return None
        raise RemoteError(decode_problem(with_content, status=response.status_code), where=str(self._endpoint))

    def __exit__(self, *about: object) -> None:
        self._stream.__exit__(None, None, None)


def _pieces(response: httpx2.Response) -> Iterator[bytes]:
    """The body; an end that comes too early is MissingError("depot.cut")."""
    try:
        yield from response.iter_raw()  # as it comes: what came before a cut is kept
    except httpx2.HTTPError as error:
        raise MissingError("depot.cut", str(error) or type(error).__name__) from error


def image_path(ref: Ref, name: str) -> str:
    """Where the depot serves a file of a version."""
    return path_of("files", "images", ref.role, ref.version, name)


def delta_path(ref: Ref, base: str, name: str) -> str:
    """Where it serves what belongs to a delta from `base`."""
    return path_of("files", "deltas", ref.role, ref.version, base, name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
