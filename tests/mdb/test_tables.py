"""Machines as text: what is written is read back, and what is wrong is told with its place."""

from __future__ import annotations

import csv
import io
import json
from ipaddress import IPv4Address
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InputError
from services.common.formats import Format
from services.common.tables import MISTAKES
from services.mdb.edits import Create, Update
from services.mdb.importing import plan
from services.mdb.schema import Machine, MachinePatch, MachineType, NewMachine
from services.mdb.tables import COLUMNS, read, write
from tests.mdb.test_query import machine

formats = pytest.mark.parametrize("format", Format)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@st.composite
def machines(draw: st.DrawFn) -> list[Machine]:
    return [
        machine(
            id=number,
            hostname=f"{draw(labels)}{number}",
            aliases=draw(st.lists(labels, max_size=3)),
            mac=draw(st.sampled_from([None, f"52:54:00:00:00:{number:02x}"])),
            ip=IPv4Address(draw(st.integers(0, 2**32 - 1))),
            rfs=draw(st.integers(0, 9999)),
            type=draw(st.sampled_from(MachineType)),
            faulty=draw(st.booleans()),
            faulty_reason=draw(texts),
            pinned=draw(st.none() | texts.map(str.strip).filter(bool)),
            notes=draw(
                texts | st.sampled_from(["=1+1", "'=x", "''", "-", "@a", "\t", "yes", "null", "~", "1e3", "a\nb"])
            ),
        )
        for number in range(1, draw(st.integers(0, 4)) + 1)
    ]


@formats
@given(found=machines())
def test_what_is_written_is_read_back(format: Format, found: list[Machine]) -> None:
    """Each row means its machine again, and would change nothing of it."""
    planned = plan(read(write(found, format).encode(), format), found)
    for each, before in zip(planned, found, strict=True):
        assert isinstance(each.edit, Update)
        assert each.edit.id == before.id
        for name in MachinePatch.__struct_fields__:
            said, is_ = getattr(each.edit.patch, name), getattr(before, name)
            assert said == is_ or (name == "mac" and is_ is None) or (name == "pinned" and not is_), name


@given(machines())
def test_json_and_yaml_are_what_other_programs_read(found: list[Machine]) -> None:
    plain = [_plain(each) for each in found]
    assert json.loads(write(found, Format.JSON)) == plain
    assert yaml.safe_load(write(found, Format.YAML)) == plain


def _plain(machine: Machine) -> dict[str, Any]:
    values = {name: getattr(machine, name) for name in COLUMNS}
    return values | {"ip": str(machine.ip), "type": machine.type.value}


@given(machines())
def test_no_cell_of_csv_is_a_formula(found: list[Machine]) -> None:
    for row in list(csv.reader(io.StringIO(write(found, Format.CSV), newline="")))[1:]:
        assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@formats
@given(content=st.binary(max_size=60))
def test_any_bytes_are_rows_or_a_mistake(format: Format, content: bytes) -> None:
    try:
        plan(read(content, format), [machine()])
    except InputError as error:
        assert error.code.startswith("import.")  # noqa: PT017


CSV_TEXT = "hostname,mac,aliases,type\npas-r01p01,52-54-00-00-00-01,rfs1 hfs1,user\n"
JSON_TEXT = """[
  {"hostname": "pas-r01p01", "mac": "52-54-00-00-00-01", "aliases": ["rfs1", "hfs1"], "type": "user"}
]"""
YAML_TEXT = """
# the first row
- hostname: pas-r01p01
  mac: 52-54-00-00-00-01
  aliases: [rfs1, hfs1]
  type: user
"""


@pytest.mark.parametrize(
    ("format", "text"),
    [
        (Format.CSV, CSV_TEXT),
        (Format.CSV, CSV_TEXT.replace(",", ";")),
        (Format.CSV, CSV_TEXT.replace(",", "\t")),
        (Format.CSV, "\ufeff" + CSV_TEXT.replace("\n", "\r\n")),
        (Format.CSV, CSV_TEXT.replace("hostname", " Hostname ") + "\n,,,\n"),
        (Format.JSON, JSON_TEXT),
        (Format.JSON, JSON_TEXT.replace('["rfs1", "hfs1"]', '"rfs1, hfs1"')),
        (Format.YAML, YAML_TEXT),
        (Format.YAML, YAML_TEXT.replace("[rfs1, hfs1]", "rfs1 hfs1")),
        (Format.YAML, YAML_TEXT.replace("[rfs1, hfs1]", "\n  - rfs1\n  - 'hfs1'")),
    ],
)
def test_a_table_is_written_by_hand_in_many_ways(format: Format, text: str) -> None:
    (planned,) = plan(read(text.encode(), format), [])
    new = NewMachine(hostname="pas-r01p01", mac="52-54-00-00-00-01", aliases=["rfs1", "hfs1"], type=MachineType.USER)
    assert planned.edit == Create(new)


def test_a_value_of_yaml_is_what_its_column_says() -> None:
    text = "- {hostname: no, mac: 52:54:00:12:34:56, room: 0123, rfs: 7, faulty: yes, notes: 1.0, pinned: ~}"
    (planned,) = plan(read(text.encode(), Format.YAML), [])
    wanted = NewMachine(hostname="no", mac="52:54:00:12:34:56", room="0123", rfs=7, faulty=True, notes="1.0")
    assert planned.edit == Create(wanted)


