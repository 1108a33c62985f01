"""Rooms that somebody has drawn: which groups are seats, what they become, and what is not taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from services.common.errors import InputError
from services.common.main import backline
from services.usermap.schema import Seat, State
from services.usermap.template import Template
from services.usermap.view import by_name
from tests.usermap.test_view import USERS, heard, machine, session, view

OLD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100" onload="alert(1)" style="x">
<script>alert(1)</script><style>* { fill: red }</style>
<path d="M0 0H200"/><image href="http://example.org/x.png"/>
<g transform="translate(10,10)"><rect x="0" y="0" width="50" height="20" fill="url(#x)"/>
  <text x="2" y="8"><tspan>pas-r01p01</tspan><tspan x="2" dy="8">old login</tspan></text></g>
<g data-seat="pas-r01p02"><rect width="50" height="20"/></g>
<g data-seat="nobody"><rect width="50" height="20"/></g>
<g><rect width="9" height="9"/></g>
</svg>"""


def seats() -> Mapping[str, Seat]:
    return by_name(view([machine(1), machine(2)], USERS, [session("alice")], [heard()]))


def test_groups_of_the_old_form_and_of_ours_are_seats() -> None:
    template = Template.parse(OLD.encode())
    assert template.names == ("pas-r01p01", "pas-r01p02", "nobody")
    drawn = ElementTree.fromstring(str(template.draw(seats())).replace("<svg", '<svg xmlns="x"', 1))
    by_id = {element.get("id"): element for element in drawn.iter() if element.get("id")}
    assert set(by_id) == {"s1", "s2"}
    assert by_id["s1"].get("class") == f"seat {State.USER.value}"
    assert "alice" in "".join(by_id["s1"].itertext())
    assert "old login" not in "".join(drawn.itertext())
    assert "nobody: not in mdb" in "".join(drawn.itertext())
    assert by_id["s1"].get("transform") == "translate(10,10)"


def test_what_could_run_or_lead_elsewhere_is_not_taken() -> None:
    text = str(Template.parse(OLD.encode()).draw(seats()))
    for evil in ("script", "onload", "style", "example.org", "url(", "image"):
        assert evil not in text


def test_the_parts_are_what_the_drawing_has() -> None:
    template = Template.parse(OLD.encode())
    parts = template.parts(seats())
    assert list(parts) == ["s1", "s2"]
    assert str(parts["s1"]) in str(template.draw(seats()))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no XML"),
        ("<html/>", "no svg"),
        ('<svg xmlns="http://www.w3.org/2000/svg"/>', "viewBox"),
        ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>', "no group"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg/>', "DOCTYPE"),
        ("<svg>" + " " * 1_100_000 + "</svg>", "bytes"),
    ],
)
def test_what_is_no_template_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Template.parse(text.encode())


def test_a_command_says_which_seats_a_template_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rooms.svg"
    file.write_text(OLD)
    assert backline(["usermap", "check", str(file)]) == 0
    assert capsys.readouterr().out == "3 seats: pas-r01p01 pas-r01p02 nobody\n"
    file.write_text("<svg/>")
    assert backline(["usermap", "check", str(file)]) == 3
