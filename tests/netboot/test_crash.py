"""netboot is killed while pointers are moved: each move is wholly there or not at all, and machines never get a third.

A real process, a real database, kill -9 at no moment in particular, many times.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
from pathlib import Path

import httpx2

from netboot.client import Netboot
from netboot.schema import Action, Channel, ChannelChange, Extension, NewPointer, Rollback
from services.common.errors import BacklineError
from tests.netboot.rig import ONE, TWO, publish
from tests.rollout.rig import serving_netboot

KILLS = 5


def move(address: str, stop: threading.Event, answered: list[Channel]) -> None:
    """Switch, extend, take back, with quarantine and without, until netboot is gone."""
    with contextlib.suppress(BacklineError), Netboot(address) as client:
        with contextlib.suppress(BacklineError):
            client.lift_quarantine(TWO)
        while not stop.is_set():
            answered.append(client.switch_channel("stable", NewPointer(version=TWO, commit_within=600, only=[1])))
            answered.append(client.extend_channel("stable", Extension(commit_within=600, only=[1, 2])))
            answered.append(client.rollback_channel("stable", Rollback(quarantine=True)))
            client.lift_quarantine(TWO)
            answered.append(client.switch_channel("stable", NewPointer(version=TWO, why="committed")))
            answered.append(client.switch_channel("stable", NewPointer(version=ONE, why="committed")))


def watch(address: str, stop: threading.Event, scripts: list[str]) -> None:
    """A seat that asks what to boot, again and again, until netboot is gone."""
    with contextlib.suppress(httpx2.HTTPError), Netboot(address) as client:
        while not stop.is_set():
            answer = client._http.get("/boot/52:54:00:00:00:01")
            scripts.append(answer.raise_for_status().text)


def same(channel: Channel, line: ChannelChange) -> bool:
    """Whether the pointer is as a line of its history has it."""
    return (channel.current, channel.previous, channel.commit_by, channel.generation) == (
        line.current,
        line.previous,
        line.commit_by,
        line.generation,
    )


def test_a_move_is_whole_or_never_was(tmp_path: Path) -> None:
    moves = random.Random(5)
    with serving_netboot(tmp_path, 3) as service, Netboot(service.unix) as client:
        publish(client, ONE)
        publish(client, TWO, channel=None)
        client.switch_channel("stable", NewPointer(version=ONE))
    seen, before = 0, 1
    scripts: list[str] = []
    for _ in range(KILLS):
        answered: list[Channel] = []
        with serving_netboot(tmp_path, 3) as service:
            stop = threading.Event()
            threads = [
                threading.Thread(target=move, args=(service.unix, stop, answered)),
                threading.Thread(target=watch, args=(service.unix, stop, scripts)),
            ]
            for thread in threads:
                thread.start()
            stop.wait(0.2 + moves.random() / 2)
            service.process.kill()
            stop.set()
            for thread in threads:
                thread.join()
        with serving_netboot(tmp_path, 3) as service, Netboot(service.unix) as client:
            (channel,) = client.channels().channels
            newest, *older = client.channel_history("stable").changes
            assert same(channel, newest)
            assert channel.committed, "what was not committed is back after a restart"
            generations = [line.generation for line in (newest, *older)]
            assert generations == list(range(newest.generation, newest.generation - len(generations), -1))
            told = answered[-1].generation if answered else before
            before = newest.generation
            lost = newest.generation - (newest.action is Action.RESTARTED) - told
            assert lost in (0, 1), "what was answered is there, and at most what was under way besides"
            if client.quarantines().quarantines and channel.current == TWO:
                raise AssertionError("it points to a version in quarantine")
            script = client._http.get("/boot/52:54:00:00:00:01").text
            assert f"backline.version={channel.current}" in script
        seen += len(answered)
    assert seen > KILLS
    asked = [set(re.findall(r"[0-9]{8}\.[0-9a-f]{12}", script)) for script in scripts]
    assert len(asked) > KILLS
    assert all(versions in ({ONE}, {TWO}) for versions in asked), (
        "every script is of one version, and of one of the two"
    )
