"""gw's nginx with what `backline hall` renders, in front of real services: who is let in as whom, and who is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from builder.settings import Settings
from e2e.containers import engine
from e2e.servers import NginxContainer
from services.common import main, saved_sessions, signing
from services.common.administrators import Administrator
from services.common.client import Call
from services.common.errors import Exit, MissingError
from services.common.feed.client import Follower
from services.common.problem import RemoteError
from services.common.process import run
from services.common.sessions import Who
from services.common.tls import TlsSettings
from services.common.tokens import Tokens, new_key
from services.common.users import UserGroup
from services.hall import ca, edge
from services.hall.certificates import Authority
from services.hall.schema import Hall
from services.mdb.client import Mdb
from services.mdb.schema import MachineType, NewMachine
from services.udb.client import Udb
from services.udb.schema import NewUser
from tests.common.access_rig import Answer, Guarded, guarded
from tests.common.service_rig import Service, activated
from tests.hall.halls import hall
from tests.mdb.rig import serving
from tests.sso.test_service import SSO
from tests.udb import rig as people

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]
BENCH = ("[networks.aliens]", '[networks.bench]\ncidr = "10.88.0.0/16"\n\n[networks.aliens]')
"""A hall whose machines include the containers' host."""
FORGED = {
    "X-Real-IP": "192.168.0.66",
    "X-Forwarded-For": "192.168.0.66",
    "X-Forwarded-Proto": "https",
    "X-Client-Verify": "SUCCESS",
    "X-Client-Subject": "CN=rhfs01,OU=heartbeat",
}


