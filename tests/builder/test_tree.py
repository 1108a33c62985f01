"""The tree manifest: every attribute of an entry counts, and nothing of how the disk keeps it."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import tree
from builder.tree import Entry

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
THEN = 1_700_000_000

numbers = st.integers(0, 2**32)
entries = st.builds(
    Entry,
    path=st.binary(min_size=1, max_size=20).filter(lambda path: b"\0" not in path),
    kind=st.sampled_from("fdlcbps"),
    mode=st.integers(0, 0o7777),
    uid=numbers,
    gid=numbers,
    mtime=st.integers(-(2**32), 2**40),
    size=st.integers(0, 2**50),
    content=st.just("-") | st.text("0123456789abcdef", min_size=64, max_size=64),
    xattrs=st.sampled_from(["-", "user.a=00", "security.capability=01,user.%25=ff"]),
)


def ids(root: Path) -> str:
    return tree.tree_id(tree.render(tree.scan(root)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with one entry of each common kind, all of the same time."""
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/motd").write_text("welcome\n")
    (top / "etc/empty").touch()
    (top / "etc/link").symlink_to("motd")
    os.mkfifo(top / "etc/fifo")
    settle(top)
    return top


def settle(top: Path) -> None:
    for path in [*top.rglob("*"), top]:
        os.utime(path, (THEN, THEN), follow_symlinks=False)


def entry(root: Path, name: str) -> Entry:
    return {one.path: one for one in tree.scan(root)}[name.encode()]


# Lines


@given(entries)
def test_a_line_is_read_as_it_was_written(value: Entry) -> None:
    assert Entry.parse(value.line() + "\n") == value


@given(st.lists(entries, unique_by=lambda one: one.path))
def test_a_manifest_is_read_as_it_was_written(values: list[Entry]) -> None:
    assert tree.parse(tree.render(values)) == {one.path: one for one in values}


@given(entries)
def test_a_line_is_printable_ascii(value: Entry) -> None:
    assert all(32 <= ord(character) < 127 for character in value.line().replace("\t", ""))


@given(entries, entries)
def test_two_entries_never_share_a_line(one: Entry, two: Entry) -> None:
    assert (one.line() == two.line()) == (one == two)


@pytest.mark.parametrize("text", ["", "a", "\t" * 8, "a\tf\t0644\t0\t0\t0\t0\t-"])
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Entry.parse(text)


# What an entry says


def test_the_root_itself_comes_first(root: Path) -> None:
    assert next(iter(tree.scan(root))).path == b"."


def test_entries_are_sorted_bytewise(root: Path) -> None:
    for name in (b"b", b"a", b"\xff", b"Z", b"a.b", b"a/b"):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        if name != b"a":
            Path(os.fsdecode(path)).touch()
    names = [one.path for one in tree.scan(root)]
    assert names == sorted(names)


def test_a_file_has_its_size_and_hash(root: Path) -> None:
    found = entry(root, "etc/motd")
    assert (found.size, found.content) == (8, hashlib.sha256(b"welcome\n").hexdigest())


def test_a_link_has_its_target(root: Path) -> None:
    assert (entry(root, "etc/link").kind, entry(root, "etc/link").content) == ("l", "motd")


def test_a_links_target_is_bytes(root: Path) -> None:
    os.symlink(b"a\tb\xff", os.path.join(os.fsencode(root), b"odd"))  # noqa: PTH211
    assert entry(root, "odd").content == "a%09b%FF"


def test_a_fifo_is_not_opened(root: Path) -> None:
    assert (entry(root, "etc/fifo").kind, entry(root, "etc/fifo").content) == ("p", "-")


def test_a_socket_has_its_kind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        assert entry(root, "sock").kind == "s"


def test_a_link_to_a_folder_is_not_followed(root: Path) -> None:
    (root / "loop").symlink_to(".")
    assert entry(root, "loop").kind == "l"


def test_hard_links_are_files_of_their_own(root: Path) -> None:
    before = entry(root, "etc/motd")
    (root / "etc/again").hardlink_to(root / "etc/motd")
    assert entry(root, "etc/again") == before._replace(path=b"etc/again")


def test_times_before_1970_are_rounded_down(root: Path) -> None:
    os.utime(root / "etc/motd", ns=(-1, -1))
    assert entry(root, "etc/motd").mtime == -1


def test_times_are_never_rounded_up(root: Path) -> None:
    os.utime(root / "etc/motd", ns=(0, THEN * 10**9 + 999_999_999))
    assert entry(root, "etc/motd").mtime == THEN


def test_extended_attributes_are_sorted_and_in_hex(root: Path) -> None:
    os.setxattr(root / "etc/motd", "user.b", b"\0\xff")
    os.setxattr(root / "etc/motd", "user.a", b"")
    assert entry(root, "etc/motd").xattrs == "user.a=,user.b=00ff"


def test_an_attributes_name_may_be_any_bytes(root: Path) -> None:
    os.setxattr(root / "etc/motd", b"user.\xff,=", b"x")
    assert entry(root, "etc/motd").xattrs == "user.%FF%2C%3D=78"


