"""The two services on gw that a root file server talks to, as far as it does: the depot and netboot.

Over TLS with this host's certificate of scope `rfs`, or over their unix sockets. What is read here has only the fields
that are used, so newer services may say more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import msgspec

from services.common.client import Call, Client, Endpoint, Nothing, path_of, secured
from services.common.codec import decode_json
from services.common.errors import BacklineError, IntegrityError, MissingError
from services.common.problem import RemoteError, decode_problem
from services.common.tls import TlsSettings
from services.common.versions import Ref

SMALL_BYTES = 16 * 1024 * 1024
"""The most that a manifest or another document may have."""
_SECONDS = 30.0
_WAIT, _WAITS = 20, 15
"""How long the depot lets us wait for its deltas, and how often: five minutes."""

Moved = Callable[[int], None]
"""Told of each piece of a file: its bytes."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What the depot says of a delta; `bytes` is None where there is none that is worth it."""

    bytes: int | None
    sha256: str | None
    from_sha256: str


class DepotVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the depot; `pending` deltas to it are still to be made."""

    pending: int = 0


class NewProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far we are with a publication."""

    bytes: int
    total: int
    full: int
    state: str
    detail: str = ""


class HostProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver said last."""

    host: str
    state: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A publication's receivers."""

    progress: list[HostProgress]


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A number that netboot has noted as a holder of a version."""

    rfs: int
    version: str


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    holdings: list[Holding]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's pointer."""

    name: str
    current: str | None
    previous: str | None


class Channels(msgspec.Struct, frozen=True, kw_only=True):
    """Every channel."""

    channels: list[Channel]


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A pin of a room or type."""

    kind: str
    value: str
    version: str


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """Every pin."""

    pins: list[Pin]


class Users(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses a version, in words: channels, pins, machines that have it as their root."""

    version: str
    users: list[str]


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of netboot's leases here: `age`, seconds since signs of life were last written down."""

    age: float


class Netboot(Client):
    """netboot, blocking. Errors are those of `services.common.client`."""

    def holdings(self) -> list[Holding]:
        """Which number holds what."""
        return self.send(Call("GET", "/v1/holdings", Holdings)).holdings

    def hold(self, number: int, version: str) -> None:
        """We hold a version, whole and verified."""
        self.send(Call("PUT", path_of("v1", "holdings", str(number), version), Holding))

    def release(self, number: int, version: str) -> None:
        """We do not, any more. That netboot knows of no such holding is as good."""
        try:
            self.send(Call("DELETE", path_of("v1", "holdings", str(number), version), Nothing))
        except RemoteError as error:
            if error.problem.status != 404:
                raise

    def pointers(self) -> dict[str, list[str]]:
        """What names a version, by version: channels and pins of rooms and types."""
        found: dict[str, list[str]] = {}
        for channel in self.send(Call("GET", "/v1/channels", Channels)).channels:
            for version, what in ((channel.current, "channel"), (channel.previous, "previous of channel")):
                if version is not None:
                    found.setdefault(version, []).append(f"{what} {channel.name}")
        for pin in self.send(Call("GET", "/v1/pins", Pins)).pins:
            found.setdefault(pin.version, []).append(f"pin of {pin.kind} {pin.value}")
        return found

    def age(self) -> float:
        """How old netboot's leases are, in seconds."""
        return self.send(Call("GET", "/v1/leases", Leases)).age

    def users(self, version: str) -> list[str]:
        """Who uses a version; nobody uses one that netboot does not know."""
        try:
            return self.send(Call("GET", path_of("v1", "versions", version, "users"), Users)).users
        except RemoteError as error:
            if error.problem.code == "version.unknown":
                return []
            raise


class Depot(Client):
    """The depot: its static files, and what it is told. Blocking."""

    def __init__(self, address: str, *, tls: TlsSettings | None = None) -> None:
        super().__init__(address, tls=tls)
        endpoint = Endpoint.parse(address)
        verify, headers = secured(endpoint, tls)
        uds = str(endpoint.path) if endpoint.path else None
        self._files = httpx2.Client(
            base_url=endpoint.base,
            transport=httpx2.HTTPTransport(uds=uds, verify=verify),
            # What is stored is what was signed: nothing on the way shall compress it.
            headers={**headers, "accept-encoding": "identity"},
            timeout=_SECONDS,
            trust_env=False,
        )

    def close(self) -> None:
        super().close()
        self._files.close()

    def settled(self, ref: Ref) -> None:
        """Wait until the depot has made its deltas of a version, a few minutes at most; one that is away is not
        waited for."""
        call = Call("GET", path_of("v1", "versions", ref.role, ref.version), DepotVersion, query={"wait": _WAIT})
        for _ in range(_WAITS):
            try:
                if self.send(call).pending == 0:
                    return
            except BacklineError:
                return

    def progress(self, id: int, host: str, new: NewProgress) -> None:
        """Say how far we are."""
        self.send(Call("PUT", path_of("v1", "publications", str(id), "progress", host), Nothing, body=new))

    def told(self, id: int, host: str) -> str | None:
        """What the depot has heard last of a receiver."""
        found = self.send(Call("GET", path_of("v1", "publications", str(id)), Told))
        return next((each.state for each in found.progress if each.host == host), None)

    def small(self, path: str) -> bytes | None:
        """A document; None when there is none. Raises MissingError, RemoteError, IntegrityError("roots.size")."""
        content = bytearray()
        with self._stream(path, 0) as response:
            if response is None:
                return None
            for piece in _pieces(response):
                content += piece
                if len(content) > SMALL_BYTES:
                    raise IntegrityError("roots.size", f"has more than {SMALL_BYTES} bytes", where=path)
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
        MissingError("depot.file"), RemoteError, IntegrityError("roots.size") for more bytes than that, OSError.
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
                            raise IntegrityError("roots.size", f"has more than {size} bytes", where=path)
                        file.write(piece)
                        moved(len(piece))
            file.flush()
            os.fsync(file.fileno())
        if here < size:
            raise MissingError("depot.cut", f"ended after {here} of {size} bytes", where=path)

    def _stream(self, path: str, offset: int) -> _Stream:
        return _Stream(self._files, self.endpoint, path, offset)


class _Stream:
    """An answer that is read piece by piece; None for a file that is not there."""

    def __init__(self, http: httpx2.Client, endpoint: Endpoint, path: str, offset: int) -> None:
        headers = {"range": f"bytes={offset}-"} if offset else {}
        self._stream = http.stream("GET", path, headers=headers)
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
