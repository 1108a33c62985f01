"""Logging in: only who holds a key of hall.toml gets a session, for a challenge of this service, once."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common import signing
from services.common.administrators import Administrator
from services.common.rate import Rate
from services.common.tokens import Claims, Kind, Tokens, new_key
from tests.common.access_rig import HTTPS, NOBODY, PROXY, Answer, Guarded, guarded

OURS = {**HTTPS, "Origin": "https://guarded"}
_places = itertools.count(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as made:
        yield made


@pytest.fixture
def hall(service: Guarded) -> Guarded:
    service.administer(service.ada())
    return service


def from_somewhere() -> dict[str, str]:
    """nginx's headers of a client that has not tried anything yet: tries are counted by address."""
    place = next(_places)
    return {**HTTPS, "X-Real-IP": f"10.1.{place >> 8}.{place & 255}"}


def challenge(hall: Guarded, name: str = "ada") -> str:
    answer = hall.ask("/v1/session/challenge", method="POST", ids=PROXY, headers=from_somewhere(), body={"name": name})
    assert answer.body["namespace"] == "backline-login"
    return str(answer.body["challenge"])


def log_in(hall: Guarded, text: str, signature: bytes) -> Answer:
    body = {"challenge": text, "signature": signature.decode()}
    return hall.ask("/v1/session", method="POST", ids=PROXY, headers=from_somewhere(), body=body)


def signed(hall: Guarded, text: str, *, key: Path | None = None, namespace: str = "backline-login") -> bytes:
    return signing.sign(text.encode(), key or hall.private, namespace)


def test_who_signs_the_challenge_gets_a_session_that_works(hall: Guarded) -> None:
    text = challenge(hall)
    assert text.startswith("backline-login guarded ada challenge.")
    answer = log_in(hall, text, signed(hall, text))
    assert (answer.status, answer.body["name"], answer.body["role"]) == (200, "ada", "root")
    headers = {**HTTPS, "Authorization": f"Bearer {answer.body['token']}"}
    assert hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers).body["name"] == "ada"
    assert hall.ask("/v1/session", ids=PROXY, headers=headers).body == {
        "name": "ada",
        "roles": ["root"],
        "scopes": [],
        "origin": "192.168.0.9",
    }


def test_an_organizers_session_is_an_organizers(hall: Guarded) -> None:
    hall.administer(hall.ada("organizer"))
    text = challenge(hall)
    assert log_in(hall, text, signed(hall, text)).body["role"] == "organizer"


def test_a_session_lasts_as_long_as_the_settings_say(hall: Guarded) -> None:
    text = challenge(hall)
    token = log_in(hall, text, signed(hall, text)).body["token"]
    assert abs(hall.tokens.read(token, Kind.SESSION)[1].expires - hall.tokens.clock() - 4 * 3600) < 60


def test_a_challenge_is_good_once(hall: Guarded) -> None:
    text = challenge(hall)
    signature = signed(hall, text)
    assert log_in(hall, text, signature).status == 200
    again = log_in(hall, text, signature)
    assert (again.status, again.code) == (401, "auth.replayed")


def test_a_challenge_with_a_bad_signature_is_gone_as_well(hall: Guarded) -> None:
    text = challenge(hall)
    assert log_in(hall, text, signed(hall, "something else")).code == "auth.signature"
    assert log_in(hall, text, signed(hall, text)).code == "auth.replayed"


def test_a_signature_of_another_namespace_is_refused(hall: Guarded) -> None:
    text = challenge(hall)
    answer = log_in(hall, text, signed(hall, text, namespace="backline-image"))
    assert (answer.status, answer.code) == (401, "auth.signature")


def test_a_key_that_hall_toml_does_not_list_is_refused(hall: Guarded, tmp_path: Path) -> None:
    signing.new_key(tmp_path / "eve", comment="eve")
    text = challenge(hall)
    assert log_in(hall, text, signed(hall, text, key=tmp_path / "eve")).code == "auth.signature"


def test_one_administrators_key_does_not_open_anothers_session(hall: Guarded, tmp_path: Path) -> None:
    ben = signing.new_key(tmp_path / "ben", comment="ben")
    hall.administer(hall.ada(), Administrator("ben", "organizer", [ben.format()]))
    text = challenge(hall, "ada")
    assert log_in(hall, text, signed(hall, text, key=tmp_path / "ben")).code == "auth.signature"


def test_who_is_no_administrator_gets_a_challenge_and_no_session(hall: Guarded) -> None:
    text = challenge(hall, "eve")
    assert log_in(hall, text, signed(hall, text)).code == "auth.signature"


