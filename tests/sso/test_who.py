"""Who is at an address."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.feed.client import Follower
from services.common.feed.mirror import Mirror
from services.sso.schema import Machine, Session
from services.sso.who import Answer, Who


def who(machines: list[dict[str, Any]], sessions: list[dict[str, Any]], overrides: dict[str, str] | None = None) -> Who:
    follower = Follower("unix:/nowhere")
    known = Mirror(follower, "machines", Machine, by=lambda machine: machine.ip)
    known.take({("machines", str(each["id"])): each for each in machines})
    live = Mirror(follower, "sessions", Session, by=lambda session: str(session.machine))
    live.take({("sessions", each["login"]): each for each in sessions})
    return Who(known, live, overrides or {})


P1, P2 = ({"id": number, "hostname": f"p{number}", "ip": f"192.168.0.{number}", "rfs": 1} for number in (1, 2))
ALICE = {"login": "alice", "machine": 1, "hostname": "p1", "since": 1.0}


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("192.168.0.1", Answer("alice", "authenticated")),
        ("192.168.0.2", Answer(None, "logged-out machine p2")),
        ("192.168.0.3", Answer(None, "unknown IP 192.168.0.3")),
        (None, Answer(None, "missing header X-Real-IP")),
        ("", Answer(None, "missing header X-Real-IP")),
    ],
)
def test_each_answer_has_the_words_of_the_first_system(address: str | None, answer: Answer) -> None:
    assert who([P1, P2], [ALICE]).at(address) == answer


def test_an_override_says_who_is_at_an_address_or_a_host_name() -> None:
    known = who([P1, P2], [], {"192.168.0.77": "otto", "p2": "bob"})
    assert known.at("192.168.0.77") == Answer("otto", "authenticated")
    assert known.at("192.168.0.2") == Answer("bob", "authenticated")


def test_who_is_logged_in_counts_more_than_an_override() -> None:
    assert who([P1], [ALICE], {"192.168.0.1": "otto", "p1": "bob"}).at("192.168.0.1").login == "alice"


def test_who_moves_is_known_at_the_new_machine_alone() -> None:
    known = who([P1, P2], [ALICE])
    known.sessions.take({("sessions", "alice"): {**ALICE, "machine": 2, "hostname": "p2"}})
    assert known.at("192.168.0.1") == Answer(None, "logged-out machine p1")
    assert known.at("192.168.0.2") == Answer("alice", "authenticated")


def test_a_machine_that_has_another_address_is_known_there() -> None:
    known = who([P1], [ALICE])
    known.machines.take({("machines", "1"): {**P1, "ip": "192.168.0.9"}})
    assert known.at("192.168.0.1") == Answer(None, "unknown IP 192.168.0.1")
    assert known.at("192.168.0.9") == Answer("alice", "authenticated")


def test_two_machines_that_swap_their_addresses_in_one_batch_are_known_by_the_new_ones() -> None:
    known = who([P1, P2], [ALICE])
    known.machines.take({("machines", "1"): {**P1, "ip": P2["ip"]}, ("machines", "2"): {**P2, "ip": P1["ip"]}})
    assert known.at("192.168.0.1") == Answer(None, "logged-out machine p2")
    assert known.at("192.168.0.2") == Answer("alice", "authenticated")


def test_a_record_that_cannot_be_read_is_left_out_and_named() -> None:
    known = who([P1, {"id": "x"}], [ALICE])
    assert known.at("192.168.0.1").login == "alice"
    assert set(known.machines.unreadable) == {"x"}
