"""The rollout service beside a real netboot, both as processes: good and bad versions, kills, who may do what."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from netboot.client import Netboot
from services.common.errors import Exit
from services.common.problem import RemoteError
from services.rollout.client import RolloutClient
from services.rollout.schema import OVER, Phase, Plan, Rollout
from tests.common.service_rig import Service
from tests.netboot.rig import ONE, TWO, ask
from tests.rollout.rig import Seats, serving_netboot, serving_rollout, until

PLAN = Plan(version=TWO, why="new compilers", within=60, settle=1)


@pytest.fixture
def netboot(tmp_path: Path) -> Iterator[Service]:
    with serving_netboot(tmp_path, 40) as service:
        yield service


@pytest.fixture
def rollout(tmp_path: Path, netboot: Service) -> Iterator[Service]:
    with serving_rollout(tmp_path, netboot) as service:
        yield service


def over(service: Service, *, seconds: float = 60) -> Rollout:
    with RolloutClient(service.unix) as client:
        until(lambda: client.rollouts().rollouts[0].phase in OVER, seconds=seconds)
        return client.rollouts().rollouts[0]


def pointer(service: Service) -> tuple[str | None, bool]:
    with Netboot(service.unix) as client:
        (channel,) = client.channels().channels
        return channel.current, channel.committed


def test_a_good_version_reaches_every_seat(tmp_path: Path, netboot: Service, rollout: Service) -> None:
    with Seats(tmp_path, 40) as hall, RolloutClient(rollout.unix) as client:
        made = client.start(PLAN)
        assert (made.by, made.previous) == ("root", ONE)
        found = over(rollout)
        assert (found.phase, [len(ring.seats) for ring in found.rings]) == (Phase.DONE, [1, 9, 30, 0])
        assert {each.version for each in hall.seats} == {TWO}
    assert pointer(netboot) == (TWO, True)
    with Netboot(netboot.unix) as client_:
        assert client_.channel_history("stable").changes[0].why == "rollout: new compilers"


def test_a_bad_version_is_stopped_at_the_first_seat(tmp_path: Path, netboot: Service, rollout: Service) -> None:
    with Seats(tmp_path, 40, bad={TWO: "lightdm.service"}) as hall, RolloutClient(rollout.unix) as client:
        client.start(PLAN)
        found = over(rollout)
        assert (found.phase, found.why) == (
            Phase.REVERTED,
            "ring 1 (seat): room0-r01p01: lightdm.service failed",
        )
        assert [each.number for each in hall.seats if TWO in each.boots] == [1]
        assert {each.version for each in hall.seats} == {ONE}
        with pytest.raises(RemoteError) as refused:
            client.start(PLAN)
        assert refused.value.code == "conflict.quarantine"
    assert pointer(netboot) == (ONE, True)


def test_a_seat_in_use_is_left_alone(tmp_path: Path, netboot: Service, rollout: Service) -> None:
    with Seats(tmp_path, 40) as hall, RolloutClient(rollout.unix) as client, Netboot(netboot.unix) as known:
        hall.seats[0].user = hall.seats[25].user = "alice"
        until(lambda: [each.user for each in known.seats("stable").seats if each.user] == ["alice", "alice"])
        client.start(PLAN)
        assert over(rollout).phase is Phase.DONE
        assert [each.number for each in hall.seats if each.version == ONE] == [1, 26]


@pytest.mark.parametrize("killed", ["rollout", "netboot", "both"])
def test_kills_at_any_moment_end_well(tmp_path: Path, killed: str) -> None:
    """kill -9 of one or both, again and again, as gw that loses its power has it."""
    with contextlib.ExitStack() as first:
        netboot = first.enter_context(serving_netboot(tmp_path, 20))
        hall = first.enter_context(Seats(tmp_path, 20))
        ours = contextlib.ExitStack()
        rollout = ours.enter_context(serving_rollout(tmp_path, netboot))
        beside = contextlib.ExitStack()
        with RolloutClient(rollout.unix) as client:
            client.start(PLAN)
        for number in range(4):
            time.sleep(0.7 + number * 0.23)
            if killed in ("rollout", "both"):
                rollout.process.kill()
                ours.close()
            if killed in ("netboot", "both"):
                netboot.process.kill()
                netboot.process.wait()
                beside.close()
                netboot = beside.enter_context(serving_netboot(tmp_path, 20))
            if killed in ("rollout", "both"):
                rollout = ours.enter_context(serving_rollout(tmp_path, netboot))
        found = over(rollout, seconds=90)
        assert (found.phase, {each.version for each in hall.seats}) == (Phase.DONE, {TWO}), found.events
        assert pointer(netboot) == (TWO, True)
        ours.close()
        beside.close()


def test_a_rollout_is_refused_for_what_cannot_be_rolled_out(tmp_path: Path, rollout: Service) -> None:
    with Seats(tmp_path, 3), RolloutClient(rollout.unix) as client:
        for plan, code in (
            (Plan(version=ONE), "conflict.channel"),
            (Plan(version="20260101.bbbbbbbbbbbb"), "version.unknown"),
            (Plan(version=TWO, channel="beta"), "channel.unknown"),
        ):
            with pytest.raises(RemoteError) as refused:
                client.start(plan)
            assert refused.value.code == code
        made = client.start(PLAN)
        with pytest.raises(RemoteError) as refused:
            client.start(PLAN)
        assert refused.value.code == "conflict.rollout"
        client.abort(made.id, "enough")
        assert over(rollout).why == "root: enough"
        with pytest.raises(RemoteError):
            client.resume(made.id)


def test_the_lan_sees_and_changes_nothing(rollout: Service) -> None:
    for method, path in (
        ("GET", "/v1/rollouts"),
        ("GET", "/v1/rollouts/1"),
        ("POST", "/v1/rollouts"),
        ("POST", "/v1/rollouts/1/abort"),
    ):
        rollout.socket.parent.chmod(0o711)
        assert ask(rollout, path, method=method, body={"version": TWO} if method == "POST" else None).code == (
            "auth.anonymous"
        )


def test_pages_show_a_rollout_and_take_it_back(tmp_path: Path, rollout: Service) -> None:
    transport = httpx2.HTTPTransport(uds=str(rollout.socket))
    with Seats(tmp_path, 3), RolloutClient(rollout.unix) as client, httpx2.Client(transport=transport) as browser:
        assert "There has been no rollout yet" in browser.get("http://rollout/").text
        id = client.start(msgspec.structs.replace(PLAN, settle=600, why="<b>new</b>")).id
        page = browser.get(f"http://rollout/rollouts/{id}").text
        assert 'hx-trigger="every 1s"' in page
        assert "<b>new" not in page
        assert f'href="/rollouts/{id}"' in browser.get("http://rollout/").text
        foreign = browser.post(f"http://rollout/rollouts/{id}/abort", headers={"sec-fetch-site": "cross-site"})
        assert foreign.status_code == 403
        assert browser.post(f"http://rollout/rollouts/{id}/pause").status_code == 303
        assert "root paused it" in browser.get(f"http://rollout/rollouts/{id}").text
        assert browser.post(f"http://rollout/rollouts/{id}/resume").status_code == 303
        assert browser.post(f"http://rollout/rollouts/{id}/abort").status_code == 303
        assert over(rollout).phase is Phase.ABORTED
        page = browser.get(f"http://rollout/rollouts/{id}").text
        assert "hx-trigger" not in page
        assert "root aborted it" in page
    rollout.socket.parent.chmod(0o711)
    for path in ("/", "/rollouts/1"):
        assert ask(rollout, path).status == 401


def test_the_command_line_starts_watches_and_says_how_it_ended(
    tmp_path: Path, rollout: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    from services.rollout.cli import parser

    def call(*argv: str) -> tuple[int, str]:
        arguments = parser("backline rollout").parse_args([*argv, "--address", rollout.unix])
        return arguments.run(arguments), capsys.readouterr().out

    with Seats(tmp_path, 3, bad={TWO: "x.service"}):
        code, text = call("start", TWO, "--settle", "1", "--rings", "seat,all", "--watch")
        assert (code, "it goes back" in text) == (int(Exit.DIFFERENT), True)
        code, text = call("status")
        assert "ring 1 (seat): room0-r01p01: x.service failed" in text
        code, text = call("list")
        assert "reverted" in text
