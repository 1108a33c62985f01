"""`diff` and `why`: what differs, which input did it, in words that people can read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import diff, tree
from builder.diff import FileChange, InputChange, PackageChange
from builder.store import Store
from builder.tree import Entry
from services.common.errors import IntegrityError
from services.common.manifest import Wheel
from services.common.versions import Ref
from tests.builder import stock

SHA_A, SHA_B = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, folder: Path, **options: object) -> Ref:
    ref = stock.stage(folder, **options)  # type: ignore[arg-type]
    store.add(ref.role, ref.version, folder)
    return ref


def entry(
    path: str, *, content: str = SHA_A, size: int = 10, kind: str = "f", mode: int = 0o644, mtime: int = 1
) -> Entry:
    return Entry(path.encode(), kind, mode, 0, 0, mtime, size, content, "-")


def recipe(**sections: dict[str, str]) -> dict[str, dict[str, str]]:
    return {"format": {"recipe": "1", "role": "gw"}, **sections}


@pytest.fixture
def pair(store: Store, tmp_path: Path) -> tuple[Ref, Ref]:
    """A version, and one with a security update, a new package and an edited file."""
    old = put(
        store,
        tmp_path / "a",
        recipe=recipe(
            packages={"openssl:amd64": f"3.5.7-1~deb13u2 {SHA_A}", "nano:amd64": f"8.4-1 {SHA_A}"},
            files={"images/gw/mkosi.extra/etc/motd": f"0644 {SHA_A}", "images/gw/run": f"0644 {SHA_A}"},
            tools={"tree": SHA_A},
        ),
        packages=[stock.package("openssl", "3.5.7-1~deb13u2"), stock.package("nano", "8.4-1")],
        wheels=[Wheel("starlette", "1.0", "starlette-1.0-py3-none-any.whl", SHA_A)],
        entries=[entry("etc/motd"), entry("usr/bin/nano", size=2000), entry("usr/bin/openssl", size=4000)],
        root=b"x" * 10_000,
    )
    new = put(
        store,
        tmp_path / "b",
        date="20260207",
        recipe=recipe(
            packages={"openssl:amd64": f"3.5.7-1~deb13u3 {SHA_B}", "vim:amd64": f"9.1-1 {SHA_B}"},
            files={"images/gw/mkosi.extra/etc/motd": f"0644 {SHA_B}", "images/gw/run": f"0755 {SHA_A}"},
            tools={"tree": SHA_B},
        ),
        packages=[stock.package("openssl", "3.5.7-1~deb13u3"), stock.package("vim", "9.1-1")],
        wheels=[Wheel("starlette", "1.1", "starlette-1.1-py3-none-any.whl", SHA_B)],
        entries=[
            entry("etc/motd", content=SHA_B, size=12),
            entry("usr/bin/openssl", content=SHA_B, size=18_234, mode=0o755),
            entry("usr/bin/vim", size=3000),
        ],
        root=b"y" * 24_234,
    )
    return old, new


def test_the_text_of_a_diff_is_for_people(store: Store, pair: tuple[Ref, Ref]) -> None:
    sizes = {stock.package("openssl", f"3.5.7-1~deb13u{n}").sha256: 100_000 + 14_234 * (n - 2) for n in (2, 3)}
    found = diff.diff(store, *pair, sizes=sizes.get)
    assert diff.render_diff(found).splitlines()[1:] == [
        "packages: 3",
        "  nano 8.4-1 → ∅",
        "  openssl 3.5.7-1~deb13u2 → 3.5.7-1~deb13u3, +13.9 KiB",
        "  vim ∅ → 9.1-1",
        "wheels: 1",
        "  starlette 1.0 → 1.1",
        "files: 4",
        "  ~ etc/motd: content, +2 B",
        "  - usr/bin/nano, -2.0 KiB",
        "  ~ usr/bin/openssl: content, mode, +13.9 KiB",
        "  + usr/bin/vim, +2.9 KiB",
        "artefacts: 2",
        "  root.erofs 23.7 KiB, +13.9 KiB",
        *[line for line in diff.render_diff(found).splitlines() if line.startswith("  tree.zst")],
    ]


def test_a_diff_is_json(store: Store, pair: tuple[Ref, Ref]) -> None:
    found = diff.diff(store, *pair)
    assert msgspec.json.decode(msgspec.json.encode(found), type=diff.Diff) == found


def test_a_version_does_not_differ_from_itself(store: Store, pair: tuple[Ref, Ref]) -> None:
    assert diff.render_diff(diff.diff(store, pair[0], pair[0])).splitlines()[1] == "no difference"


def test_a_long_list_of_files_is_cut(store: Store, tmp_path: Path) -> None:
    old = put(store, tmp_path / "a", recipe=recipe(settings={"n": "1"}))
    entries = [entry(f"usr/{n:03}") for n in range(100)]
    new = put(store, tmp_path / "b", recipe=recipe(settings={"n": "2"}), entries=entries)
    found = diff.diff(store, old, new)
    assert len(found.files) == 100
    assert "  and 60 more" in diff.render_diff(found)
    assert "more" not in diff.render_diff(found, most=None)


def test_files_of_another_time_alone_are_counted_and_do_not_hide_the_others(store: Store, tmp_path: Path) -> None:
    dated = [entry(f"usr/{n:03}", mtime=1) for n in range(100)]
    old = put(store, tmp_path / "a", recipe=recipe(settings={"n": "1"}), entries=[*dated, entry("usr/zsh")])
    later = [one._replace(mtime=2) for one in dated]
    new = put(
        store, tmp_path / "b", recipe=recipe(settings={"n": "2"}), entries=[*later, entry("usr/zsh", content=SHA_B)]
    )
    found = diff.diff(store, old, new)
    assert len(found.files) == 101
    text = diff.render_diff(found)
    assert "files: 1\n  ~ usr/zsh: content\nfiles of another time alone: 100\n" in text


def test_a_package_that_was_rebuilt_under_its_version_is_seen() -> None:
    changes = diff.compare_packages({"x": ("1", SHA_A)}, {"x": ("1", SHA_B)})
    assert changes == [PackageChange("x", "1", "1", None, rebuilt=True)]


def test_what_of_a_file_changed_is_named() -> None:
    old = Entry(b"x", "f", 0o644, 0, 0, 1, 5, SHA_A, "-")
    cases = {
        "content": old._replace(content=SHA_B),
        "mode": old._replace(mode=0o755),
        "owner": old._replace(uid=1),
        "group": old._replace(gid=1),
        "time": old._replace(mtime=2),
        "attributes": old._replace(xattrs="user.x=00"),
    }
    for word, new in cases.items():
        assert diff.compare_trees({b"x": old}, {b"x": new}) == [FileChange("x", "changed", 0, [word])]
    link = Entry(b"x", "l", 0o777, 0, 0, 1, 0, "a", "-")
    assert diff.compare_trees({b"x": link}, {b"x": link._replace(content="b")})[0].what == ["target"]
    assert diff.compare_trees({b"x": old}, {b"x": link})[0].what == ["content", "type", "mode"]


entries = st.builds(
    Entry,
    path=st.binary(min_size=1, max_size=3).filter(lambda path: b"\0" not in path),
    kind=st.sampled_from("fd"),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 3),
    gid=st.just(0),
    mtime=st.integers(0, 2),
    size=st.integers(0, 9),
    content=st.sampled_from([SHA_A, SHA_B]),
    xattrs=st.just("-"),
)
trees = st.lists(entries, max_size=6).map(lambda found: {one.path: one for one in found})


@given(trees, trees)
def test_a_diff_of_trees_is_complete_and_has_a_mirror_image(
    before: dict[bytes, Entry], after: dict[bytes, Entry]
) -> None:
    forth, back = diff.compare_trees(before, after), diff.compare_trees(after, before)
    assert len(forth) == sum(before.get(path) != after.get(path) for path in {*before, *after})
    assert [(one.path, one.delta) for one in forth] == [(one.path, -one.delta) for one in back]
    assert all(one.what for one in forth if one.change == "changed")
    total = sum(one.size for one in after.values()) - sum(one.size for one in before.values())
    assert sum(one.delta for one in forth) == total


def test_a_tree_of_another_version_is_refused(store: Store, pair: tuple[Ref, Ref]) -> None:
    (old, new) = (store.path(ref.role, ref.version) for ref in pair)
    old.chmod(0o755)
    (old / "tree.zst").unlink()
    (old / "tree.zst").write_bytes((new / "tree.zst").read_bytes())
    with pytest.raises(IntegrityError, match="another tree id"):
        diff.diff(store, *pair)
    (old / "tree.zst").write_bytes(b"junk")
    with pytest.raises(IntegrityError, match="not this version's tree"):
        diff.diff(store, *pair)


# Why


def test_why_names_the_inputs_and_what_came_of_them(store: Store, pair: tuple[Ref, Ref]) -> None:
    found = diff.why(store, *pair)
    text = diff.render_why(found)
    assert text.splitlines()[1:13] == [
        "the inputs differ, and so do the bytes",
        "input files: 2",
        "  ~ images/gw/mkosi.extra/etc/motd 0644: other content",
        "  ~ images/gw/run: 0644 → 0755",
        "input packages: 3",
        "  - nano:amd64 8.4-1",
        "  ~ openssl:amd64: 3.5.7-1~deb13u2 → 3.5.7-1~deb13u3",
        "  + vim:amd64 9.1-1",
        "input tools: 1",
        "  ~ tree: other content",
        "",
        "packages: 3",
    ]
    assert msgspec.json.decode(msgspec.json.encode(found), type=diff.Why) == found


def test_the_same_recipe_says_so(store: Store, tmp_path: Path) -> None:
    old = put(store, tmp_path / "a")
    assert "this is one version" in diff.render_why(diff.why(store, old, old))
    new = put(store, tmp_path / "b", date="20260202")
    found = diff.why(store, old, new)
    assert (found.same_recipe, found.inputs, found.diff) == (True, [], None)
    assert "the recipe is the same, and so are the bytes" in diff.render_why(found)


def test_the_same_recipe_with_other_bytes_is_called_by_its_name(store: Store, tmp_path: Path) -> None:
    old = put(store, tmp_path / "a")
    new = put(store, tmp_path / "b", date="20260202", entries=[entry("etc/now")])
    assert "not reproducible" in diff.render_why(diff.why(store, old, new))


def test_other_inputs_with_the_same_bytes_say_so(store: Store, tmp_path: Path) -> None:
    old = put(store, tmp_path / "a", recipe=recipe(settings={"x": "1"}))
    new = put(store, tmp_path / "b", recipe=recipe(settings={"x": "2"}))
    found = diff.why(store, old, new)
    assert diff.render_why(found).splitlines()[1:] == [
        "the inputs differ, the bytes do not: nothing that a client could see has changed",
        "input settings: 1",
        "  ~ x: 1 → 2",
    ]


def test_sections_may_come_and_go() -> None:
    changes = diff.compare_recipes({"a": {"k": "v"}}, {"b": {"k": "v"}})
    assert changes == [InputChange("a", "k", "v", None), InputChange("b", "k", None, "v")]


sections = st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.text(max_size=3)))


@given(sections, sections)
def test_inputs_that_differ_are_those_that_differ(
    before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]
) -> None:
    changes = diff.compare_recipes(before, after)
    rebuilt = {section: dict(values) for section, values in before.items()}
    for change in changes:
        assert change.before != change.after
        values = rebuilt.setdefault(change.section, {})
        if change.after is None:
            del values[change.key]
        else:
            values[change.key] = change.after
    assert {name: values for name, values in rebuilt.items() if values} == {
        name: values for name, values in after.items() if values
    }


def test_a_broken_recipe_is_refused(store: Store, pair: tuple[Ref, Ref]) -> None:
    path = store.path(pair[0].role, pair[0].version)
    path.chmod(0o755)
    (path / "recipe.json").unlink()
    (path / "recipe.json").write_text("[]")
    with pytest.raises(IntegrityError) as caught:
        diff.why(store, *pair)
    assert caught.value.code == "recipe.broken"


def test_installed_sizes_come_from_the_pool(tmp_path: Path) -> None:
    folder = tmp_path / "sha256" / "aa"
    folder.mkdir(parents=True)
    (folder / f"{SHA_A}.control").write_text("Package: x\nInstalled-Size: 12\n")
    wheel = "aa" + "0" * 62
    (folder / f"{wheel}.whl").write_bytes(b"x" * 77)
    sizes = diff.pool_sizes(tmp_path)
    assert (sizes(SHA_A), sizes(wheel), sizes(SHA_B)) == (12 * 1024, 77, None)


def test_a_big_tree_is_compared_in_a_moment(store: Store, tmp_path: Path) -> None:
    """10,000 files, as an nfsroot has."""
    names = [f"usr/lib/{hashlib.sha256(str(n).encode()).hexdigest()[:20]}" for n in range(10_000)]
    many = sorted(entry(name) for name in names)
    old = put(store, tmp_path / "a", recipe=recipe(settings={"n": "1"}), entries=many)
    changed = [many[0]._replace(content=SHA_B), *many[1:]]
    new = put(store, tmp_path / "b", recipe=recipe(settings={"n": "2"}), entries=changed)
    assert tree.parse(tree.render(many)) == {one.path: one for one in many}
    (change,) = diff.diff(store, old, new).files
    assert change.what == ["content"]
