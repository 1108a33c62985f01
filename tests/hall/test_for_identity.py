"""Settings of the identity service and of seats as hall.toml gives them, read by their own readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import InputError
from services.common.settings import read
from services.hall.render import IDENTITY, SEAT, Identity, render
from services.identity.schema import Settings
from services.seat.bandwidth import limit
from services.seat.lock import keeps
from services.seat.presence import find_presence
from tests.hall.halls import hall


@pytest.mark.parametrize(
    ("role", "name", "udb", "feed", "ends"),
    [
        ("gw", "gw", "unix:/run/backline/udb.sock", "/v1/feed/private", False),
        ("rhfs", "rhfs01", "https://udb.prolo", "/v1/feed/private", False),
        ("nfsroot", "pas-r01p01", "https://udb.prolo", "/v1/feed", True),
    ],
)
def test_each_machine_follows_the_feed_that_it_may(
    tmp_path: Path, role: str, name: str, udb: str, feed: str, ends: bool
) -> None:
    file = tmp_path / "identity.toml"
    file.write_text(render(hall(), Identity(role, name))[IDENTITY].content)
    settings = read(Settings, section="identity", file=file, environ={})
    assert (settings.udb, settings.feed, settings.ends_sessions) == (udb, feed, ends)


def test_only_a_seat_is_told_who_decides_on_logins(tmp_path: Path) -> None:
    assert SEAT not in render(hall(), Identity("gw", "gw"))
    (tmp_path / "run/backline").mkdir(parents=True)
    (tmp_path / SEAT.lstrip("/")).write_text(render(hall(), Identity("nfsroot", "pas-r01p01"))[SEAT].content)
    (tmp_path / "run/credstore").mkdir()
    (tmp_path / "run/credstore/backline.boot-token").write_text("t0ken\n")
    found = find_presence({}, root=tmp_path)
    assert (found.address, found.token) == ("https://presence.prolo", "t0ken")


@pytest.mark.parametrize("organizers", [False, True])
def test_a_seat_keeps_hashes_of_contestants_of_organizers_if_the_hall_says_so_and_never_of_roots(
    tmp_path: Path, *, organizers: bool
) -> None:
    data = hall(("organizers_hashes = false", "organizers_hashes = true")) if organizers else hall()
    (tmp_path / "seat.toml").write_text(render(data, Identity("nfsroot", "pas-r01p01"))[SEAT].content)
    kept = {group: keeps(group, settings=tmp_path / "seat.toml") for group in ("user", "orga", "root")}
    assert kept == {"user": True, "orga": organizers, "root": False}


def test_a_seat_holds_users_to_the_hall_s_figure(tmp_path: Path) -> None:
    data = hall(("bandwidth = 100", "bandwidth = 40"))
    (tmp_path / "seat.toml").write_text(render(data, Identity("nfsroot", "pas-r01p01"))[SEAT].content)
    assert limit(tmp_path / "seat.toml") == 40


@pytest.mark.parametrize("figure", ["0", "-1", "100001", '"100"'])
def test_a_figure_that_is_none_is_refused(figure: str) -> None:
    with pytest.raises(InputError, match=r"seats\.bandwidth"):
        hall(("bandwidth = 100", f"bandwidth = {figure}"))