def test_a_row_means_the_machine_with_its_id_else_its_mac_else_its_name() -> None:
    one, two, three = (
        machine(id=number, hostname=f"p{number}", mac=f"52:54:00:00:00:0{number}") for number in (1, 2, 3)
    )
    text = "id,mac,hostname\n1,525400000002,p3\n,52-54-00-00-00-02,p9\n,,p3\n99,525400000009,p4\n"
    planned = plan(read(text.encode(), Format.CSV), [one, two, three])
    assert [getattr(each.edit, "id", None) for each in planned] == [1, 2, 3, None]


def test_an_empty_cell_clears_what_may_be_empty_and_leaves_the_rest() -> None:
    text = "hostname,aliases,pinned,notes,faulty_reason,ip,rfs,room,type,mac,faulty\npas-r01p02,,,,,,,,,,\n"
    (planned,) = plan(read(text.encode(), Format.CSV), [machine()])
    patch = MachinePatch(hostname="pas-r01p02", aliases=[], pinned=None, notes="", faulty_reason="")
    assert planned.edit == Update(7, patch)


@pytest.mark.parametrize(
    ("format", "text", "where", "why"),
    [
        (Format.CSV, "hostname,mak\nx,y\n", "line 1, column 2", "there is no column 'mak'"),
        (Format.CSV, "hostname,hostname\n", "line 1, column 2", "twice"),
        (Format.CSV, "hostname,mac\nx\n", "line 2", "1 cells, where the first line has 2"),
        (Format.CSV, 'hostname,notes\nx,"a\nb"\ny\n', "line 4", "1 cells"),
        (Format.CSV, 'hostname,mac\n"x,y\n', "line 2", "not CSV"),
        (Format.CSV, "hostname,mac,rfs\nx,525400000001,-1\n", "line 2, column 3", "rfs: expected `int` >= 0"),
        (Format.CSV, "hostname,mac,rfs\nx,525400000001,one\n", "line 2, column 3", "rfs: expected `int`"),
        (Format.CSV, "hostname,mac,type\nx,525400000001,printer\n", "line 2, column 3", "printer"),
        (Format.CSV, "hostname,mac,ip\nx,525400000001,300.1.1.1\n", "line 2, column 3", "300.1.1.1"),
        (Format.CSV, "hostname,mac,faulty\nx,525400000001,maybe\n", "line 2, column 3", "neither yes nor no"),
        (Format.CSV, "hostname,mac\nx,\n", "line 2, column 2", "a new machine needs a MAC"),
        (Format.CSV, "mac\n525400000001\n", "line 2", "hostname"),
        (Format.CSV, "id,mac,hostname\nx,525400000001,y\n", "line 2, column 1", "no number"),
        (Format.CSV, "mac,hostname\n525400000001,x\n525400abcdef,a\n525400abcdef,b\n", "line 4", "as in line 3"),
        (Format.JSON, '[{"hostname": "x",\n  "mak": 1}]', "line 2, column 3", "'mak'"),
        (Format.JSON, '[{"hostname": "x", "hostname": "y"}]', "line 1, column 20", "twice"),
        (Format.JSON, '[\n{"hostname": "x",}]', "line 2, column 18", "not JSON"),
        (Format.JSON, '{"hostname": "x"}', "line 1, column 1", "an array"),
        (Format.JSON, "[] []", "line 1, column 4", "after the end"),
        (Format.JSON, "[1]", "line 1, column 2", "no object"),
        (Format.JSON, '[{"mac": "525400000001", "hostname": {"a": 1}}]', "line 1, column 26", "neither a value"),
        (
            Format.JSON,
            '[{"mac": "525400000001", "hostname": "x",\n"rfs": []}, {"rfs": [1]}]',
            "line 2, column 13",
            "rfs",
        ),
        (Format.YAML, "- hostname: x\n  mak: 1\n", "line 2, column 3", "'mak'"),
        (Format.YAML, "hostname: x\n", "line 1, column 1", "a list"),
        (Format.YAML, "- x\n", "line 1, column 3", "a mapping"),
        (Format.YAML, "- {mac: b\n", "line 2, column 1", "not YAML"),
        (Format.YAML, "- &a {hostname: x}\n- *a\n", "line 1, column 3", "anchors"),
        (Format.YAML, "- {hostname: !!python/object:os.system x}\n", "line 1, column 14", "tags"),
        (Format.YAML, "- {hostname: {a: b}}\n", "line 1, column 14", "a value"),
        (Format.YAML, "- {mac: 525400000001, hostname: x}\n---\n- {}\n", "line 2, column 1", "one document"),
    ],
)
def test_a_mistake_is_told_with_its_place(format: Format, text: str, where: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(read(text.encode(), format), [machine()])
    assert caught.value.where == where
    assert why in str(caught.value)


def test_several_mistakes_are_told_at_once_but_not_thousands() -> None:
    text = "hostname,mac,rfs\n" + "x,525400000001,no\n" * 500
    with pytest.raises(InputError) as caught:
        plan(read(text.encode(), Format.CSV), [])
    lines = str(caught.value).splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("500 mistakes", "  and 480 more", MISTAKES + 2)
    assert lines[1].startswith("  line 2, column 3: rfs: ")


def test_what_is_no_text_is_told_with_its_line() -> None:
    with pytest.raises(InputError, match="UTF-8") as caught:
        read("hostname\nx\né".encode("latin-1"), Format.CSV)
    assert caught.value.where == "line 3"


def test_a_deep_json_is_a_mistake_and_no_crash() -> None:
    with pytest.raises(InputError):
        read(b"[" * 100_000, Format.JSON)
