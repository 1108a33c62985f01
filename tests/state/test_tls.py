"""Between gw and a root file server: TLS with the hall's certificates, and only the one for it opens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import BacklineError
from services.common.tls import TlsSettings
from services.hall import ca
from services.hall.certificates import Authority
from services.state.client import StateClient
from tests.common.service_rig import Service, activated

_SERVE = """
import sys, pathlib
from services.common import main, tls
tls.HALL_CA = pathlib.Path(sys.argv.pop(1))
sys.exit(main.run_module("services.state.cli", "backline state", sys.argv[1:]))
"""


class Hall:
    """A CA, for the one name that a test can be called by."""

    def __init__(self) -> None:
        key, certificate = ca.make("lab", "localhost", passphrase=None)
        self.ca = certificate.decode()
        self.authority = Authority.open(key, certificate)


@pytest.fixture(scope="module")
def hall() -> Hall:
    return Hall()


@pytest.fixture(scope="module")
def rhfs(hall: Hall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    place = tmp_path_factory.mktemp("rhfs")
    (place / "ca.pem").write_text(hall.ca)
    (place / "backline.tls").write_bytes(hall.authority.issue("rhfs01", names=["localhost"]))
    (place / "kept").mkdir()
    (place / "state.toml").write_text(f'host = "rhfs01"\nkept = "{place}/kept"\nreserve_bytes = 0\n')
    argv = [sys.executable, "-c", _SERVE, str(place / "ca.pem"), "serve", "--config", str(place / "state.toml")]
    with activated(place, argv, env={"CREDENTIALS_DIRECTORY": str(place)}, names="api.socket:tls") as running:
        yield running


def client(hall: Hall, rhfs: Service, place: Path, scope: str, host: str = "gw") -> StateClient:
    (place / "ca.pem").write_text(hall.ca)
    file = place / f"{scope}.pem"
    file.write_bytes(hall.authority.issue(host, scope=scope))
    return StateClient(f"https://localhost:{rhfs.port}", tls=TlsSettings(ca=place / "ca.pem", certificate=file))


def test_gw_brings_and_fetches_its_copies(hall: Hall, rhfs: Service, archive: Path, tmp_path: Path) -> None:
    with client(hall, rhfs, tmp_path, "state") as gw:
        copy = gw.put("gw", archive)
        assert gw.copies("gw").copies == [copy]
        gw.get(copy, tmp_path / "back")
        assert gw.sequences().channels == {}
    assert (tmp_path / "back").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize(("scope", "host", "code"), [("rfs", "gw", "auth.scope"), ("state", "rhfs01", "auth.denied")])
def test_another_scope_or_host_is_turned_away(
    hall: Hall, rhfs: Service, archive: Path, tmp_path: Path, scope: str, host: str, code: str
) -> None:
    with client(hall, rhfs, tmp_path, scope, host) as other:
        for call in (lambda: other.copies("gw"), lambda: other.put("gw", archive)):
            with pytest.raises(BacklineError) as caught:
                call()
            assert caught.value.code == code


def test_another_hall_s_certificate_gets_no_connection(rhfs: Service, hall: Hall, tmp_path: Path) -> None:
    with client(Hall(), rhfs, tmp_path, "state") as stranger, pytest.raises(BacklineError) as caught:
        stranger.copies("gw")
    assert caught.value.code == "remote.unreachable"
