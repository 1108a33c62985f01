"""Who may do what: every kind of credential, good, missing, bad, foreign, expired, of the wrong kind or scope."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.common.tokens import Claims, Kind, Tokens, new_key
from tests.common.access_rig import GAMES, HTTPS, NOBODY, PROXY, Guarded, guarded

ANONYMOUS = {"name": "", "roles": [], "scopes": []}
CERTIFICATE = {"X-Client-Verify": "SUCCESS", "X-Client-Subject": "CN=rhfs1,OU=feed,OU=heartbeat"}
BOOT = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as made:
        yield made


@pytest.fixture
def hall(service: Guarded) -> Guarded:
    """The service, whose only administrator is ada, of role root."""
    service.administer(service.ada())
    return service


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def machine(hall: Guarded, *, seconds: int = 60, scopes: tuple[str, ...] = ("heartbeat",)) -> str:
    claims = Claims(name="p0001", machine=7, boot=BOOT, scopes=scopes)
    return hall.tokens.mint(Kind.MACHINE, claims, seconds=seconds)


# The unix socket


def test_root_of_the_host_is_root(hall: Guarded) -> None:
    assert hall.ask("/v1/who").body["roles"] == ["root", "service"]  # the service runs as root here: its own user, too
    assert hall.ask("/v1/change", method="POST").status == 200
    assert hall.ask("/v1/look").status == 200


def test_a_member_of_a_group_has_the_groups_role_and_no_more(hall: Guarded) -> None:
    assert hall.ask("/v1/look", ids=GAMES).body["roles"] == ["organizer"]
    assert hall.ask("/v1/change", method="POST", ids=GAMES).code == "auth.denied"


def test_another_user_of_the_host_is_known_and_may_nothing(hall: Guarded) -> None:
    assert hall.ask("/v1/known", ids=NOBODY).body["origin"] == "local"
    answer = hall.ask("/v1/change", method="POST", ids=NOBODY)
    assert (answer.status, answer.code) == (403, "auth.denied")


def test_over_tcp_nobody_is_known(hall: Guarded) -> None:
    body = hall.ask("/v1/who", tcp=True).body
    assert (body["name"], body["roles"], body["origin"]) == ("", [], "127.0.0.1")
    answer = hall.ask("/v1/known", tcp=True)
    assert (answer.status, answer.code) == (401, "auth.anonymous")


def test_headers_of_a_proxy_count_from_nginx_alone(hall: Guarded) -> None:
    forged = {**HTTPS, **CERTIFICATE}
    assert hall.ask("/v1/known", tcp=True, headers=forged).code == "auth.anonymous"
    assert hall.ask("/v1/who", tcp=True, headers=forged).body["origin"] == "127.0.0.1"
    assert hall.ask("/v1/who", ids=NOBODY, headers=forged).body == hall.ask("/v1/who", ids=NOBODY).body
    assert hall.ask("/v1/who", headers=forged).body["name"] == "root"


# Through nginx


def test_who_shows_nothing_to_nginx_is_anonymous_and_has_his_address(hall: Guarded) -> None:
    for headers in (HTTPS, {**HTTPS, "X-Client-Verify": "NONE"}, {**HTTPS, "X-Forwarded-Proto": "http"}):
        assert hall.ask("/v1/who", ids=PROXY, headers=headers).body == {
            **ANONYMOUS,
            "origin": "192.168.0.9",
            "machine": None,
            "boot": None,
        }
        assert hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers).code == "auth.anonymous"


def test_nginx_that_names_no_caller_is_refused(hall: Guarded) -> None:
    for address in ({}, {"X-Real-IP": "somewhere"}):
        assert hall.ask("/v1/who", ids=PROXY, headers=address).code == "auth.malformed"


def test_a_certificate_is_its_host_with_its_scopes(hall: Guarded) -> None:
    answer = hall.ask("/v1/beat", method="POST", ids=PROXY, headers={**HTTPS, **CERTIFICATE})
    assert (answer.body["name"], answer.body["roles"], answer.body["scopes"]) == (
        "rhfs1",
        ["service"],
        ["feed", "heartbeat"],
    )
    assert hall.ask("/v1/change", method="POST", ids=PROXY, headers={**HTTPS, **CERTIFICATE}).code == "auth.denied"


def test_a_certificate_of_another_scope_is_refused(hall: Guarded) -> None:
    headers = {**HTTPS, **CERTIFICATE, "X-Client-Subject": "CN=rhfs1,OU=feed"}
    answer = hall.ask("/v1/beat", method="POST", ids=PROXY, headers=headers)
    assert (answer.status, answer.code) == (403, "auth.scope")


def test_a_certificate_that_nginx_does_not_believe_is_refused(hall: Guarded) -> None:
    headers = {**HTTPS, **CERTIFICATE, "X-Client-Verify": "FAILED:certificate has expired"}
    answer = hall.ask("/v1/who", ids=PROXY, headers=headers)
    assert (answer.status, answer.code) == (401, "auth.certificate")
    assert "certificate has expired" in answer.body["detail"]


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "CN=rhfs1",
        "OU=feed",
        "CN=rhfs1,CN=gw,OU=feed",
        "CN=rhfs1+OU=feed",
        r"CN=rhfs1\,OU=feed",
        "CN=rhfs1,OU=feed,O=Else",
        "CN=Rhfs 1,OU=feed",
        "CN=rhfs1, OU=feed",
    ],
)
def test_a_certificate_whose_subject_is_not_a_hosts_is_refused(hall: Guarded, subject: str) -> None:
    headers = {**HTTPS, **CERTIFICATE, "X-Client-Subject": subject or ";"}
    assert hall.ask("/v1/who", ids=PROXY, headers=headers).code == "auth.certificate"


def test_a_certificate_without_tls_is_nothing(hall: Guarded) -> None:
    headers = {**HTTPS, **CERTIFICATE, "X-Forwarded-Proto": "http"}
    assert hall.ask("/v1/known", ids=PROXY, headers=headers).code == "auth.anonymous"


# Sessions


def test_a_session_has_the_role_that_hall_toml_gives_now(hall: Guarded) -> None:
    headers = {**HTTPS, **bearer(hall.session())}
    answer = hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers)
    assert (answer.body["name"], answer.body["roles"], answer.body["origin"]) == ("ada", ["root"], "192.168.0.9")
    hall.administer(hall.ada("organizer"))
    assert hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers).code == "auth.denied"
    assert hall.ask("/v1/look", ids=PROXY, headers=headers).status == 200


def test_a_session_ends_when_its_administrator_is_out_of_hall_toml(hall: Guarded) -> None:
    headers = {**HTTPS, **bearer(hall.session())}
    hall.administer()
    answer = hall.ask("/v1/who", ids=PROXY, headers=headers)
    assert (answer.status, answer.code) == (401, "auth.revoked")


def test_a_session_ends_when_its_key_is_out_of_hall_toml(hall: Guarded) -> None:
    headers = {**HTTPS, **bearer(hall.session(key="SHA256:another"))}
    assert hall.ask("/v1/who", ids=PROXY, headers=headers).code == "auth.revoked"


def test_a_session_works_for_any_user_on_the_unix_socket(hall: Guarded) -> None:
    answer = hall.ask("/v1/change", method="POST", ids=NOBODY, headers=bearer(hall.session()))
    assert answer.body["name"] == "ada"


@pytest.mark.parametrize("way", ["http", "tcp"])
def test_a_session_without_tls_is_refused(hall: Guarded, way: str) -> None:
    headers = {**HTTPS, "X-Forwarded-Proto": "http", **bearer(hall.session())}
    answer = hall.ask("/v1/who", ids=PROXY, tcp=way == "tcp", headers=headers)
    assert (answer.status, answer.code) == (403, "auth.insecure")


CARRIERS = ["bearer", "cookie"]


def carried(carrier: str, token: str) -> dict[str, str]:
    return {**HTTPS, **(bearer(token) if carrier == "bearer" else {"Cookie": f"__Host-backline={token}"})}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_expired_session_is_refused(hall: Guarded, carrier: str) -> None:
    answer = hall.ask("/v1/who", ids=PROXY, headers=carried(carrier, hall.session(seconds=0)))
    assert (answer.status, answer.code) == (401, "auth.expired")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_session_of_another_hall_is_refused(hall: Guarded, carrier: str) -> None:
    claims = Claims(name="ada", key=hall.public.fingerprint())
    foreign = Tokens(new_key()).mint(Kind.SESSION, claims, seconds=60)
    answer = hall.ask("/v1/who", ids=PROXY, headers=carried(carrier, foreign))
    assert (answer.status, answer.code) == (401, "auth.foreign")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("token", ["x", "session..", "session.e30", "a" * 5000])
def test_what_is_no_token_is_refused(hall: Guarded, carrier: str, token: str) -> None:
    answer = hall.ask("/v1/who", ids=PROXY, headers=carried(carrier, token))
    assert (answer.status, answer.code) == (401, "auth.malformed")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", [Kind.CHALLENGE, Kind.LINK])
def test_what_only_opens_a_session_is_none(hall: Guarded, carrier: str, kind: Kind) -> None:
    claims = Claims(name="ada", key=hall.public.fingerprint())
    token = hall.tokens.mint(kind, claims, seconds=60)
    assert hall.ask("/v1/who", ids=PROXY, headers=carried(carrier, token)).code == "auth.kind"


def test_another_scheme_of_authorization_is_refused(hall: Guarded) -> None:
    for value in ("Basic YTpi", "Bearer", "Bearer "):
        assert hall.ask("/v1/who", ids=PROXY, headers={**HTTPS, "Authorization": value}).code == "auth.malformed"


def test_a_bad_token_is_refused_even_from_root(hall: Guarded) -> None:
    assert hall.ask("/v1/change", method="POST", headers=bearer("x")).code == "auth.malformed"


# Cookies and other sites' pages


def test_a_cookie_reads_and_changes_from_the_services_own_pages(hall: Guarded) -> None:
    headers = carried("cookie", hall.session())
    assert hall.ask("/v1/look", ids=PROXY, headers=headers).body["name"] == "ada"
    headers["Origin"] = "https://guarded"
    assert hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers).status == 200


@pytest.mark.parametrize("origin", [None, "https://evil", "http://guarded", "https://guarded:444", "null"])
def test_a_cookie_changes_nothing_for_another_sites_page(hall: Guarded, origin: str | None) -> None:
    headers = carried("cookie", hall.session()) | ({"Origin": origin} if origin else {})
    answer = hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers)
    assert (answer.status, answer.code) == (403, "auth.origin")


def test_a_cookie_without_tls_is_nothing(hall: Guarded) -> None:
    headers = carried("cookie", hall.session()) | {"X-Forwarded-Proto": "http"}
    assert hall.ask("/v1/known", ids=PROXY, headers=headers).code == "auth.anonymous"


# Machines


@pytest.mark.parametrize("proto", ["http", "https"])
def test_a_machines_token_is_its_machine_and_boot(hall: Guarded, proto: str) -> None:
    headers = {**HTTPS, "X-Forwarded-Proto": proto, **bearer(machine(hall))}
    body = hall.ask("/v1/beat", method="POST", ids=PROXY, headers=headers).body
    assert (body["name"], body["machine"], body["boot"], body["roles"]) == ("p0001", 7, BOOT, [])
    assert hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers).code == "auth.denied"


def test_a_machines_token_of_another_scope_is_refused(hall: Guarded) -> None:
    headers = {**HTTPS, **bearer(machine(hall, scopes=("feed",)))}
    answer = hall.ask("/v1/beat", method="POST", ids=PROXY, headers=headers)
    assert (answer.status, answer.code) == (403, "auth.scope")


def test_an_expired_machines_token_is_refused(hall: Guarded) -> None:
    headers = {**HTTPS, **bearer(machine(hall, seconds=0))}
    assert hall.ask("/v1/beat", method="POST", ids=PROXY, headers=headers).code == "auth.expired"


def test_a_machines_token_of_another_hall_is_refused(hall: Guarded) -> None:
    foreign = Tokens(new_key()).for_machine("p0001", machine=7, boot=BOOT, seconds=60)
    assert hall.ask("/v1/beat", method="POST", ids=PROXY, headers={**HTTPS, **bearer(foreign)}).code == "auth.foreign"


def test_a_machines_token_is_no_cookie(hall: Guarded) -> None:
    headers = carried("cookie", machine(hall))
    assert hall.ask("/v1/who", ids=PROXY, headers=headers).code == "auth.kind"