def test_what_is_no_signature_is_refused(hall: Guarded) -> None:
    for junk in (b"", b"x", b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----"):
        assert log_in(hall, challenge(hall), junk).code == "auth.signature"


def forged(tokens: Tokens, *, name: str = "ada", audience: str = "", seconds: int = 60) -> str:
    token = tokens.mint(Kind.CHALLENGE, Claims(name=name, audience=audience), seconds=seconds)
    return f"backline-login guarded {name} {token}"


def test_a_challenge_of_another_hall_is_refused(hall: Guarded) -> None:
    text = forged(Tokens(new_key()))
    assert log_in(hall, text, signed(hall, text)).code == "auth.foreign"


def test_an_expired_challenge_is_refused(hall: Guarded) -> None:
    text = forged(hall.tokens, seconds=0)
    assert log_in(hall, text, signed(hall, text)).code == "auth.expired"


def test_a_challenge_of_another_service_or_another_run_of_this_one_is_refused(hall: Guarded) -> None:
    text = forged(hall.tokens, audience="0123456789abcdef guarded")
    assert log_in(hall, text, signed(hall, text)).code == "auth.replayed"


def test_a_challenge_whose_words_are_changed_is_refused(hall: Guarded) -> None:
    for old, new in ((" guarded ", " elsewhere "), (" ada ", " ben "), ("backline-login ", "other "), (" ", "  ")):
        text = challenge(hall).replace(old, new, 1)
        assert log_in(hall, text, signed(hall, text)).code in ("auth.replayed", "auth.malformed")


def test_a_session_is_no_challenge(hall: Guarded) -> None:
    text = f"backline-login guarded ada {hall.session()}"
    assert log_in(hall, text, signed(hall, text)).code == "auth.kind"


def test_without_tls_nobody_begins_to_log_in(hall: Guarded) -> None:
    plain = {**HTTPS, "X-Forwarded-Proto": "http"}
    for path, body in (
        ("/v1/session/challenge", {"name": "ada"}),
        ("/v1/session", {"challenge": "", "signature": ""}),
        ("/v1/session/link", {}),
    ):
        assert hall.ask(path, method="POST", ids=PROXY, headers=plain, body=body).code == "auth.insecure"
        assert hall.ask(path, method="POST", tcp=True, headers=HTTPS, body=body).code == "auth.insecure"
    assert hall.ask("/login", ids=PROXY, headers=plain).code == "auth.insecure"


def test_on_the_unix_socket_one_logs_in_as_well(hall: Guarded) -> None:
    text = hall.ask("/v1/session/challenge", method="POST", ids=NOBODY, body={"name": "ada"}).body["challenge"]
    assert text.startswith("backline-login local ada ")
    body = {"challenge": text, "signature": signed(hall, text).decode()}
    assert hall.ask("/v1/session", method="POST", ids=NOBODY, body=body).status == 200


def test_tries_are_limited_by_address(hall: Guarded) -> None:
    headers = from_somewhere()
    codes = [
        hall.ask("/v1/session/challenge", method="POST", ids=PROXY, headers=headers, body={"name": "x"}).status
        for _ in range(24)
    ]
    assert codes[:20] == [200] * 20
    assert codes[-1] == 429
    assert challenge(hall)  # another address is not held up


def test_a_token_bucket_fills_again_and_forgets_who_was_quiet() -> None:
    now = [0.0]
    rate = Rate(per_minute=60, burst=2, keys=2, clock=lambda: now[0])
    assert [rate.allow("a") for _ in range(3)] == [True, True, False]
    now[0] = 1.0
    assert [rate.allow("a") for _ in range(2)] == [True, False]
    assert rate.allow("b")
    assert rate.allow("c")
    assert len(rate._left) == 2


def test_another_sites_page_logs_nobody_in(hall: Guarded) -> None:
    text = challenge(hall)
    body = {"challenge": text, "signature": signed(hall, text).decode()}
    headers = {**from_somewhere(), "Origin": "https://evil"}
    assert hall.ask("/v1/session", method="POST", ids=PROXY, headers=headers, body=body).code == "auth.origin"


# Browsers


def cookie_of(answer: Answer) -> str:
    """The cookie that an answer sets, whose attributes are all there."""
    match = re.search(r"(?im)^set-cookie: (.*?)\r?$", answer.text)
    assert match, answer.text
    value, *attributes = [part.strip() for part in match[1].split(";")]
    wanted = {"httponly", "secure", "samesite=strict", "path=/"}
    assert wanted <= {attribute.lower() for attribute in attributes}
    return value


def form(hall: Guarded, fields: dict[str, str], **changed: str) -> Answer:
    headers = {**from_somewhere(), "Origin": "https://guarded", **changed}
    return hall.ask("/login", method="POST", ids=PROXY, headers=headers, form=fields)


def test_the_page_leads_to_a_session(hall: Guarded) -> None:
    first = hall.ask("/login?next=/machines", ids=PROXY, headers=from_somewhere()).text
    assert 'name="name"' in first
    second = form(hall, {"name": "ada", "next": "/machines"})
    command = html.unescape(re.search(r'<pre id="command"[^>]*>(.*?)</pre>', second.text, re.DOTALL)[1])  # type: ignore[index]
    text = html.unescape(re.search(r'name="challenge" value="([^"]*)"', second.text)[1])  # type: ignore[index]
    assert f"printf %s '{text}' | ssh-keygen -Y sign -n backline-login" in command
    # A form sends line ends as CRLF.
    signature = signed(hall, text).decode().replace("\n", "\r\n")
    third = form(hall, {"challenge": text, "signature": signature, "next": "/machines"})
    assert third.status == 303
    assert "location: /machines" in third.text
    headers = {**OURS, "Cookie": cookie_of(third)}
    assert hall.ask("/v1/change", method="POST", ids=PROXY, headers=headers).body["name"] == "ada"


@pytest.mark.parametrize("onward", ["https://evil", "//evil", "/\\evil", "javascript:x", "/a\r\nSet-Cookie: x=y"])
def test_the_page_leads_nowhere_else(hall: Guarded, onward: str) -> None:
    text = challenge(hall)
    answer = form(hall, {"challenge": text, "signature": signed(hall, text).decode(), "next": onward})
    assert answer.status == 303
    assert re.search(r"(?m)^location: /\r?$", answer.text)


def test_the_page_says_what_was_wrong(hall: Guarded) -> None:
    text = challenge(hall)
    answer = form(hall, {"challenge": text, "signature": "x"})
    assert answer.status == 401
    assert 'role="alert"' in answer.text
    assert form(hall, {"name": "<script>alert(1)</script>"}).status == 400
    assert "<script>" not in hall.ask("/login?next=%3Cscript%3E", ids=PROXY, headers=from_somewhere()).text


def test_the_page_takes_nothing_from_another_site(hall: Guarded) -> None:
    for origin in ("https://evil", "null"):
        answer = form(hall, {"name": "ada"}, Origin=origin)
        assert (answer.status, "not from ours" in answer.text) == (403, True)


def link(hall: Guarded, headers: dict[str, str]) -> Answer:
    return hall.ask("/v1/session/link", method="POST", ids=PROXY, headers={**from_somewhere(), **headers})


def code_of(path: str) -> str:
    return path.removeprefix("/login?code=")


def test_a_link_opens_the_session_in_a_browser_once(hall: Guarded) -> None:
    ends = int(hall.tokens.clock()) + 1000
    path = link(hall, {"Authorization": f"Bearer {hall.session(seconds=1000)}"}).body["path"]
    assert code_of(path) in hall.ask(path, ids=PROXY, headers=from_somewhere()).text
    opened = form(hall, {"code": code_of(path)})
    token = cookie_of(opened).partition("=")[2]
    claims = hall.tokens.read(token, Kind.SESSION)[1]
    assert (claims.name, abs(claims.expires - ends) <= 2) == ("ada", True)
    assert form(hall, {"code": code_of(path)}).status == 401


def test_only_a_session_has_a_link(hall: Guarded) -> None:
    assert link(hall, {}).code == "auth.denied"
    machine = hall.tokens.for_machine("p1", machine=1, boot="ab", seconds=60)
    assert link(hall, {"Authorization": f"Bearer {machine}"}).code == "auth.denied"
    assert hall.ask("/v1/session/link", method="POST").code == "auth.denied"  # root of the host


def test_a_link_of_another_run_or_an_expired_one_opens_nothing(hall: Guarded) -> None:
    claims = Claims(name="ada", key=hall.public.fingerprint(), audience="elsewhere", session_ends=2_000_000_000)
    assert form(hall, {"code": hall.tokens.mint(Kind.LINK, claims, seconds=60)}).status == 401
    assert form(hall, {"code": hall.tokens.mint(Kind.LINK, claims, seconds=0)}).status == 401
    assert form(hall, {"code": hall.session()}).status == 401


def test_logging_out_makes_the_browser_forget(hall: Guarded) -> None:
    headers: dict[str, Any] = {**OURS, "Cookie": f"__Host-backline={hall.session()}"}
    answer = hall.ask("/v1/session", method="DELETE", ids=PROXY, headers=headers, form={})
    assert answer.status == 204
    assert re.search(r'(?i)set-cookie: __Host-backline="";.*max-age=0', answer.text)
    headers["Origin"] = "https://evil"
    assert hall.ask("/v1/session", method="DELETE", ids=PROXY, headers=headers).code == "auth.origin"
