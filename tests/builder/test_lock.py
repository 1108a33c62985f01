"""The lock: one canonical text, and every way to break it is one error with file and line."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import lock
from builder.lock import Lock, LockedPackage, LockedWheel, Pocket, RoleRequest
from services.common.errors import InputError
from tests.builder import locks

ROOT = Path(__file__).resolve().parents[2]
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.text(string.ascii_lowercase + string.digits + "+.-", min_size=1, max_size=8).map("a".__add__)
VERSIONS = st.text(string.ascii_letters + string.digits + ".+:~-", max_size=8).map("1".__add__)
WORDS = st.text(max_size=8)


@st.composite
def any_lock(draw: st.DrawFn) -> Lock:
    roles = draw(st.dictionaries(NAMES, st.builds(RoleRequest, st.lists(NAMES), st.none() | NAMES), max_size=3))
    sets = draw(st.dictionaries(NAMES, HEX, max_size=2))
    packages = st.builds(
        LockedPackage,
        name=NAMES,
        version=VERSIONS,
        architecture=st.sampled_from(["amd64", "all"]),
        size=st.integers(1, 2**40),
        sha256=HEX,
        path=NAMES.map("pool/main/".__add__),
        archive=st.sampled_from(["debian", "debian-security"]),
        source=WORDS,
        source_version=WORDS,
        roles=st.lists(st.sampled_from(sorted(roles)), unique=True) if roles else st.just([]),
    )
    wheels = st.builds(
        LockedWheel,
        name=WORDS,
        version=WORDS,
        file=NAMES.map("{}.whl".format),
        sha256=HEX,
        sets=st.lists(st.sampled_from(sorted(sets)), unique=True) if sets else st.just([]),
    )
    return Lock(
        format=lock.FORMAT,
        epoch=draw(st.integers(0, 2**35)),
        apt=draw(WORDS),
        tools_tree=draw(HEX),
        requirements=sets,
        pockets=draw(
            st.lists(
                st.builds(Pocket, st.just("debian"), WORDS, st.lists(WORDS), st.integers(0, 2**35), HEX), max_size=2
            )
        ),
        roles=roles,
        packages=sorted(draw(st.lists(packages, max_size=4, unique_by=lambda one: one.name)), key=lambda one: one.name),
        wheels=sorted(draw(st.lists(wheels, max_size=3, unique_by=lambda one: one.file)), key=lambda one: one.file),
    )


SAMPLE = lock.encode(
    locks.lock(
        [locks.package("bash"), locks.package("nginx"), locks.package("zstd")],
        [locks.wheel("anyio"), locks.wheel("idna")],
    )
)


def refused(text: str | bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        lock.decode(text.encode() if isinstance(text, str) else text, where="x.lock")
    return caught.value


def line_of(text: str, part: str) -> str:
    """`x.lock:LINE` of the first line that holds `part`."""
    return f"x.lock:{text[: text.index(part)].count(chr(10)) + 1}"


# The canonical text


@given(any_lock())
def test_what_is_written_is_read_again(value: Lock) -> None:
    assert lock.decode(lock.encode(value).encode(), where="x.lock") == value


@given(any_lock())
def test_the_text_does_not_depend_on_the_order_of_packages(value: Lock) -> None:
    turned = lock.Lock(
        **{name: getattr(value, name) for name in Lock.__struct_fields__ if name not in ("packages", "wheels")},
        packages=value.packages[::-1],
        wheels=value.wheels[::-1],
    )
    assert lock.encode(turned) == lock.encode(value)


def test_there_is_one_package_a_line_sorted_by_name() -> None:
    names = [json.loads(line.rstrip(","))["name"] for line in SAMPLE.splitlines() if '"path":' in line]
    assert names == ["bash", "nginx", "zstd"]


def test_a_lock_of_nothing_is_readable() -> None:
    assert lock.decode(lock.encode(locks.lock()).encode(), where="x.lock") == locks.lock()


def test_the_committed_lock_is_in_its_canonical_form() -> None:
    path = ROOT / lock.NAME
    assert lock.encode(lock.load(path)) == path.read_text()


def test_the_date_is_the_epochs_in_utc() -> None:
    assert locks.lock(epoch=locks.EPOCH + 86399).date == "20260131"


def test_a_role_has_its_packages_alone() -> None:
    both = locks.lock([locks.package("bash", roles=["gw", "rhfs"]), locks.package("nginx")])
    assert [package.name for package in both.of("rhfs")] == ["bash"]


def test_a_requirement_set_has_its_wheels_alone() -> None:
    both = locks.lock(wheels=[locks.wheel("anyio", sets=["image", "dev"]), locks.wheel("idna")])
    assert [wheel.name for wheel in both.wheels_of("dev")] == ["anyio"]


# Mistakes


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"size":10', '"size":"10"'),
        ('"size":10', '"size":0'),
        ('"size":10', '"size":-1'),
        ('"name":"nginx"', '"name":7'),
        ('"name":"nginx"', '"name":"../nginx"'),
        ('"version":"1.0-1"', '"version":"1.0\\n-1"'),
        ('"architecture":"amd64"', '"architecture":"amd64/.."'),
        ('"path":"pool/main/n/nginx/nginx_1.0-1_amd64.deb"', '"path":"/etc/shadow"'),
        ('"path":"pool/main/n/nginx/nginx_1.0-1_amd64.deb"', '"path":"pool/../../etc/shadow"'),
        ('"path":"pool/main/n/nginx/nginx_1.0-1_amd64.deb"', '"path":"https://example.org/nginx.deb"'),
        ('"path":"pool/main/n/nginx/nginx_1.0-1_amd64.deb"', '"path":""'),
        ('"archive":"debian"', '"archive":"ubuntu"'),
        ('"roles":["gw"]', '"roles":["web"]'),
        ('"roles":["gw"]', '"roles":"gw"'),
        ('"roles":["gw"]', '"roles":["gw"],"colour":"red"'),
        (locks.package("nginx").sha256, "../" * 21 + "x"),
        (locks.package("nginx").sha256, locks.package("nginx").sha256.upper()),
    ],
)
def test_a_mistake_in_a_package_names_its_line(before: str, after: str) -> None:
    head, row, tail = SAMPLE.partition(next(line for line in SAMPLE.splitlines() if '"nginx"' in line))
    assert before in row.replace('"size":11', '"size":10')
    broken = row.replace('"size":11', '"size":10').replace(before, after, 1)
    error = refused(head + broken + tail)
    assert (error.code, error.where) == ("lock.broken", line_of(SAMPLE, '"nginx"'))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("idna-1.0-py3-none-any.whl", "../idna-1.0-py3-none-any.whl"),
        ("idna-1.0-py3-none-any.whl", "idna-1.0.tar.gz"),
        ('"name":"idna","sets":["image"]', '"name":"idna","sets":["dev"]'),
    ],
)
def test_a_mistake_in_a_wheel_names_its_line(before: str, after: str) -> None:
    assert before in SAMPLE
    error = refused(SAMPLE.replace(before, after))
    assert (error.code, error.where) == ("lock.broken", line_of(SAMPLE, '"idna"'))


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        (f'"epoch": {locks.EPOCH}', '"epoch": "now"', '"epoch"'),
        (f'"epoch": {locks.EPOCH}', f'"epoch": {10**30}', '"epoch"'),
        (f'"epoch": {locks.EPOCH}', '"epoch": ,', '"epoch"'),
        ('"requirements": {', '"requirements": [', '"requirements"'),
        ('"suite":"trixie"', '"suite":null', '"suite"'),
    ],
)
def test_a_mistake_elsewhere_names_its_line(before: str, after: str, part: str) -> None:
    assert before in SAMPLE
    error = refused(SAMPLE.replace(before, after))
    assert (error.code, error.where) == ("lock.broken", line_of(SAMPLE, part))


@pytest.mark.parametrize("name", ["bash", "anyio"])
def test_what_is_locked_twice_is_named_with_the_second_line(name: str) -> None:
    line = next(line for line in SAMPLE.splitlines() if f'"name":"{name}"' in line)
    error = refused(SAMPLE.replace(line, f"{line}\n{line}"))
    number = SAMPLE.splitlines().index(line) + 2
    assert (error.code, error.where) == ("lock.duplicate", f"x.lock:{number}")
    assert name in error.message


def test_a_lock_of_another_format_is_refused() -> None:
    error = refused(SAMPLE.replace('"format": 1', '"format": 2'))
    assert (error.code, error.where) == ("lock.format", "x.lock:2")


def test_bytes_that_are_no_text_are_refused_with_their_line() -> None:
    data = SAMPLE.encode().replace(b'"nginx"', b'"ngin\xff"', 1)
    error = refused(data)
    assert (error.code, error.where) == ("lock.broken", line_of(SAMPLE, '"nginx"'))


def test_merge_conflict_markers_are_refused_with_their_line() -> None:
    lines = SAMPLE.splitlines(keepends=True)
    error = refused("".join([*lines[:9], "<<<<<<< HEAD\n", *lines[9:]]))
    assert error.where == "x.lock:10"


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 1}', "{" * 5000, "[" * 5000])
def test_what_is_no_lock_at_all_is_refused(text: str) -> None:
    assert refused(text).code == "lock.broken"


def test_a_broken_lock_comes_with_the_way_out() -> None:
    assert "build lock" in (refused("{").hint or "")


def edits() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    def cut(at: int, count: int, with_bytes: bytes) -> Callable[[bytes], bytes]:
        return lambda data: data[: at % len(data)] + with_bytes + data[at % len(data) + count :]

    return st.builds(cut, st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=4))


@given(st.lists(edits(), min_size=1, max_size=3))
def test_any_damage_is_one_error_with_code_file_and_line(damage: list[Callable[[bytes], bytes]]) -> None:
    data = SAMPLE.encode()
    for edit in damage:
        data = edit(data) or b"{"
    error: InputError | None = None
    try:
        lock.encode(lock.decode(data, where="x.lock"))
    except InputError as caught:
        error = caught
    if error is not None:  # else the damage made another lock
        assert error.code in ("lock.broken", "lock.format", "lock.duplicate")
        line = re.fullmatch(r"x\.lock:(\d+)", error.where or "")
        assert line is not None
        assert 1 <= int(line[1]) <= data.count(b"\n") + 2


def test_no_lock_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        lock.load(tmp_path / "no.lock")
    assert caught.value.code == "lock.missing"
    assert caught.value.where == str(tmp_path / "no.lock")


# Changes


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ([locks.package("bash", "1")], [locks.package("bash", "2")], "bash 1 → 2"),
        (
            [locks.package("bash", "1")],
            [locks.package("bash", "2", archive="debian-security")],
            "bash 1 → 2 (security)",
        ),
        ([], [locks.package("bash", "1")], "bash + 1"),
        ([locks.package("bash", "1")], [], "bash - 1"),
        (
            [locks.package("bash", "1")],
            [locks.package("bash", "1", data=b"other")],
            "bash 1: other bytes under the same version",
        ),
    ],
)
def test_a_changed_package_is_one_line(old: list[LockedPackage], new: list[LockedPackage], line: str) -> None:
    assert lock.changes(locks.lock(old), locks.lock(new)) == [line]


def test_a_changed_wheel_is_two_lines() -> None:
    old, new = locks.lock(wheels=[locks.wheel("idna", "1")]), locks.lock(wheels=[locks.wheel("idna", "2")])
    assert lock.changes(old, new) == ["idna-1-py3-none-any.whl - (wheel)", "idna-2-py3-none-any.whl + (wheel)"]


def test_the_first_lock_is_all_additions() -> None:
    assert lock.changes(None, locks.lock([locks.package("bash", "1")])) == ["bash + 1"]


@given(any_lock())
def test_a_lock_does_not_differ_from_itself(value: Lock) -> None:
    assert lock.changes(value, value) == []
