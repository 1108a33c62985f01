"""TOML files: every mistake is reported with its file and line."""

from __future__ import annotations

import ipaddress
import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InputError
from services.common.toml import TomlDocument, decode, dotted, load


class Network(msgspec.Struct, forbid_unknown_fields=True):
    cidr: ipaddress.IPv4Network
    vlan: int = 0


class Hall(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    networks: list[Network] = []
    rooms: dict[str, Network] = {}
    uplink: Network | None = None


GOOD = """\
name = "paris"  # the hall

[[networks]]
cidr = "10.0.0.0/8"
[[networks]]
vlan = 3
cidr = "10.1.0.0/16"

[rooms.north]
cidr = "10.2.0.0/16"
[rooms."so.uth"]
cidr = "10.3.0.0/16"
"""


def document(text: str) -> TomlDocument:
    return TomlDocument(text, path=Path("hall.toml"))


def refusal(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        decode(document(text), Hall)
    return caught.value


def test_a_good_file_becomes_typed_structs() -> None:
    hall = decode(document(GOOD), Hall)
    assert hall.networks[1] == Network(ipaddress.IPv4Network("10.1.0.0/16"), 3)
    assert hall.rooms["so.uth"].cidr == ipaddress.IPv4Network("10.3.0.0/16")


@pytest.mark.parametrize(
    ("keypath", "line"),
    [
        (("name",), 1),
        (("networks",), 3),
        (("networks", 0), 3),
        (("networks", 0, "cidr"), 4),
        (("networks", 1), 5),
        (("networks", 1, "vlan"), 6),
        (("rooms",), 9),
        (("rooms", "so.uth", "cidr"), 12),
        (("nobody",), None),
    ],
)
def test_the_line_of_a_key_is_known(keypath: tuple[str | int, ...], line: int | None) -> None:
    assert document(GOOD).line(keypath) == line


def test_lines_are_right_after_strings_that_look_like_toml() -> None:
    text = (
        'a = """\n[not.a.table]\nb = 1\\"""\n"""""\n'  # ends with two quotes of its own
        "c = '''\n# no comment ''\n'''\n"
        "d = [ # a comment with ] in it\n  1, [\n  {x = 1, 'y.z' = \"]\"} ], ]\n"
        "e.f = 1979-05-27 07:32:00\n"
    )
    found = document(text)
    expected = {("c",): 5, ("d",): 8, ("d", 1): 9, ("d", 1, 0, "y.z"): 10, ("e", "f"): 11}
    assert {path: found.line(path) for path in expected} == expected


@pytest.mark.parametrize(
    ("extra", "where", "message"),
    [
        ('[uplink]\n\ncidr = "10.0.0.0/8"\nvlan = "x"', "hall.toml:16", "uplink.vlan: expected `int`, got `str`"),
        ('[rooms.east]\ncidr = "10.0.0.0/99"', "hall.toml:14", "rooms.east.cidr: '10.0.0.0/99' is not an IPv4 network"),
        ("[rooms.east]\ncidr = 7", "hall.toml:14", "rooms.east.cidr: expected a string, got 7"),
        ("[rooms.east]\nvlan = 7", "hall.toml:13", "rooms.east: object missing required field `cidr`"),
        ("[[networks]]\nvlan = true", "hall.toml:14", "networks[2].vlan: expected `int`, got `bool`"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(extra: str, where: str, message: str) -> None:
    error = refusal(GOOD + extra)
    assert (error.code, error.where) == ("settings.invalid", where)
    assert error.message.startswith(message)


def test_an_unknown_key_is_refused_and_the_near_one_named() -> None:
    error = refusal(GOOD + '[[networks]]\ncidr = "10.0.0.0/8"\nvlam = 1')
    assert str(error) == "hall.toml:15: networks[2].vlam: no such key"
    assert error.hint == "did you mean vlan?"


def test_an_unknown_key_like_no_other_is_answered_with_the_known_ones() -> None:
    assert refusal("name = 'x'\n[uplink]\nzzz = 1").hint == "known keys: cidr, vlan"


def test_a_missing_key_of_the_whole_file_names_the_file() -> None:
    assert str(refusal("")) == "hall.toml: object missing required field `name`"


@pytest.mark.parametrize(
    ("text", "where"),
    [("a = 1\nb = \n", "hall.toml:2"), ("a = 1\na = 2\n", "hall.toml:2"), ('a = 1\n\nb = """\nx\n', "hall.toml:4")],
)
def test_bad_syntax_is_refused_with_its_line(text: str, where: str) -> None:
    with pytest.raises(InputError) as caught:
        document(text)
    assert (caught.value.code, caught.value.where) == ("settings.syntax", where)


def test_codes_begin_with_the_area_of_the_reader(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path / "hall.toml", area="hall")
    assert caught.value.code == "hall.missing"


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "hall.toml"
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(InputError) as caught:
        load(path)
    assert (caught.value.code, caught.value.where) == ("settings.syntax", f"{path}:2")


def test_a_rule_beyond_types_can_point_at_a_key() -> None:
    error = document(GOOD).error(("networks", 1, "gateway"), "is not in the network", hint="choose another")
    assert str(error) == "hall.toml:5: networks[1].gateway: is not in the network"


KEYS = st.text(string.ascii_letters + string.digits + " .#=[]'\\\"é", min_size=1, max_size=6)
SCALARS = st.one_of(
    st.integers(-9, 99).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(string.printable.replace("\r", "") + "é", max_size=12).map(lambda text: quoted(text)),
    st.text(st.sampled_from("ab'\"#[]={},. \n"), max_size=12)
    .filter(lambda text: "''" not in text and not text.endswith("'"))
    .map(lambda text: f"'''\n{text}'''"),
    st.sampled_from(["1979-05-27T07:32:00Z", "07:32:00", "1e3", "[ 1, 2 ]", "[\n 'x',\n ]", "{ q = 1 }", '"""a"""""']),
)


def quoted(text: str) -> str:
    escaped = "".join(char if char.isprintable() and char not in '"\\' else f"\\u{ord(char):04x}" for char in text)
    return f'"{escaped}"'


@given(
    st.lists(st.tuples(KEYS, st.booleans(), st.dictionaries(KEYS, SCALARS, max_size=4), st.integers(0, 2)), max_size=5)
)
def test_every_line_is_the_one_where_the_key_was_written(
    tables: list[tuple[str, bool, dict[str, str], int]],
) -> None:
    text, expected, seen = "", {}, {}  # type: ignore[var-annotated]
    for name, many, pairs, blank in tables:
        if name in seen and not (many and seen[name] is not None):
            continue
        text += "\n" * blank + "# [comment]\n"
        line = text.count("\n") + 1
        header = quoted(name)
        if many:
            seen[name] = seen.get(name, -1) + 1
            base: tuple[str | int, ...] = (name, seen[name])
            text += f"[[ {header} ]] # ]\n"
        else:
            seen[name] = None
            base = (name,)
            text += f"[{header}]\n"
        expected[base] = line
        for key, value in pairs.items():
            expected[(*base, key)] = text.count("\n") + 1
            text += f"  {quoted(key)} = {value} # end\n"
    found = document(text)
    assert {path: found.line(path) for path in expected} == expected


@given(st.lists(st.one_of(st.integers(0, 9), st.sampled_from(["a", "b"])), min_size=1))
def test_key_paths_are_written_as_people_write_them(path: list[str | int]) -> None:
    assert dotted(path).replace("[", ".").replace("]", "").strip(".").split(".") == [str(step) for step in path]
