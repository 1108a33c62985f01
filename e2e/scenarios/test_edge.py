"""gw's edge in the hall: TLS by the hall's CA, hosts by their certificates, and an administrator who logs in."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest

from e2e.lab import Lab
from services.common.signing import sign

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
OVERRIDE = "/run/backline/hall/override.toml"
KEY = "/var/lib/backline/access.key"


def ask(
    lab: Lab,
    node: str,
    path: str,
    *,
    host: str = "mdb",
    method: str = "GET",
    certificate: Path | None = None,
    **how: Any,
) -> httpx2.Response:
    """What a node is answered over TLS by gw, for a name of the hall's domain."""
    context = ssl.create_default_context(cadata=lab.hall.data.trust.ca)
    if certificate is not None:
        context.load_cert_chain(certificate)
    headers = {"host": f"{host}.prolo", **how.pop("headers", {})}
    return lab[node].http(method, f"https://192.168.1.254{path}", verify=context, headers=headers, **how)


def log_in(lab: Lab, folder: Path) -> str:
    """A session's token at mdb, from web."""
    (person,) = lab.hall.data.administrators
    challenge = ask(lab, "web", "/v1/session/challenge", method="POST", json={"name": person.name}).json()["challenge"]
    signature = sign(challenge.encode(), lab.hall.key_in(folder), "backline-login").decode()
    answer = ask(lab, "web", "/v1/session", method="POST", json={"challenge": challenge, "signature": signature})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


@pytest.fixture(autouse=True)
def _up(lab: Lab) -> None:
    for unit in ("nginx.service", "backline-mdb.service", "backline-netboot.service"):
        lab["gw"].wait_for_unit(unit)
    lab["web"].wait_for_address()


def test_services_answer_by_name_with_and_without_tls(lab: Lab) -> None:
    for service in ("mdb", "netboot", "udb"):
        assert ask(lab, "web", "/version", host=service).json()["service"] == service
        plain = lab["web"].http("GET", "http://192.168.1.254/version", headers={"host": service})
        assert plain.json()["service"] == service
    assert lab["web"].http("GET", "http://192.168.1.254/version").json()["service"] == "netboot"
    assert ask(lab, "web", "/version", host="printing").status_code == 404


def test_the_edge_runs_as_nobody_special(lab: Lab) -> None:
    users = lab["gw"].succeeds("ps", "-C", "nginx", "-o", "user=").split()
    assert set(users) == {"www-data"}


def test_the_world_does_not_reach_the_edge(lab: Lab) -> None:
    """The lab itself answers where the Internet would be."""
    answer = lab["gw"].http("GET", "http://198.51.100.2/version", headers={"host": "mdb"})
    assert answer.status_code == 403


def test_a_host_is_known_by_the_certificate_that_it_was_given(lab: Lab, tmp_path: Path) -> None:
    pem = tmp_path / "feed.pem"
    pem.write_bytes(lab["rhfs01"].get("/run/credentials/@system/backline.client.feed"))
    who = ask(lab, "rhfs01", "/v1/session", certificate=pem).json()
    assert (who["name"], who["roles"], who["scopes"]) == ("rhfs01", ["service"], ["feed"])
    assert who["origin"].startswith("192.168.1.1")
    answer = ask(lab, "rhfs01", "/v1/machines", method="POST", certificate=pem, json={"hostname": "x"})
    assert answer.json()["code"] == "auth.denied"


def test_an_administrator_logs_in_and_edits_a_machine(lab: Lab, tmp_path: Path) -> None:
    new = {"hostname": "edge-1", "mac": "52:54:00:ed:9e:01", "type": "user"}
    assert ask(lab, "web", "/v1/machines", method="POST", json=new).json()["code"] == "auth.anonymous"
    headers = {"authorization": f"Bearer {log_in(lab, tmp_path)}"}
    made = ask(lab, "web", "/v1/machines", method="POST", json=new, headers=headers)
    assert made.status_code == 201, made.text
    (entry, *_) = ask(lab, "web", f"/v1/audit?machine={made.json()['id']}", headers=headers).json()["entries"]
    assert (entry["actor"], entry["origin"]) == (lab.hall.data.administrators[0].name, "192.168.1.100")
    gone = ask(lab, "web", f"/v1/machines/{made.json()['id']}", method="DELETE", headers=headers)
    assert gone.status_code == 204


def test_who_is_taken_out_of_hall_toml_is_out(lab: Lab, tmp_path: Path) -> None:
    gw = lab["gw"]
    headers = {"authorization": f"Bearer {log_in(lab, tmp_path)}"}
    (person,) = lab.hall.data.administrators
    try:
        gw.put(OVERRIDE, lab.hall.text.replace(f'name = "{person.name}"', 'name = "somebody-else"', 1))
        gw.succeeds("systemctl", "reload", "backline-hall.service")
        assert ask(lab, "web", "/v1/session", headers=headers).json()["code"] == "auth.revoked"
    finally:
        gw.succeeds("rm", "-f", OVERRIDE)
        gw.succeeds("systemctl", "reload", "backline-hall.service")
    assert ask(lab, "web", "/v1/session", headers=headers).json()["name"] == person.name


def test_nginx_follows_hall_toml_without_a_restart(lab: Lab) -> None:
    gw = lab["gw"]
    before = gw.unit("nginx.service").main_pid

    def workers() -> set[str]:
        return set(gw.succeeds("pgrep", "--parent", str(before)).split())

    old = workers()
    more = '[networks.annex]\ncidr = "203.0.113.0/24"\n\n[networks.aliens]'
    try:
        gw.put(OVERRIDE, lab.hall.text.replace("[networks.aliens]", more, 1))
        gw.succeeds("systemctl", "reload", "backline-hall.service")
        gw.wait_until("other workers", lambda: workers().isdisjoint(old))
        assert ask(lab, "web", "/version").status_code == 200
    finally:
        gw.succeeds("rm", "-f", OVERRIDE)
        gw.succeeds("systemctl", "reload", "backline-hall.service")
    assert gw.unit("nginx.service").main_pid == before


def test_the_key_of_tokens_is_made_once_and_for_root_alone(lab: Lab) -> None:
    gw = lab["gw"]
    assert gw.succeeds("stat", "--format=%U %a %s", KEY) == "root 600 32"
    key = gw.get(KEY)
    gw.succeeds("systemctl", "restart", "backline-hall-key.service")
    assert gw.get(KEY) == key
