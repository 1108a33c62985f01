"""Mirrors: the host's own apt configuration or a setting, and never another source of packages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import mirrors
from builder.settings import Settings
from services.common.errors import InputError
from services.common.process import Completed

LABELLED = """\
Debian|trixie|main|http://mirror.example/debian/
Debian|trixie|contrib|http://mirror.example/debian/
Debian|trixie-updates|main|http://mirror.example/debian/
Debian-Security|trixie-security|main|http://security.example/debian-security/
"""
BOTH = {"debian": "http://mirror.example/debian/", "debian-security": "http://security.example/debian-security/"}


def host(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let this host's apt have these sources."""

    def run(argv: Sequence[str], *, check: bool = True) -> Completed:
        return Completed(tuple(argv), 0, text, "")

    monkeypatch.setattr(mirrors, "run", run)


def test_archives_are_told_by_their_signed_label() -> None:
    assert mirrors.parse_targets(LABELLED) == BOTH


def test_a_labelled_archive_may_lie_anywhere() -> None:
    assert mirrors.parse_targets("Debian|trixie|main|http://x.example/pub/os") == {"debian": "http://x.example/pub/os/"}


def test_archives_are_told_by_their_address_before_the_first_update() -> None:
    assert mirrors.parse_targets(LABELLED.replace("Debian-Security|", "|").replace("Debian|", "|")) == BOTH


@pytest.mark.parametrize(
    "line",
    [
        "Vendor|stable|main|http://vendor.example/debian/",
        "Backports|trixie|main|http://vendor.example/debian-security/",
        "|trixie|main|http://vendor.example/apt/",
        "|trixie|main|http://vendor.example/debian-security/",
        "|stable|stable|http://vendor.example/debian/",
        "Debian|trixie|main|cdrom:[Debian 13]/",
        "Debian|trixie|main",
        "",
    ],
)
def test_other_sources_are_not_archives_of_debian(line: str) -> None:
    assert mirrors.parse_targets(line + "\n") == {}


def test_the_first_mirror_of_an_archive_is_used() -> None:
    text = "Debian|trixie|main|http://one.example/debian\nDebian|trixie|main|http://two.example/debian\n"
    assert mirrors.parse_targets(text)["debian"] == "http://one.example/debian/"


def test_a_list_of_mirrors_in_a_file_gives_its_first(tmp_path: Path) -> None:
    (tmp_path / "debian.list").write_text("# mirrors\n\nhttp://one.example/debian\tpriority:1\nhttp://two.example/\n")
    text = f"Debian|trixie|main|mirror+file://{tmp_path}/debian.list/\n"
    assert mirrors.parse_targets(text) == {"debian": "http://one.example/debian/"}


@given(st.text("|Debian-Security:/\nmain"))
def test_any_text_is_understood_or_ignored(text: str) -> None:
    assert set(mirrors.parse_targets(text)) <= set(mirrors.ARCHIVES)


# Settings


def test_the_hosts_mirrors_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, LABELLED)
    assert mirrors.discover(Settings()).live == BOTH


def test_a_setting_wins_over_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, LABELLED)
    found = mirrors.discover(Settings(mirror="http://hall.example/debian"))
    assert found.live == BOTH | {"debian": "http://hall.example/debian/"}


def test_with_both_settings_the_host_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "parse_targets", None)
    found = mirrors.discover(Settings(mirror="http://a.example/d", security_mirror="http://a.example/s/"))
    assert found.live == {"debian": "http://a.example/d/", "debian-security": "http://a.example/s/"}


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", "debian and debian-security"),
        (LABELLED.rpartition("Debian-Security")[0], "debian-security"),
    ],
)
def test_an_archive_without_a_mirror_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, text: str, missing: str
) -> None:
    host(monkeypatch, text)
    with pytest.raises(InputError) as caught:
        mirrors.discover(Settings())
    assert caught.value.code == "mirror.unknown"
    assert caught.value.message.endswith(missing)
    assert "BACKLINE_BUILD_MIRROR" in (caught.value.hint or "")


def test_a_snapshot_is_of_the_locks_second(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, LABELLED)
    found = mirrors.discover(Settings(snapshot="http://snap.example/{archive}/{stamp}"), epoch=1_769_817_600)
    assert found.candidates("debian-security") == [
        BOTH["debian-security"],
        "http://snap.example/debian-security/20260131T000000Z/",
    ]


def test_without_a_lock_there_is_no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, LABELLED)
    assert mirrors.discover(Settings(snapshot="http://snap.example/{archive}/{stamp}")).snapshot == {}


@pytest.mark.parametrize("snapshot", ["http://x/{suite}", "http://x/{", "http://x/{0}", "http://x/{stamp.x}"])
def test_a_snapshot_address_with_other_fields_is_refused(monkeypatch: pytest.MonkeyPatch, snapshot: str) -> None:
    host(monkeypatch, LABELLED)
    with pytest.raises(InputError) as caught:
        mirrors.discover(Settings(snapshot=snapshot), epoch=1)
    assert caught.value.code == "mirror.snapshot"


# The host's way to the network


def test_the_hosts_proxies_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    host(
        monkeypatch,
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://proxy.example:3128";\nAcquire::http "";\n'
        'Acquire::Languages:: "en";\nAcquire::Retries "3";\n',
    )
    assert mirrors.acquire_options().splitlines() == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::http "";',
        'Acquire::Retries "3";',
    ]
