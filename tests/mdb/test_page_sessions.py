"""mdb's pages for those who have logged in: as nginx hands their requests on, over HTTPS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from services.common.access import COOKIE
from services.common.administrators import Administrator, Administrators
from services.common.codec import encode_json
from services.common.process import run
from services.common.signing import new_key
from services.common.tokens import CREDENTIAL, Claims, Kind, Tokens
from services.mdb.client import Mdb
from tests.common.access_rig import PROXY
from tests.common.pages_rig import Forms
from tests.common.service_rig import Service, activated
from tests.mdb.rig import CONFIGURATION, MDB
from tests.mdb.test_pages import add

pytestmark = pytest.mark.needs("root")


@dataclass
class Proxied:
    """What a browser gets through the hall's nginx over HTTPS, with the session of somebody."""

    service: Service
    token: str = ""

    def ask(self, path: str, *, form: Mapping[str, str] | None = None, origin: str = "https://mdb") -> tuple[int, str]:
        """Status and text; a form makes it a POST."""
        headers = ["Host: mdb", "X-Real-IP: 192.168.0.9", "X-Forwarded-Proto: https", "Accept: text/html"]
        headers += [f"Cookie: {COOKIE}={self.token}"] if self.token else []
        headers += [f"Origin: {origin}", "Sec-Fetch-Site: same-origin"] if form is not None else []
        words = [word for header in headers for word in ("--header", header)]
        for name, value in (form or {}).items():
            words += ["--data-urlencode", f"{name}={value}"]
        words += ["--write-out", "\n%{http_code}", "--unix-socket", str(self.service.socket), f"http://mdb{path}"]
        ids = [f"--reuid={PROXY[0]}", f"--regid={PROXY[1]}", "--clear-groups"]
        text, _, status = run(["setpriv", *ids, "curl", "--silent", "--include", *words]).stdout.rpartition("\n")
        return int(status), text


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Callable[[str, int], Proxied]]]:
    """mdb where ada (root) and olga (organizer) may log in, and what makes their sessions."""
    folder = tmp_path_factory.mktemp("people")
    key, signers = bytes(range(32)), {name: new_key(folder / name, comment=name) for name in ("ada", "olga")}
    (folder / CREDENTIAL).write_bytes(key)
    roles: dict[str, Any] = {"ada": "root", "olga": "organizer"}
    listed = [Administrator(name, roles[name], [public.format()]) for name, public in signers.items()]
    (folder / "administrators.json").write_bytes(encode_json(Administrators(listed)))
    file = folder / "mdb.toml"
    places = f'[access]\nadministrators = "{folder}/administrators.json"\n'
    file.write_text(CONFIGURATION.format(database=f"sqlite:///{folder}/mdb.db") + places)
    with activated(folder, [*MDB, "--config", str(file)], env={"CREDENTIALS_DIRECTORY": str(folder)}) as service:
        for parent in service.socket.parents:
            if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        with Mdb(service.unix) as client:
            add(client, 1, notes="below the window")

        def session(name: str, seconds: int) -> Proxied:
            if not name:
                return Proxied(service)
            claims = Claims(name=name, key=signers[name].fingerprint())
            return Proxied(service, Tokens(key).mint(Kind.SESSION, claims, seconds=seconds))

        yield service, session


def test_a_session_says_what_one_sees_and_does(people: tuple[Service, Callable[[str, int], Proxied]]) -> None:
    service, session = people
    with Mdb(service.unix) as client:
        made = client.machine("p1")
        path = f"/machines/{made.id}"
        sees = {name: session(name, 60).ask(path)[1] for name in ("", "olga", "ada")}
        assert ["below the window" in text for text in sees.values()] == [False, True, True]
        assert [f"{path}/edit" in text for text in sees.values()] == [False, False, True]
        assert ['href="/login?next=' in text for text in sees.values()] == [True, False, False]
        assert ["Log out" in text for text in sees.values()] == [False, True, True]
        form = Forms(session("ada", 60).ask(f"{path}/edit")[1]).found[f"{path}/edit"] | {"room": "alt"}
        assert session("", 60).ask(f"{path}/edit", form=form)[0] == 401
        assert session("olga", 60).ask(f"{path}/edit", form=form)[0] == 403
        assert session("ada", 60).ask(f"{path}/edit", form=form, origin="https://evil.example")[0] == 403
        assert client.machine("p1").room == "pasteur"
        assert session("ada", 60).ask(f"{path}/edit", form=form)[0] == 303
        assert client.machine("p1").room == "alt"
        assert [(entry.actor, entry.origin) for entry in client.audit(made.id, limit=1).entries] == [
            ("ada", "192.168.0.9")
        ]


def test_a_session_that_is_over_shows_what_everybody_sees_and_asks_to_log_in(
    people: tuple[Service, Callable[[str, int], Proxied]],
) -> None:
    _, session = people
    over = session("ada", -1)
    status, text = over.ask("/machines")
    assert (status, "p1" in text, "Log in" in text) == (200, True, True)
    status, text = over.ask("/machines/new")
    assert (status, 'href="/login?next=%2Fmachines%2Fnew"' in text) == (401, True)
    status, text = session("ada", 60).ask("/logout", form={"go": ""})
    assert (status, f"{COOKIE}=" in text, "Max-Age=0" in text) == (303, True, True)
