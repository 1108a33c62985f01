"""`build check`: is a version its content? It is built once more, somewhere else entirely, and compared byte for byte.

Building twice in the same way proves little: both runs share what leaks. So the second build differs on purpose in all
that a build could notice: umask, file system (memory, with another directory order), path and its length, host name,
time zone, locale, number of CPUs, and the clock, 400 days ahead. It also is built flat, not in layers, which proves
that both ways are one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from builder import recipe, tools, tree
from builder.image import Shop, build, frozen, make, plan, require_root
from builder.place import Place, memory_fits, memory_needed
from builder.pool import Pool
from builder.sandbox import Environment, Sandbox
from builder.store import RECIPE
from services.common import manifest as manifests
from services.common.errors import BacklineError
from services.common.manifest import Manifest
from services.common.versions import Ref

ELSEWHERE = Environment(
    umask="077",
    hostname="elsewhere-and-not-build",
    timezone="Asia/Kathmandu",
    locale="C",
    work="/another/place/with/a/rather/longer/path/than/the/one/of/every/day",
    cpus=1,
    clock_offset_days=400,
)
# What a guilty path or its owner suggests, most telling first.
_CAUSES = (
    ("pyc", "Python bytecode that was not compiled by the builder"),
    ("var/lib/dpkg", "order in which packages were configured"),
    ("cache", "a cache with inode numbers or times"),
    ("log", "a log of the build"),
    ("key", "a key made by a package's script"),
    ("machine-id", "the identity of the machine"),
)
# The tools tree has no ld.so.cache, in which Python would look the library up.
_LIBARCHIVE = {"LIBARCHIVE": "/usr/lib/x86_64-linux-gnu/libarchive.so.13"}
_EXPLAIN_FILES = 5
_EXPLAIN_SIZE = 1 << 20
# A file at a time: one that differs in a thousand lines takes no room of the others.
_EXPLAIN = """
for path; do
    for side in first second; do
        mkdir -p "/tmp/$side/$(dirname "$path")"
        dump.erofs --cat --path="/$path" "/$side/root.erofs" > "/tmp/$side/$path"
    done
    cd /tmp
    timeout 30 diffoscope --text - --text-color never --exclude-directory-metadata yes "first/$path" "second/$path" \\
        2> /dev/null | sed '20{s/.*/.../;q}' | cut --bytes=-200
done
"""


class Guilty(msgspec.Struct, frozen=True):
    """One path that differs: what differs, the package that owns it, and the likely cause."""

    path: str
    differs: list[str]
    package: str | None
    cause: str


class CheckReport(msgspec.Struct, frozen=True):
    """What `build check` found: artefacts and paths that are not the same, none for a reproducible version."""

    role: str
    version: str
    same: bool
    artefacts: list[str]
    guilty: list[Guilty]
    elsewhere: dict[str, str]
    details: str = ""
    """What diffoscope says of the first guilty files."""


def check(shop: Shop, role: str, *, environment: Environment = ELSEWHERE, flat: bool = True) -> CheckReport:
    """Build `role` again under `environment` and compare with the store's version (built first when missing)."""
    require_root()
    wanted = plan(shop, role)
    ref = Ref(role, recipe.version(wanted, shop.lock))
    if not shop.store.have(ref.role, ref.version):
        build(shop, role)
    folder = shop.store.find(ref.role, ref.version)
    shop.store.verify(ref.role, ref.version)
    with frozen(shop, wanted) as (still, _), _staging(shop) as out:
        again = make(still, wanted, ref, out, environment=environment, flat=flat, place=other_place(shop, role))
        return compare(shop, ref, folder, out, again, environment)


def describes(shop: Shop, ref: Ref) -> bool:
    """Whether this checkout and lock are what a version of the store was made from."""
    try:
        wanted = plan(shop, ref.role)
    except BacklineError:  # whatever is wrong with it, it is not that
        return False
    return wanted.identity == shop.store.manifest(ref.role, ref.version).recipe_id


def other_place(shop: Shop, role: str) -> Place:
    """Where a check builds: on another file system than a build does."""
    if not memory_fits(memory_needed(shop.lock, role)):
        shop.progress.note(f"{role}: too large to be checked in memory, so the file system is not varied")
        return Place.DISK
    return Place.EXT4


@contextmanager
def _staging(shop: Shop) -> Iterator[Path]:
    from builder.aside import Aside

    aside = Aside(shop.settings.cache_path / "work")
    with aside.folder() as folder:
        yield folder


def compare(shop: Shop, ref: Ref, first: Path, second: Path, again: Manifest, environment: Environment) -> CheckReport:
    """Compare two folders of one version: artefacts by hash, trees entry by entry."""
    stored = manifests.decode((first / manifests.NAME).read_bytes(), where=str(first / manifests.NAME))
    names = sorted(stored.artefacts.keys() | again.artefacts.keys())
    artefacts = [name for name in names if stored.artefacts.get(name) != again.artefacts.get(name)]
    if (first / RECIPE).read_bytes() != (second / RECIPE).read_bytes():
        artefacts.append(RECIPE)
    guilty = guilty_paths(read_tree(first), read_tree(second)) if "tree.zst" in artefacts else []
    guilty = _with_packages(shop, ref, guilty)
    return CheckReport(
        role=ref.role,
        version=ref.version,
        same=not artefacts,
        artefacts=artefacts,
        guilty=guilty,
        elsewhere={name: str(value) for name, value in vars(environment).items()},
        details=explain(shop, first, second, guilty),
    )


