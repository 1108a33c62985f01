"""What hall.toml makes of nginx, and how its unit is shut in; what nginx then does is in tests/e2e/test_edge.py."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from services.common.process import run
from services.hall import edge
from tests.hall.halls import hall

EXTRA = Path(__file__).parents[2] / "images/gw/mkosi.extra"
DROP_IN = EXTRA / "usr/lib/systemd/system/nginx.service.d/10-backline.conf"
SSO = r"(?ms)^    location = /__sso \{.*?^    \}"
TRUSTED = (
    "Host",
    "X-Real-IP",
    "X-Forwarded-Proto",
    "X-Client-Verify",
    "X-Client-Subject",
    "X-SSO-User",
    "X-SSO-Status",
)


def blocks(text: str) -> list[str]:
    """The servers of a configuration."""
    return re.findall(r"(?ms)^server \{.*?^\}", text)


@pytest.mark.parametrize("tls", [False, True])
def test_every_server_that_forwards_sets_every_header_that_services_believe(tls: bool) -> None:
    forwarding = [block for block in blocks(edge.servers(hall(), tls=tls)) if "proxy_pass" in block]
    assert len(forwarding) == len(edge.SITES) * (2 if tls else 1)
    for block in forwarding:
        for name in TRUSTED:
            assert re.search(rf"(?m)^    proxy_set_header {name} \S+;$", block), name
        # In a location, one such line would undo all of the server's.
        assert not re.search(r"(?m)^        proxy_set_header", re.sub(SSO, "", block))


def test_only_with_tls_anything_is_said_of_certificates() -> None:
    for block in blocks(edge.servers(hall(), tls=True)):
        if "proxy_pass" in block and "443" not in block:
            assert 'X-Client-Verify "";' in block
            assert 'X-Client-Subject "";' in block


def test_without_a_certificate_there_is_no_tls() -> None:
    text = edge.servers(hall(), tls=False)
    assert "ssl" not in text
    assert "443" not in text


def test_aliens_are_let_in_to_netboot_alone() -> None:
    for block in blocks(edge.servers(hall(), tls=True)):
        if "proxy_pass" in block:
            assert ("allow 192.168.250.0/24;" in block) == ("http://netboot" in block)
            assert "allow 192.168.0.0/23;" in block
            assert "deny all;" in block


def test_a_feed_is_not_held_back() -> None:
    for block in blocks(edge.servers(hall(), tls=True)):
        if "proxy_pass" in block:
            feed = re.search(r"(?ms)location = /v1/feed \{.*?\}", block)
            assert feed
            assert "proxy_buffering off;" in feed[0]
            assert ("location = /events {" in block) == ("http://map" in block)
            private = re.search(r"(?ms)location = /v1/feed/private \{.*?\}", block)
            assert (private is not None) == ("http://udb" in block)
            assert private is None or "proxy_buffering off;" in private[0]


def test_one_address_has_few_streams() -> None:
    text = edge.servers(hall(), tls=True)
    assert "limit_conn_zone $binary_remote_addr zone=streams:" in text
    streams = re.findall(r"(?ms)location = (?:/v1/feed|/events)\S* \{.*?\}", text)
    assert len(streams) == 2 * (len(edge.SITES) + 2)
    assert all(f"limit_conn streams {edge.STREAMS};" in stream for stream in streams)


def test_files_of_the_depot_are_read_only_and_for_the_hall(tmp_path: Path) -> None:
    for block in blocks(edge.servers(hall(), tls=True)):
        found = re.search(r"(?ms)location /files/ \{.*?\n    \}", block)
        assert (found is not None) == ("http://depot" in block)
        if found is not None:
            assert "alias /var/lib/backline-depot/files/;" in found[0]
            assert "limit_except GET { deny all; }" in found[0]
            assert "allow 192.168.250.0/24;" not in block
            assert "proxy_request_buffering off;" in block


def test_nginx_is_little_exposed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    unit = tmp_path / "nginx.service"
    unit.write_text(DROP_IN.read_text())
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 3.0, done.stdout


def test_nginx_runs_as_the_user_whose_headers_services_believe() -> None:
    from services.common.access_settings import AccessSettings

    (user,) = AccessSettings().proxy_users
    assert f"User={user}\n" in DROP_IN.read_text()
    assert f"include {edge.CONFIGURATION.rpartition('/')[0]}/*.conf;" in (EXTRA / "etc/nginx/backline.conf").read_text()
    assert f"ConditionPathExists={edge.CONFIGURATION}\n" in DROP_IN.read_text()


def test_a_site_that_is_told_who_sits_there_asks_and_every_other_is_told_nothing() -> None:
    for block in blocks(edge.servers(hall(), tls=True)):
        if "proxy_pass" not in block:
            continue
        told = any(f"proxy_pass http://{site.name};" in block for site in edge.SITES if site.sso)
        assert ("auth_request /__sso;" in block) == told
        assert ('proxy_set_header X-SSO-User "";' in block) == (not told)
        found = re.search(SSO, block)
        assert (found is not None) == told
        if found is not None:
            assert "internal;" in found[0]
            assert "proxy_set_header X-Real-IP $remote_addr;" in found[0]
            assert "proxy_pass_request_headers off;" in found[0]


def test_who_asks_for_who_sits_where_is_asked_by_no_name_of_the_network() -> None:
    assert edge.SSO not in {site.name for site in edge.SITES}
