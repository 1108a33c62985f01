"""A service that speaks TLS itself: only certificates of the hall's CA for calling get past the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from starlette.requests import Request

from services.common.access import Role, caller_of, require
from services.common.app import create_app
from services.common.client import Call, Client
from services.common.edge import Operation
from services.common.errors import InputError, MissingError
from services.common.identity import ImageIdentity, Version
from services.common.notify import Listener, Notifier
from services.common.peer import subject_text
from services.common.problem import RemoteError
from services.common.serve import serve_on
from services.common.tls import TlsSettings, client_context, server_context
from services.hall import ca
from services.hall.certificates import Authority


class Hall:
    """A CA and its certificates, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        key, certificate = ca.make("lab", "prolo", passphrase=None)
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(certificate)
        self.authority = Authority.open(key, certificate)

    def certificate(self, host: str, scope: str | None) -> Path:
        path = self.folder / f"{host}-{scope}.pem"
        served = {"names": ["gw.prolo"], "addresses": [IPv4Address("192.168.1.254")]}
        path.write_bytes(self.authority.issue(host, scope=scope, **({} if scope else served)))  # type: ignore[arg-type]
        return path


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Hall:
    return Hall(tmp_path_factory.mktemp("tls") / "hall")


async def _version(request: Request) -> Version:
    caller = require(request, Role.ROOT, scope="host")
    return Version(caller.name, ",".join(sorted(caller.scopes)), caller.origin, str(caller_of(request).machine))


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[int]:
    """A service on a port of this machine, in a thread of its own."""
    import threading

    app = create_app(
        service="demo",
        routes=[Operation("GET", "/v1/who", _version, summary="Who?", answer=Version)],
        identity=ImageIdentity(),
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    listeners = [Listener("tls", listener)]
    main = serve_on(app, listeners, Notifier({}), stop=stop, tls=context)

    thread = threading.Thread(target=loop.run_until_complete, args=[main])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uvicorn.Server.capture_signals", lambda self: contextlib.nullcontext())
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(timeout=10)
            loop.close()
            listener.close()


def ask(port: int, hall: Hall, certificate: Path | None) -> Version:
    context = client_context(TlsSettings(ca=hall.ca, certificate=certificate))
    context.check_hostname = False  # its certificate is for an address of the hall
    client = Client(f"https://127.0.0.1:{port}", tls=TlsSettings(ca=hall.ca, certificate=certificate))
    client._http.close()
    import httpx2

    client._http = httpx2.Client(
        base_url=client.endpoint.base, transport=httpx2.HTTPTransport(verify=context), timeout=5, trust_env=False
    )
    with client:
        return client.send(Call("GET", "/v1/who", Version))


@pytest.fixture(scope="module")
def port(hall: Hall) -> Iterator[int]:
    with serving(server_context(hall.certificate("gw", None), hall.ca)) as number:
        yield number


def test_a_host_is_known_by_its_certificate(port: int, hall: Hall) -> None:
    who = ask(port, hall, hall.certificate("rhfs01", "host"))
    assert (who.service, who.version, who.role) == ("rhfs01", "host", "127.0.0.1")


def test_another_scope_is_refused_by_name(port: int, hall: Hall) -> None:
    with pytest.raises(RemoteError) as caught:
        ask(port, hall, hall.certificate("rhfs01", "feed"))
    assert caught.value.code == "auth.scope"


def foreign(hall: Hall) -> Path:
    return Hall(hall.folder / "foreign").certificate("rhfs01", "host")


NOT_GOOD: dict[str, Callable[[Hall], Path | None]] = {
    "none": lambda hall: None,
    "a server's": lambda hall: hall.certificate("gw", None),
    "another CA's": foreign,
}


@pytest.mark.parametrize("which", NOT_GOOD)
def test_who_has_no_certificate_for_calling_gets_nothing(port: int, hall: Hall, which: str) -> None:
    with pytest.raises(MissingError):
        ask(port, hall, NOT_GOOD[which](hall))


def test_without_a_certificate_of_its_own_a_service_turns_everybody_away(hall: Hall) -> None:
    with serving(None) as number, socket.create_connection(("127.0.0.1", number), timeout=5) as connection:
        assert connection.recv(1) == b""


def test_files_that_are_none_are_said_to_be(hall: Hall, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pem"):
        server_context(tmp_path / "none.pem", hall.ca)


def test_a_subject_is_told_in_short_names() -> None:
    subject = ((("commonName", "rhfs01"),), (("organizationalUnitName", "host"),), (("countryName", "FR"),))
    assert subject_text({"subject": subject}) == "CN=rhfs01,OU=host,countryName=FR"
    assert subject_text(None) is None
