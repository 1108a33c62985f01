"""QEMU's command line, what a serial console says, the machine protocol, and the texts of netboot's stand-in."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from e2e import qemu, serial, stand_ins, topology
from e2e.backend import UNIT_FAILED, Order
from e2e.network import plan
from e2e.node import PROCESS_EXIT, dumped_core
from e2e.qmp import Qmp
from services.common.errors import HostError

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


def argv(*, kvm: bool = False, **changes: Any) -> list[str]:
    """QEMU's command line for a seat of two cards."""
    nic = {"segment": "s"}
    text = {"role": "nfsroot", "nics": [nic, {**nic, "mac": "52:54:00:00:00:02"}], "backend": "qemu", **changes}
    spec = msgspec.convert(text, topology.Node)
    hall = topology.Topology(name="one", segments={"s": topology.Segment()}, nodes={"seat": spec})
    order = Order(name="seat", index=0, spec=spec, cables=plan(hall).cables, root=None)
    return qemu.arguments(order, home="/run/lab/n/0", kvm=kvm, control=7, console=8, now=NOW)


def values(words: list[str], option: str) -> list[str]:
    return [word for before, word in itertools.pairwise(words) if before == option]


# QEMU's command line


def test_every_cable_is_a_card_and_the_network_is_booted_in_their_order() -> None:
    words = argv()
    assert values(words, "-netdev") == [f"tap,id=card{n},ifname=p{n},script=no,downscript=no" for n in (0, 1)]
    cards = values(words, "-device")
    assert [card.split(",")[3] for card in cards] == ["bootindex=0", "bootindex=1"]
    assert cards[1].split(",")[2] == "mac=52:54:00:00:00:02"


def test_a_screen_is_there_where_it_is_asked_for() -> None:
    assert not [card for card in values(argv(), "-device") if card.startswith("VGA")]
    assert [card for card in values(argv(screen=True), "-device") if card.startswith("VGA")]


def test_there_is_no_disk() -> None:
    assert values(argv(), "-drive") == []


def test_an_emulated_processor_lacks_what_emulation_does_badly() -> None:
    assert values(argv(), "-cpu") == ["max,-cx16,-erms,-fsrm"]
    assert values(argv(kvm=True), "-accel") == ["kvm"]


def test_uefi_brings_its_own_network_boot() -> None:
    words = argv(firmware="uefi")
    assert len(values(words, "-drive")) == 2
    assert all(card.endswith(",romfile=") for card in values(words, "-device"))


def test_a_clock_offset_is_counted_from_now() -> None:
    assert values(argv(clock_offset=86400), "-rtc") == ["base=2031-05-07T07:08:09"]
    assert "-rtc" not in argv()


def test_control_and_console_are_sockets_that_it_inherits() -> None:
    assert values(argv(), "-chardev") == ["socket,id=control,fd=7", "socket,id=console,fd=8"]


# What the console says


def test_lines_come_whole_and_without_colours() -> None:
    lines = serial.Lines()
    assert list(lines.feed(b"\x1b[0;1miPXE 1.21\x1b[0m\r\nnext")) == ["iPXE 1.21"]
    assert list(lines.feed(b" line\r\r\n\r\n")) == ["next line"]
    assert list(lines.feed("é".encode()[:1])) == []
    assert list(lines.feed("é".encode()[1:])) == []
    assert list(lines.end()) == ["é"]


def test_a_unit_that_fails_is_known_by_its_line() -> None:
    fields = serial.fields("[   33.123456] systemd[1]: greetd.service: Failed with result 'exit-code'.")
    assert (fields["UNIT"], fields["MESSAGE_ID"]) == ("greetd.service", UNIT_FAILED)


