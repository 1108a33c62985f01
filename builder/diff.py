"""What differs between two versions (`diff`), and which input made it differ (`why`).

Promises: `diff` compares what came out (packages, files, artefacts), from manifests and tree manifests alone, without
mounting anything; `why` compares what was asked, from the two recipes, and says when different inputs gave the same
bytes. Both are structs for --json, with a text for people. Versions of different roles can be compared too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from builder import tree
from builder.store import RECIPE, Store
from services.common.errors import IntegrityError
from services.common.manifest import Manifest
from services.common.process import run
from services.common.versions import Ref, human

Sizes = Callable[[str], int | None]
"""SHA-256 of a .deb or wheel → bytes that it takes when installed, or None."""

TREE = "tree.zst"
_LONG = 40
_FIELDS = {"kind": "type", "mode": "mode", "uid": "owner", "gid": "group", "mtime": "time", "xattrs": "attributes"}
T = TypeVar("T")


class PackageChange(msgspec.Struct, frozen=True):
    """A package or wheel: `before` and `after` are versions, None where it is not there; `delta` in bytes, if known.

    `rebuilt`: the version is the same, the file is another one.
    """

    name: str
    before: str | None
    after: str | None
    delta: int | None = None
    rebuilt: bool = False


class FileChange(msgspec.Struct, frozen=True):
    """A path of the tree (%XX for odd bytes): what of it differs, and by how many bytes its size."""

    path: str
    change: str
    delta: int
    what: list[str]


class ArtefactChange(msgspec.Struct, frozen=True):
    """An artefact: sizes in bytes, None where it is not there."""

    name: str
    before: int | None
    after: int | None


class Diff(msgspec.Struct, frozen=True):
    """All differences between versions `a` and `b`. With `same_tree` there is no difference in files."""

    a: Ref
    b: Ref
    same_tree: bool
    packages: list[PackageChange]
    wheels: list[PackageChange]
    files: list[FileChange]
    artefacts: list[ArtefactChange]


class InputChange(msgspec.Struct, frozen=True):
    """One input of a recipe: `before` and `after`, None where it is not there."""

    section: str
    key: str
    before: str | None
    after: str | None


class Why(msgspec.Struct, frozen=True):
    """Which inputs differ, and what came of it; `diff` is None when the recipe is the same."""

    a: Ref
    b: Ref
    same_recipe: bool
    same_tree: bool
    inputs: list[InputChange]
    diff: Diff | None


# Comparing


def _pairs(before: Mapping[str, T], after: Mapping[str, T]) -> Iterator[tuple[str, T | None, T | None]]:
    """(key, before, after) of each key whose values differ, sorted."""
    for key in sorted({*before, *after}):
        pair = before.get(key), after.get(key)
        if pair[0] != pair[1]:
            yield key, *pair


def _no_sizes(_sha256: str, /) -> int | None:
    return None


def compare_packages(
    before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]], sizes: Sizes = _no_sizes
) -> list[PackageChange]:
    """Changes between two sets of packages: name → (version, SHA-256)."""
    changes = []
    for name, old, new in _pairs(before, after):
        old_size, new_size = (0 if one is None else sizes(one[1]) for one in (old, new))
        delta = None if old_size is None or new_size is None else new_size - old_size
        versions = (old[0] if old else None, new[0] if new else None)
        changes.append(PackageChange(name, *versions, delta, versions[0] == versions[1]))
    return changes


def _packages(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Packages by name; one of a foreign architecture as name:architecture."""
    found: dict[str, tuple[str, str]] = {}
    for package in manifest.packages:
        taken = package.name in found
        found[f"{package.name}:{package.architecture}" if taken else package.name] = (package.version, package.sha256)
    return found


def _wheels(manifest: Manifest) -> dict[str, tuple[str, str]]:
    return {wheel.name: (wheel.version, wheel.sha256) for wheel in manifest.wheels}