def explain(shop: Shop, first: Path, second: Path, guilty: list[Guilty]) -> str:
    """What differs inside the first few guilty files, by diffoscope of the tools tree, within limits of size and time.

    On whole trees it writes hundreds of megabytes; on a few small files it says in a second what a person wants.
    """
    trees = [read_tree(folder) for folder in (first, second)]
    chosen = []
    for entry in guilty:
        pair = [tree.get(os.fsencode(entry.path)) for tree in trees]
        if all(one is not None and one.kind == "f" and one.size <= _EXPLAIN_SIZE for one in pair):
            chosen.append(entry.path)
    if not chosen:
        return ""
    tools_tree = tools.ensure(Pool(shop.settings.cache_path / "pool"), shop.lock, shop.settings.cache_path)
    sandbox = Sandbox(tools=tools_tree, read_only={first: "/first", second: "/second"})
    paths = chosen[:_EXPLAIN_FILES]
    text = sandbox.run(
        ["bash", "-c", _EXPLAIN, "explain", *paths], variables=Environment().variables(0) | _LIBARCHIVE, check=False
    ).stdout.strip()
    left = len(chosen) - len(paths)
    return f"{text}\nnot looked into: {left} more" if left else text


def read_tree(folder: Path) -> dict[bytes, tree.Entry]:
    """The tree manifest of a version's folder."""
    with subprocess.Popen(["zstd", "-dcq", folder / "tree.zst"], stdout=subprocess.PIPE) as process:
        data = process.communicate()[0]
    return tree.parse(data)


def guilty_paths(first: dict[bytes, tree.Entry], second: dict[bytes, tree.Entry]) -> list[Guilty]:
    """Every path that is not the same in both trees, and in what; a folder's time alone follows from its entries."""
    found = []
    for path in sorted(first.keys() | second.keys()):
        one, two = first.get(path), second.get(path)
        if one == two:
            continue
        if one is None or two is None:
            differs = ["only in the second build" if one is None else "only in the first build"]
        else:
            pairs = zip(tree.Entry._fields, one, two, strict=True)
            differs = [
                f"{name} {a} / {b}" if name not in ("content", "xattrs") else name for name, a, b in pairs if a != b
            ]
        text = os.fsdecode(path)
        found.append(Guilty(path=text, differs=differs, package=None, cause=likely_cause(text, differs)))
    return found


def likely_cause(path: str, differs: list[str]) -> str:
    """A guess at why a path differs, for the reader to start from."""
    kinds = {word.split()[0] for word in differs}
    if kinds <= {"mode"}:
        return "the umask of the build reached it"
    if kinds <= {"uid", "gid"}:
        return "an id that is not in images/ids.toml"
    if kinds <= {"mtime"}:
        return "a time that was set by a script, or a clock"
    for word, cause in _CAUSES:
        if word in path:
            return cause
    return "its content depends on the time, the host, randomness, the locale, or the order of a directory"


def _with_packages(shop: Shop, ref: Ref, guilty: list[Guilty]) -> list[Guilty]:
    """Fill in the owning package, from the package lists of the layer that the version was built on."""
    if not guilty:
        return guilty
    layer = shop.settings.cache_path / "layers"
    sections = recipe.of_layers(shop.root, ref.role, shop.lock)[ref.role]
    info = layer / recipe.layer_id(sections) / "var/lib/dpkg/info"
    if not info.is_dir():
        return guilty
    paths = {f"/{entry.path}" for entry in guilty}
    owners: dict[str, str] = {}
    for listing in sorted(info.glob("*.list")):
        lines = set(listing.read_text(errors="replace").splitlines())
        for path in paths & lines:
            owners.setdefault(path, listing.name.removesuffix(".list").partition(":")[0])
    return [msgspec.structs.replace(entry, package=owners.get(f"/{entry.path}")) for entry in guilty]


def render(report: CheckReport) -> str:
    """A report for a person."""
    name = f"{report.role}/{report.version}"
    if report.same:
        return f"{name}: the same bytes, built flat with {_describe(report.elsewhere)}"
    lines = [f"{name}: NOT reproducible: {', '.join(report.artefacts)} differ"]
    for entry in report.guilty[:40]:
        owner = f" ({entry.package})" if entry.package else ""
        lines += [f"  {entry.path}{owner}", f"    {', '.join(entry.differs)}", f"    likely: {entry.cause}"]
    if len(report.guilty) > 40:
        lines.append(f"  and {len(report.guilty) - 40} more (--json lists all)")
    lines += [f"  {line}" for line in report.details.splitlines()]
    return "\n".join(lines)


def _describe(elsewhere: dict[str, str]) -> str:
    return (
        f"umask {elsewhere['umask']}, {elsewhere['cpus']} CPU, host {elsewhere['hostname']}, {elsewhere['timezone']}, "
        f"locale {elsewhere['locale']}, the clock {elsewhere['clock_offset_days']} days ahead"
    )