@pytest.mark.parametrize(
    ("how", "core"),
    [
        ("code=dumped, status=11/SEGV", True),
        ("code=killed, status=6/ABRT", True),
        ("code=killed, status=9/KILL", False),
        ("code=exited, status=6/NOTCONFIGURED", False),
    ],
)
def test_a_core_dump_is_known_by_its_line(how: str, core: bool) -> None:
    line = f"[   33.123456] systemd[1]: chrony.service: Main process exited, {how}"
    assert serial.fields(line)["MESSAGE_ID"] == PROCESS_EXIT
    assert dumped_core(serial.fields(line)) is core


@pytest.mark.parametrize(
    "line",
    [
        "[   33.123456] backline[99]: greetd.service: Failed with result 'exit-code'.",
        "[   33.123456] systemd[412]: app.service: Failed with result 'exit-code'.",
        "greetd.service: Failed with result 'exit-code'.",
        "[    0.000000] pci 0000:00:01.0: a.service: Failed with result",
    ],
)
def test_only_the_manager_itself_says_what_failed(line: str) -> None:
    assert "MESSAGE_ID" not in serial.fields(line)


def test_the_start_is_finished_when_the_root_has_its_target_not_the_initrd() -> None:
    whole = "Startup finished in 2s (kernel) + 15.9s (initrd) + 1min 3s (userspace) = 1min 21s."
    assert serial.is_finished(f"[   81.000001] systemd[1]: {whole}")
    assert serial.is_finished(f"seat login: [   81.000001] systemd[1]: {whole}")
    assert not serial.is_finished(
        "[   17.000001] systemd[1]: Startup finished in 2s (kernel) + 15.9s (userspace) = 18s."
    )
    assert not serial.is_finished(f"[   81.000001] login[1]: {whole}")
    assert not serial.is_finished(whole)


# The machine protocol


@pytest.fixture
def machine() -> Iterator[tuple[Qmp, socket.socket, list[tuple[str, dict[str, Any]]]]]:
    """A protocol client, QEMU's end of it, and the events that came."""
    ours, its = socket.socketpair()
    events: list[tuple[str, dict[str, Any]]] = []
    with its:
        qmp = Qmp(ours, lambda name, data: events.append((name, data)))
        its.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\r\n{"return": {}}\r\n')
        yield qmp, its, events
        its.close()
        qmp.close()


Machine = tuple[Qmp, socket.socket, list[tuple[str, dict[str, Any]]]]


def test_a_command_waits_for_its_answer_and_events_pass_by(machine: Machine) -> None:
    qmp, its, events = machine
    its.sendall(b'{"event": "STOP"}\r\n{"return": {}}\r\n')
    qmp.execute("stop")
    assert events == [("STOP", {})]
    sent = [json.loads(line)["execute"] for line in its.recv(4096).splitlines()]
    assert sent == ["qmp_capabilities", "stop"]


def test_a_refusal_is_told(machine: Machine) -> None:
    qmp, its, _ = machine
    its.sendall(b'{"error": {"class": "GenericError", "desc": "not now"}}\r\n')
    with pytest.raises(HostError, match="not now"):
        qmp.execute("cont")


def test_a_machine_that_is_gone_is_told_at_once(machine: Machine) -> None:
    qmp, its, _ = machine
    its.shutdown(socket.SHUT_RDWR)
    its.close()
    for _ in range(2):
        with pytest.raises(HostError, match="gone"):
            qmp.execute("system_powerdown")


def test_the_last_event_is_handled_before_close_returns(machine: Machine) -> None:
    qmp, its, events = machine
    its.sendall(b'{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}\r\n')
    its.close()
    qmp.close()
    assert events == [("SHUTDOWN", {"guest": True, "reason": "guest-reset"})]


def test_what_stand_ins_give_one_node_is_joined_by_name() -> None:
    joined = stand_ins.join({"a": b"1\n", "b": b"2"}, {"b": b"3"}, {"a": b"4"})
    assert joined == {"a": b"1\n4", "b": b"2\n3"}


def test_the_topology_pxe_has_a_seat_of_its_own_kernel() -> None:
    seats = topology.built_in("pxe").seats()
    assert [(node.backend, node.firmware, node.clock_offset) for node in seats.values()] == [("qemu", "bios", 86400)]