def compare_trees(before: Mapping[bytes, tree.Entry], after: Mapping[bytes, tree.Entry]) -> list[FileChange]:
    """Changes between two trees, sorted by path."""
    changes = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        name = (old or new or _nothing()).line().partition("\t")[0]
        if old is None or new is None:
            size = (new.size if new else 0) - (old.size if old else 0)
            changes.append(FileChange(name, "removed" if new is None else "added", size, []))
            continue
        what = [word for field, word in _FIELDS.items() if getattr(old, field) != getattr(new, field)]
        if (old.size, old.content) != (new.size, new.content):
            what.insert(0, "target" if old.kind == new.kind == "l" else "content")
        changes.append(FileChange(name, "changed", new.size - old.size, what))
    return changes


def _nothing() -> tree.Entry:
    raise AssertionError("a path is in one tree at least")


def read_tree(store: Store, ref: Ref) -> dict[bytes, tree.Entry]:
    """The entries of a version's tree. Raises IntegrityError("store.tampered") when tree.zst is not its manifest's."""
    path = store.find(ref.role, ref.version) / TREE
    done = run(["zstd", "-dcq", path], check=False)
    try:
        if done.returncode != 0:
            raise ValueError(done.stderr.strip())
        data = done.stdout.encode()
        if tree.tree_id(data) != store.manifest(ref.role, ref.version).tree_id:
            raise ValueError("it has another tree id")
        return tree.parse(data)
    except ValueError as error:
        hint = f"`build show --verify {ref}` checks the whole version"
        raise IntegrityError(
            "store.tampered", f"not this version's tree: {error}", where=str(path), hint=hint
        ) from error


def diff(store: Store, a: Ref, b: Ref, *, sizes: Sizes = _no_sizes) -> Diff:
    """Everything that differs between two versions of the store."""
    before, after = (store.manifest(ref.role, ref.version) for ref in (a, b))
    same_tree = before.tree_id == after.tree_id
    artefacts = [
        ArtefactChange(name, old.size if old else None, new.size if new else None)
        for name, old, new in _pairs(before.artefacts, after.artefacts)
    ]
    return Diff(
        a,
        b,
        same_tree,
        compare_packages(_packages(before), _packages(after), sizes),
        compare_packages(_wheels(before), _wheels(after), sizes),
        [] if same_tree else compare_trees(read_tree(store, a), read_tree(store, b)),
        artefacts,
    )


def read_recipe(store: Store, ref: Ref) -> dict[str, dict[str, str]]:
    """The sections of a version's recipe. Raises IntegrityError("recipe.broken") when it is none."""
    path = store.find(ref.role, ref.version) / RECIPE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, str]])
    except (msgspec.DecodeError, OSError) as error:
        raise IntegrityError("recipe.broken", f"not a recipe: {error}", where=str(path)) from error


def compare_recipes(
    before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]
) -> list[InputChange]:
    """The inputs that differ, sorted by section and key."""
    return [
        InputChange(section, key, old, new)
        for section in sorted({*before, *after})
        for key, old, new in _pairs(before.get(section, {}), after.get(section, {}))
    ]


def why(store: Store, a: Ref, b: Ref, *, sizes: Sizes = _no_sizes) -> Why:
    """Which inputs of two versions differ, and what came of it."""
    before, after = (store.manifest(ref.role, ref.version) for ref in (a, b))
    same_recipe = before.recipe_id == after.recipe_id
    return Why(
        a,
        b,
        same_recipe,
        before.tree_id == after.tree_id,
        [] if same_recipe else compare_recipes(read_recipe(store, a), read_recipe(store, b)),
        None if same_recipe else diff(store, a, b, sizes=sizes),
    )


def pool_sizes(pool: Path) -> Sizes:
    """Installed sizes by what the pool keeps beside its packages: `<sha256>.control`; a wheel's file size."""

    def size(sha256: str) -> int | None:
        base = pool / "sha256" / sha256[:2] / sha256
        try:
            match = re.search(r"^Installed-Size: *([0-9]+)", base.with_suffix(".control").read_text(), re.MULTILINE)
            return int(match[1]) * 1024 if match else None
        except FileNotFoundError:
            wheel = base.with_suffix(".whl")
            return wheel.stat().st_size if wheel.exists() else None

    return size


# Rendering