@root_only
def test_a_device_has_its_numbers(root: Path) -> None:
    os.mknod(root / "null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mknod(root / "loop", 0o660 | 0o060000, os.makedev(7, 0))
    assert [(entry(root, name).kind, entry(root, name).content) for name in ("null", "loop")] == [
        ("c", "1:3"),
        ("b", "7:0"),
    ]


# What the tree id depends on


def owner(root: Path) -> None:
    os.chown(root / "etc/motd", 1, -1)


def group(root: Path) -> None:
    os.chown(root / "etc/motd", -1, 1)


ATTRIBUTES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda root: (root / "etc/motd").write_text("wElcome\n"),
    "the mode": lambda root: (root / "etc/motd").chmod(0o600),
    "the sticky bit": lambda root: (root / "etc").chmod(0o1755),
    "the time": lambda root: os.utime(root / "etc/motd", (THEN, THEN + 1)),
    "a folder's time": lambda root: os.utime(root / "etc", (THEN, THEN + 1)),
    "a link's time": lambda root: os.utime(root / "etc/link", (THEN, THEN + 1), follow_symlinks=False),
    "the name": lambda root: (root / "etc/motd").rename(root / "etc/modt"),
    "a new file": lambda root: (root / "etc/new").touch(),
    "a lost file": lambda root: (root / "etc/empty").unlink(),
    "an attribute": lambda root: os.setxattr(root / "etc/motd", "user.a", b"1"),
    "the root's mode": lambda root: root.chmod(0o700),
}
ROOTS_ATTRIBUTES: dict[str, Callable[[Path], object]] = {"the owner": owner, "the group": group}


def changed(root: Path, edit: Callable[[Path], object], *, times: bool) -> bool:
    before = ids(root)
    edit(root)
    if times:
        settle(root)
    return ids(root) != before


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_changes_the_tree_id(root: Path, name: str) -> None:
    assert changed(root, ATTRIBUTES[name], times="time" not in name)


@root_only
@pytest.mark.parametrize("name", ROOTS_ATTRIBUTES)
def test_each_owner_changes_the_tree_id(root: Path, name: str) -> None:
    assert changed(root, ROOTS_ATTRIBUTES[name], times=True)


def test_reading_a_file_does_not_change_the_tree_id(root: Path) -> None:
    before = ids(root)
    os.utime(root / "etc/motd", (THEN + 1000, THEN))
    assert ids(root) == before


def test_another_inode_does_not_change_the_tree_id(root: Path) -> None:
    before, inode = ids(root), (root / "etc/motd").stat().st_ino
    (root / "etc/aside").write_text("welcome\n")
    (root / "etc/aside").rename(root / "etc/motd")
    settle(root)
    assert ((root / "etc/motd").stat().st_ino != inode, ids(root)) == (True, before)


def test_another_change_time_does_not_change_the_tree_id(root: Path) -> None:
    before, changed_at = ids(root), (root / "etc/motd").stat().st_ctime_ns
    deadline = time.monotonic() + 5
    while (root / "etc/motd").stat().st_ctime_ns == changed_at and time.monotonic() < deadline:
        (root / "etc/motd").chmod(0o600)
        (root / "etc/motd").chmod(0o644)
    assert ids(root) == before


@given(st.permutations([f"file-{number}" for number in range(12)]))
def test_the_order_in_which_files_were_made_does_not_change_the_tree_id(names: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        for name in names:
            (root / name).write_text(name)
        settle(root)
        assert [one.path.decode() for one in tree.scan(root)] == [".", *sorted(names)]


def test_the_order_in_which_the_disk_lists_names_does_not_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree.names(root)
    real = os.scandir

    class Turned:
        """The entries of a folder, the last first."""

        def __init__(self, path: bytes) -> None:
            with real(path) as found:
                self.entries = list(found)[::-1]

        def __enter__(self) -> list[os.DirEntry[bytes]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Turned)
    assert tree.names(root) == before


# The inspector


def chunks(path: Path) -> list[bytes]:
    found: list[bytes] = []
    list(tree.scan(path, inspect=lambda _, chunk: found.append(chunk)))
    return found


def test_an_inspector_sees_every_byte_of_every_file(root: Path) -> None:
    seen: dict[bytes, bytes] = {}
    list(tree.scan(root, inspect=lambda path, chunk: seen.update({path: chunk})))
    assert seen == {b"etc/motd": b"welcome\n"}


@pytest.mark.parametrize("shift", range(-5, 6))
def test_nothing_hides_from_an_inspector_across_a_border(tmp_path: Path, shift: int) -> None:
    word = b"needle"
    (tmp_path / "big").write_bytes(b"." * ((1 << 20) + shift - 3) + word + b"." * 1000)
    assert any(word in chunk for chunk in chunks(tmp_path))


def test_an_inspector_does_not_change_the_hash(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) * 2 + 7)
    (tmp_path / "big").write_bytes(data)
    found = {one.path: one.content for one in tree.scan(tmp_path, inspect=lambda _, __: None)}
    assert found[b"big"] == hashlib.sha256(data).hexdigest()