@dataclass
class Edge:
    """nginx, mdb as `mdb`, single sign-on, a guarded service as `netboot`, and the CA behind the certificates."""

    nginx: NginxContainer
    address: str
    guarded: Guarded
    mdb: Service
    sso: Service
    folder: Path
    authority: Authority

    def certificate(self, name: str, pem: bytes) -> Path:
        """A certificate and key as a file."""
        path = self.folder / f"{name}.pem"
        path.write_bytes(pem)
        return path

    def reload(self) -> None:
        """Let nginx read its configuration again."""
        self.nginx.exec(["kill", "-HUP", "1"])

    def ask(
        self,
        path: str,
        *,
        host: str = "netboot.prolo",
        method: str = "GET",
        tls: bool = True,
        headers: Mapping[str, str] | None = None,
        certificate: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> Answer:
        """What curl is answered through nginx."""
        scheme, port = ("https", 443) if tls else ("http", 80)
        argv = ["curl", "--silent", "--show-error", "--request", method, "--write-out", "\n%{http_code}"]
        argv += ["--cacert", str(self.folder / "ca.pem"), "--connect-to", f"::{self.address}:{port}", *options]
        for name, value in (headers or {}).items():
            argv += ["--header", f"{name}: {value}"]
        if certificate is not None:
            argv += ["--cert", str(certificate)]
        body, _, status = run([*argv, f"{scheme}://{host}{path}"]).stdout.rpartition("\n")
        return Answer(int(status), json.loads(body) if body.startswith("{") else {}, body)


def wait_for(ask: Callable[[], Answer], status: int, *, seconds: float = 10) -> Answer:
    """The first answer of that status: new workers of nginx take a moment."""
    deadline = time.monotonic() + seconds
    while (answer := ask()).status != status:
        assert time.monotonic() < deadline, answer
    return answer


@pytest.fixture(scope="module")
def made() -> tuple[bytes, bytes]:
    return ca.make("finals", "prolo", passphrase=None)


def bench() -> Hall:
    return hall(BENCH)


@pytest.fixture(scope="module")
def behind(
    gw_settings: Settings, made: tuple[bytes, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    folder.chmod(0o711)  # as /run/backline: nginx's user goes through it
    (folder / "ca.pem").write_bytes(made[1])
    authority = Authority.open(*made)
    served = authority.issue(
        "gw", names=["mdb.prolo", "netboot.prolo", "udb.prolo"], addresses=[IPv4Address("192.168.1.254")]
    )
    for name in ("netboot", "mdb", "sso", "udb"):
        (folder / name).mkdir()
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(guarded(folder / "netboot", run=folder / "netboot"))
        (folder / "mdb" / "access.key").write_bytes(service.key)
        environment = {
            "CREDENTIALS_DIRECTORY": str(folder / "mdb"),
            "BACKLINE_MDB_ACCESS_ADMINISTRATORS": str(folder / "netboot/administrators.json"),
        }
        database = f"sqlite:///{folder}/mdb/mdb.db"
        mdb = stack.enter_context(serving(folder / "mdb", database, env=environment))
        (folder / "udb/administrators.json").symlink_to("../netboot/administrators.json")
        stack.enter_context(people.serving(folder / "udb", run=folder / "udb"))
        config = folder / "sso/sso.toml"
        nobody = f'"unix:{folder}/nobody.sock"'
        overrides = '[overrides]\n"10.88.0.1" = "alice"\n'
        config.write_text(f'mdb = {nobody}\npresence = {nobody}\nmemory = ""\n{overrides}')
        sso = stack.enter_context(activated(folder / "sso", [*SSO, "--config", str(config)]))
        for name in ("netboot", "mdb", "sso", "udb"):
            (folder / f"{name}.sock").symlink_to(f"{name}/service.sock")
        podman = stack.enter_context(engine(settings=gw_settings))
        nginx = NginxContainer(podman.image_of("gw"), edge.servers(bench(), tls=True), folder, certificate=served)
        stack.enter_context(nginx)
        address = nginx.get_wrapped_container().attrs["NetworkSettings"]["IPAddress"]
        yield Edge(nginx, address, service, mdb, sso, folder, authority)


@pytest.fixture
def gw(behind: Edge) -> Edge:
    behind.guarded.administer(behind.guarded.ada())
    return behind


# Names, addresses, and how much of it


def test_a_service_is_reached_by_its_name_and_nothing_else_is_there(gw: Edge) -> None:
    assert json.loads(gw.ask("/version", host="mdb", tls=False).text)["service"] == "mdb"
    assert json.loads(gw.ask("/version", host="mdb.prolo").text)["service"] == "mdb"
    for host in ("netboot", "netboot.prolo", "192.168.1.254", "192.168.250.254"):
        assert gw.ask("/version", host=host, tls=False).body["service"] == "guarded"
    for host in ("gw.prolo", "wiki.prolo", "evil", "192.168.1.10"):
        assert gw.ask("/version", host=host, tls=False).status == 404
    assert gw.ask("/version", host="gw.prolo", options=("--insecure",)).status == 404


def test_an_address_has_tls_too(gw: Edge) -> None:
    assert gw.ask("/v1/who", host="192.168.1.254").body["name"] == ""
    feed = gw.certificate("feed", gw.authority.issue("rhfs01", scope="feed"))
    assert gw.ask("/v1/who", host="192.168.1.254", certificate=feed).body["name"] == "rhfs01"


def test_the_address_of_a_caller_is_the_real_one(gw: Edge) -> None:
    for tls in (False, True):
        assert gw.ask("/v1/who", tls=tls).body["origin"] == "10.88.0.1"


def stream(gw: Edge, stack: contextlib.ExitStack) -> int:
    """The status of a stream of mdb's feed, which goes on until `stack` ends."""
    context = ssl.create_default_context(cafile=gw.folder / "ca.pem")
    context.load_cert_chain(gw.certificate("streams", gw.authority.issue("rhfs01", scope="feed")))
    plain = stack.enter_context(socket.create_connection((gw.address, 443), timeout=10))
    connection = stack.enter_context(context.wrap_socket(plain, server_hostname="mdb.prolo"))
    connection.send(b"GET /v1/feed HTTP/1.1\r\nHost: mdb.prolo\r\n\r\n")
    return int(connection.recv(4096).split()[1])


def test_one_address_fills_no_feed(gw: Edge) -> None:
    with contextlib.ExitStack() as stack:
        found = [stream(gw, stack) for _ in range(edge.STREAMS + 2)]
        assert found == [200] * edge.STREAMS + [503] * 2
        assert gw.ask("/version", host="mdb", tls=False).status == 200
    with contextlib.ExitStack() as stack:
        wait_for(lambda: Answer(stream(gw, stack), {}), 200)


def test_firmware_of_network_boots_is_there_with_its_length_and_type(gw: Edge) -> None:
    for method in (("--head",), ()):
        answer = gw.ask(
            "/ipxe/snponly.efi",
            host="192.168.1.254",
            tls=False,
            options=(*method, "--output", "/dev/null", "--dump-header", "-"),
        )
        assert "200 OK" in answer.text
        assert "content-type: application/efi" in answer.text.lower()
        assert "content-length: " in answer.text.lower()
    assert gw.ask("/ipxe/", host="netboot", tls=False).status == 403
    assert gw.ask("/ipxe/../../../etc/passwd", tls=False, options=("--path-as-is",)).status in (400, 404)
    assert gw.ask("/ipxe/snponly.efi", method="PUT", tls=False).status == 403


def test_a_service_that_is_down_is_said_to_be(gw: Edge) -> None:
    (gw.folder / "netboot.sock").rename(gw.folder / "away")
    try:
        gw.reload()  # it has connections left
        answer = wait_for(lambda: gw.ask("/v1/who"), 503)
        assert answer.code == "http.service-unavailable"
    finally:
        (gw.folder / "away").rename(gw.folder / "netboot.sock")


# Single sign-on


def page(gw: Edge, **headers: str) -> str:
    """mdb's list of machines with the head of the answer, as a browser gets it."""
    return gw.ask(
        "/machines", host="mdb.prolo", headers={"Accept": "text/html", **headers}, options=("--include",)
    ).text


def known(text: str) -> bool:
    return "x-sso-user: alice" in text.lower() and ">alice</span>" in text


def test_a_page_knows_who_sits_there(gw: Edge) -> None:
    assert known(page(gw))
    assert "x-sso-status: authenticated" in page(gw).lower()


@pytest.mark.parametrize("name", ["X-SSO-User", "x-sso-user", "X-Sso-User", "X_SSO_User", "HTTP_X_SSO_USER"])
def test_what_a_client_says_of_itself_is_gone(gw: Edge, name: str) -> None:
    text = page(gw, **{name: "root", "X-SSO-Status": "authenticated"})
    assert known(text)
    assert "root" not in text


def test_nobody_asks_for_it_from_outside(gw: Edge) -> None:
    assert gw.ask("/__sso", host="mdb.prolo").status == 404
    for host in ("sso", "sso.prolo"):
        assert gw.ask("/v1/whois", host=host, options=("--insecure",)).status == 404


def anonymous(text: str) -> bool:
    return "200 OK" in text and "x-sso-status: unavailable" in text.lower() and "alice" not in text


def test_without_single_sign_on_pages_are_there_for_anonymous_callers(gw: Edge) -> None:
    (gw.folder / "sso.sock").rename(gw.folder / "away")
    try:
        gw.reload()  # it has connections left
        deadline = time.monotonic() + 10
        while not anonymous(page(gw, **{"X-SSO-User": "alice"})):
            assert time.monotonic() < deadline
    finally:
        (gw.folder / "away").rename(gw.folder / "sso.sock")


def test_a_single_sign_on_that_hangs_holds_a_page_for_no_longer_than_a_second(gw: Edge) -> None:
    gw.sso.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert anonymous(page(gw))
        assert time.monotonic() - began < 3
    finally:
        gw.sso.process.send_signal(signal.SIGCONT)
    assert known(page(gw))


# Headers


@pytest.mark.parametrize("tls", [False, True])
def test_no_header_makes_a_caller_somebody(gw: Edge, tls: bool) -> None:
    answer = gw.ask("/v1/who", tls=tls, headers=FORGED)
    assert (answer.body["name"], answer.body["scopes"], answer.body["origin"]) == ("", [], "10.88.0.1")
    underscored = {name.replace("-", "_"): value for name, value in FORGED.items()}
    assert gw.ask("/v1/who", tls=tls, headers=underscored).body == answer.body
    assert gw.ask("/v1/beat", method="POST", tls=tls, headers=FORGED).code == "auth.anonymous"


def test_a_client_in_the_clear_does_not_say_that_it_has_tls(gw: Edge) -> None:
    headers = {**FORGED, "Authorization": f"Bearer {gw.guarded.session()}"}
    assert gw.ask("/v1/who", tls=False, headers=headers).code == "auth.insecure"


# Certificates


def test_a_certificate_is_its_host_and_scope(gw: Edge) -> None:
    pem = gw.certificate("beat", gw.authority.issue("rhfs01", scope="heartbeat"))
    body = gw.ask("/v1/beat", method="POST", certificate=pem).body
    assert (body["name"], body["roles"], body["scopes"]) == ("rhfs01", ["service"], ["heartbeat"])
    assert gw.ask("/v1/change", method="POST", certificate=pem).code == "auth.denied"


def test_without_a_certificate_one_is_anonymous(gw: Edge) -> None:
    answer = gw.ask("/v1/beat", method="POST")
    assert (answer.status, answer.code) == (401, "auth.anonymous")


def test_a_certificate_of_another_scope_is_refused(gw: Edge) -> None:
    pem = gw.certificate("feed", gw.authority.issue("rhfs01", scope="feed"))
    answer = gw.ask("/v1/beat", method="POST", certificate=pem)
    assert (answer.status, answer.code) == (403, "auth.scope")


def refused(gw: Edge, pem: Path) -> str:
    """Why nginx refuses a certificate."""
    answer = gw.ask("/v1/who", certificate=pem)
    assert (answer.status, answer.code) == (401, "auth.certificate")
    return str(answer.body["detail"])


def test_an_expired_certificate_is_refused(gw: Edge) -> None:
    past = datetime.now(UTC) - timedelta(days=0.5)
    pem = gw.authority.issue("rhfs01", scope="heartbeat", days=0.1, now=past)
    assert "expired" in refused(gw, gw.certificate("expired", pem))


def test_a_certificate_of_the_future_is_refused(gw: Edge) -> None:
    pem = gw.authority.issue("rhfs01", scope="heartbeat", now=datetime.now(UTC) + timedelta(days=3))
    assert "not yet valid" in refused(gw, gw.certificate("future", pem))


def test_a_certificate_of_another_ca_is_refused(gw: Edge) -> None:
    other = Authority.open(*ca.make("finals", "prolo", passphrase=None))  # of the same name
    assert refused(gw, gw.certificate("foreign", other.issue("rhfs01", scope="heartbeat")))


def test_a_certificate_that_vouches_for_itself_is_refused(gw: Edge) -> None:
    key, certificate = ca.make("rhfs01", "prolo", passphrase=None)
    assert refused(gw, gw.certificate("self", certificate + key))


def test_a_certificate_signed_by_a_hosts_is_refused(gw: Edge) -> None:
    host = Authority.open(*_split(gw.authority.issue("rhfs01", scope="feed")))
    pem = host.issue("gw", scope="heartbeat") + _split(gw.authority.issue("rhfs01", scope="feed"))[1]
    assert refused(gw, gw.certificate("chain", pem))


def test_a_servers_certificate_does_not_call(gw: Edge) -> None:
    assert "purpose" in refused(gw, gw.certificate("server", gw.authority.issue("gw", names=["gw.prolo"])))


def test_a_certificate_with_another_key_does_not_even_connect(gw: Edge) -> None:
    one, two = (_split(gw.authority.issue("rhfs01", scope="heartbeat")) for _ in range(2))
    pem = gw.certificate("mixed", one[1] + two[0])
    with pytest.raises(Exception, match="exit code 58"):  # curl: problem with the local certificate
        gw.ask("/v1/who", certificate=pem)


def _split(pem: bytes) -> tuple[bytes, bytes]:
    """Key and certificate of what `issue` makes."""
    certificate, mark, key = pem.partition(b"-----BEGIN PRIVATE KEY-----")
    return mark + key, certificate


def test_a_client_believes_no_server_of_another_ca(gw: Edge, tmp_path: Path, names: None) -> None:
    (tmp_path / "other.pem").write_bytes(ca.make("finals", "prolo", passphrase=None)[1])
    with (
        Mdb("https://mdb.prolo", tls=TlsSettings(ca=tmp_path / "other.pem")) as client,
        pytest.raises(MissingError, match="certificate verify failed"),
    ):
        client.machines()


# Sessions and machines


def test_a_session_works_over_tls(gw: Edge) -> None:
    headers = {"Authorization": f"Bearer {gw.guarded.session()}"}
    assert gw.ask("/v1/change", method="POST", headers=headers).body["name"] == "ada"


def test_a_foreign_or_expired_session_is_refused(gw: Edge) -> None:
    for token, code in ((gw.guarded.session(seconds=0), "auth.expired"), ("session.x", "auth.malformed")):
        assert gw.ask("/v1/who", headers={"Authorization": f"Bearer {token}"}).code == code
    foreign = Tokens(new_key()).for_machine("p1", machine=1, boot="ab", seconds=60)
    assert gw.ask("/v1/who", headers={"Authorization": f"Bearer {foreign}"}).code == "auth.foreign"


@pytest.mark.parametrize(("origin", "status"), [("https://netboot.prolo", 200), ("https://mdb.prolo", 403)])
def test_a_cookie_is_for_the_pages_of_its_service(gw: Edge, origin: str, status: int) -> None:
    headers = {"Cookie": f"__Host-backline={gw.guarded.session()}", "Origin": origin}
    assert gw.ask("/v1/change", method="POST", headers=headers).status == status


@pytest.mark.parametrize("tls", [False, True])
def test_a_machines_token_works_with_and_without_tls(gw: Edge, tls: bool) -> None:
    token = gw.guarded.tokens.for_machine("p0001", machine=7, boot="ab", seconds=60)
    body = gw.ask("/v1/beat", method="POST", tls=tls, headers={"Authorization": f"Bearer {token}"}).body
    assert (body["machine"], body["boot"]) == (7, "ab")


def test_in_the_clear_the_page_to_log_in_sends_to_tls(gw: Edge) -> None:
    answer = gw.ask("/login?next=/x", host="mdb", tls=False, options=("--dump-header", "-", "--output", "/dev/null"))
    assert "308 Permanent Redirect" in answer.text
    assert "https://mdb.prolo/login?next=/x" in answer.text


# Our own clients


@pytest.fixture
def names(gw: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find the hall's names at nginx."""
    find = socket.getaddrinfo

    def found(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        return find(gw.address if name.endswith(".prolo") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


def login(gw: Edge, *words: str) -> int:
    argv = ["login", "https://mdb.prolo", "--name", "ada", "--ca", str(gw.folder / "ca.pem"), *words]
    return main.backline(argv)


NEW = NewMachine(hostname="p0001", mac="52:54:00:00:00:01", type=MachineType.USER)


def test_who_logs_in_changes_mdb_and_who_logs_out_does_not(gw: Edge, names: None, home: Path) -> None:
    tls = TlsSettings(ca=gw.folder / "ca.pem")
    with Mdb("https://mdb.prolo", tls=tls) as stranger, pytest.raises(RemoteError) as caught:
        stranger.create(NEW)
    assert caught.value.code == "auth.anonymous"
    assert login(gw, "--key", str(gw.guarded.private)) == 0
    assert saved_sessions.file_of().stat().st_mode & 0o777 == 0o600
    with Mdb("https://mdb.prolo") as ada:  # finds session and CA by itself
        made = ada.create(NEW)
        (entry,) = ada.audit(made.id).entries
        assert (entry.actor, entry.origin) == ("ada", "10.88.0.1")
        ada.delete(made.id)
    assert main.backline(["logout"]) == 0
    with Mdb("https://mdb.prolo", tls=tls) as again, pytest.raises(RemoteError):
        again.create(NEW)


@pytest.fixture
def organizer(gw: Edge, names: None, home: Path) -> Iterator[None]:
    """Is logged in at udb as an organizer, where there is a user of each group."""
    with Udb(f"unix:{gw.folder}/udb.sock") as local:
        for group in UserGroup:
            local.create(NewUser(login=f"one-{group.value}", group=group, password=f"secret of {group.value}"))
        gw.guarded.administer(Administrator("oli", "organizer", [gw.guarded.public.format()]))
        how = ["--name", "oli", "--ca", str(gw.folder / "ca.pem"), "--key", str(gw.guarded.private)]
        assert main.backline(["login", "https://udb.prolo", *how]) == 0
        yield
        for user in local.users().users:
            local.delete(user.id)


def test_an_organizer_finds_contestants_by_command_from_elsewhere(organizer: None, tmp_path: Path) -> None:
    code, out, err = people.command("list")  # this host has no udb: the one that the session is for
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["LOGIN", "one-user"]
    assert "secret of user" in people.command("password", "one-user")[1]
    assert "oli (10.88.0.1) password shown" in people.command("show", "one-user")[1]
    assert people.command("sheet", "group:user", "--output", str(tmp_path / "sheet.tsv"))[0] == 0
    assert "secret of user" in (tmp_path / "sheet.tsv").read_text()


@pytest.mark.parametrize("group", ["orga", "root"])
def test_an_organizer_reads_of_no_other_group_by_any_command(organizer: None, tmp_path: Path, group: str) -> None:
    name, sheet = f"one-{group}", tmp_path / "sheet.tsv"
    for words in (
        ["list", name],
        ["list", f"group:{group}"],
        ["list", "id:1-100000"],
        ["show", name],
        ["password", name],
        ["password", f"group:{group}"],
        ["sheet", name, "--output", str(sheet)],
        ["sheet", f"group:{group}", "--output", str(sheet)],
        ["export", name],
        ["export", f"group:{group}"],
        ["export"],
        ["export", "--format", "json"],
    ):
        said = " ".join(people.command(*words, *["--json"][: words[0] in ("list", "show", "password")])[1:])
        assert f"secret of {group}" not in said
        assert f'"{name}"' not in said, words
        assert not sheet.exists(), words
    for number in range(1, 10):
        assert name not in people.command("show", str(number))[1]


def test_an_organizer_changes_nobody_by_any_command(organizer: None, tmp_path: Path, gw: Edge) -> None:
    table = tmp_path / "people.txt"
    table.write_text("somebody\none-user\n")
    for words in (
        ["add", "somebody"],
        ["edit", "one-user", "--firstname", "Eve"],
        ["rm", "one-user"],
        ["import", str(table), "--format", "logins"],
        ["import", str(table), "--format", "logins", "--dry-run"],
    ):
        code, _, err = people.command(*words)
        assert code not in (0, 2), words
        assert "organizers" in err or "may not" in err or "not allowed" in err or "denied" in err, (words, err)
    with Udb(f"unix:{gw.folder}/udb.sock") as local:
        assert sorted((each.login, each.firstname) for each in local.users().users) == [
            ("one-orga", ""), ("one-root", ""), ("one-user", "")
        ]  # fmt: skip


def test_a_root_reads_everybody_by_command_from_elsewhere(gw: Edge, organizer: None) -> None:
    gw.guarded.administer(Administrator("oli", "root", [gw.guarded.public.format()]))  # hall.toml counts at once
    assert [line.split()[0] for line in people.command("list")[1].splitlines()[1:]] == [
        "one-orga", "one-root", "one-user"
    ]  # fmt: skip
    assert "secret of root" in people.command("password", "one-root")[1]


def test_whoever_is_not_logged_in_reads_nothing_by_command(gw: Edge, organizer: None) -> None:
    assert main.backline(["logout"]) == 0
    code, out, err = people.command("list", "--address", "http://udb.prolo")
    assert (code != 0, out) == (True, "")
    assert "log in" in err


def test_a_session_is_sent_to_its_own_address_only(gw: Edge, names: None, home: Path) -> None:
    assert login(gw, "--key", str(gw.guarded.private)) == 0
    with Mdb("https://netboot.prolo", tls=TlsSettings(ca=gw.folder / "ca.pem")) as other:
        assert other.send(Call("GET", "/v1/session", Who)).name == ""


def test_the_first_key_of_ones_own_is_used(gw: Edge, names: None, home: Path) -> None:
    (home / ".ssh").mkdir()
    for name in ("", ".pub"):
        (home / f".ssh/id_ed25519{name}").write_bytes(gw.guarded.private.with_name(f"ada{name}").read_bytes())
    (home / ".ssh/id_ed25519").chmod(0o600)
    assert login(gw) == 0


def test_a_key_that_is_nobodys_does_not_log_in(
    gw: Edge, names: None, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signing.new_key(home / "eve", comment="eve")
    assert login(gw, "--key", str(home / "eve")) == Exit.HOST
    assert "no trusted key" in capsys.readouterr().err
    assert saved_sessions.load(saved_sessions.file_of()) == {}


def test_a_link_for_the_browser_is_printed(
    gw: Edge, names: None, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert login(gw, "--key", str(gw.guarded.private), "--browser", "--json") == 0
    link = json.loads(capsys.readouterr().out)["link"]
    assert link.startswith("https://mdb.prolo/login?code=link.")
    # A second time the session that is there does: no key is asked for.
    assert main.backline(["login", "https://mdb.prolo", "--browser"]) == 0
    assert "https://mdb.prolo/login?code=link." in capsys.readouterr().out


def test_a_feed_is_followed_through_nginx_with_a_certificate(gw: Edge, names: None, home: Path) -> None:
    pem = gw.certificate("feed", gw.authority.issue("rhfs01", scope="feed"))
    tls = TlsSettings(ca=gw.folder / "ca.pem", certificate=pem)

    async def first_change() -> str:
        follower = Follower("https://mdb.prolo", tls=tls)
        async with asyncio.timeout(20):
            async for batch in follower.batches():
                if batch.first:
                    with Mdb(gw.mdb.unix) as local:
                        await asyncio.to_thread(local.create, NEW)
                elif batch.changes:
                    return str((batch.changes[0].after or {})["hostname"])
        raise AssertionError

    assert asyncio.run(first_change()) == "p0001"


def test_a_session_lasts_no_longer_than_its_administrator(gw: Edge) -> None:
    headers = {"Authorization": f"Bearer {gw.guarded.session()}"}
    gw.guarded.administer()
    assert gw.ask("/v1/who", headers=headers).code == "auth.revoked"


# Who comes in at all


def test_the_world_does_not_come_in(gw: Edge) -> None:
    """With a hall that the containers' host is not in."""
    path = gw.folder / "nginx.d/50-hall.conf"
    try:
        path.write_text(edge.servers(hall(), tls=True))
        gw.reload()
        wait_for(lambda: gw.ask("/v1/who"), 403)
        assert gw.ask("/v1/who", tls=False).status == 403
    finally:
        path.write_text(edge.servers(bench(), tls=True))
        gw.reload()
        wait_for(lambda: gw.ask("/v1/who"), 200)


def test_aliens_come_to_netboot_and_no_further(gw: Edge) -> None:
    """With a hall whose aliens are where the containers' host is."""
    path = gw.folder / "nginx.d/50-hall.conf"
    strangers = hall(("192.168.250.0/24", "10.88.0.0/16"), ("192.168.250.", "10.88.250."))
    try:
        path.write_text(edge.servers(strangers, tls=True))
        gw.reload()
        wait_for(lambda: gw.ask("/version", host="mdb", tls=False), 403)
        assert gw.ask("/v1/who", host="netboot", tls=False).status == 200
    finally:
        path.write_text(edge.servers(bench(), tls=True))
        gw.reload()
        wait_for(lambda: gw.ask("/version", host="mdb", tls=False), 200)