def _arrow(before: str | None, after: str | None) -> str:
    """Nix's way: `∅` stands for "is not there"."""
    return f"{before or '∅'} → {after or '∅'}"


def _package_line(change: PackageChange) -> str:
    text = f"  {change.name} {_arrow(change.before, change.after)}"
    if change.rebuilt:
        text = f"  {change.name} {change.after}, another file"
    return text if not change.delta else f"{text}, {human(change.delta, signed=True)}"


def _file_line(change: FileChange) -> str:
    sign = {"added": "+", "removed": "-"}.get(change.change, "~")
    size = f", {human(change.delta, signed=True)}" if change.delta else ""
    return f"  {sign} {change.path}{': ' if change.what else ''}{', '.join(change.what)}{size}"


def _section(title: str, items: Collection[T], line: Callable[[T], str], most: int | None) -> Iterator[str]:
    if items:
        yield f"{title}: {len(items)}"
        shown = list(items)[:most]
        yield from map(line, shown)
        if len(shown) < len(items):
            yield f"  and {len(items) - len(shown)} more"


def _artefact_line(change: ArtefactChange) -> str:
    if change.before is None or change.after is None:
        sizes = (None if size is None else human(size) for size in (change.before, change.after))
        return f"  {change.name} {_arrow(*sizes)}"
    delta = human(change.after - change.before, signed=True) if change.after != change.before else "other bytes"
    return f"  {change.name} {human(change.after)}, {delta}"


def _diff_lines(diff: Diff, most: int | None) -> Iterator[str]:
    yield from _section("packages", diff.packages, _package_line, None)
    yield from _section("wheels", diff.wheels, _package_line, None)
    yield from _section("files", [one for one in diff.files if one.what != ["time"]], _file_line, most)
    if dated := sum(one.what == ["time"] for one in diff.files):
        yield f"files of another time alone: {dated}"
    yield from _section("artefacts", diff.artefacts, _artefact_line, None)


def render_diff(diff: Diff, *, most: int | None = _LONG) -> str:
    """A diff as text; of the files not more than `most` (None: all)."""
    lines = [f"{diff.a} → {diff.b}", *_diff_lines(diff, most)]
    if len(lines) == 1:
        lines.append("no difference")
    return "\n".join(lines) + "\n"


def _input_line(change: InputChange) -> str:
    """One input; hashes are left out where they say nothing more."""
    sign = "+" if change.before is None else "-" if change.after is None else "~"
    line = f"  {sign} {change.key}"
    if change.before is None or change.after is None:
        value = _readable(change.before or change.after or "")
        return f"{line} {value}".rstrip()
    before, after = _readable(change.before), _readable(change.after)
    if before == after:
        return f"{line}: other content" if not before else f"{line} {after}: other content"
    return f"{line}: {_arrow(before, after)}"


def _readable(value: str) -> str:
    """An input's value without its SHA-256, on one line, cut where it is long."""
    text = " ".join(re.sub(r"\b[0-9a-f]{64}\b", "", value).split())
    return text if len(text) <= 2 * _LONG else f"{text[: 2 * _LONG]}…"


def _advice(why: Why) -> str:
    if why.same_recipe and why.same_tree:
        return "the recipe is the same, and so are the bytes: these are the same version under two lock dates"
    if why.same_recipe:
        return "the recipe is the same, the bytes are not: the build is not reproducible; `build check ROLE`"
    if why.same_tree:
        return "the inputs differ, the bytes do not: nothing that a client could see has changed"
    return "the inputs differ, and so do the bytes"


def render_why(why: Why, *, most: int | None = _LONG) -> str:
    """The answer to `why` as text: inputs by section, then what came of them."""
    lines = [f"{why.a} → {why.b}", _advice(why) if why.a != why.b else "this is one version"]
    for section in sorted({change.section for change in why.inputs}):
        changes = [change for change in why.inputs if change.section == section]
        lines += _section(f"input {section}", changes, _input_line, most)
    if why.diff is not None and not (why.same_tree and not why.diff.packages and not why.diff.wheels):
        lines += ["", *_diff_lines(why.diff, most)]
    return "\n".join(lines) + "\n"
