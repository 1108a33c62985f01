"""Makes a lock: apt itself resolves, in the tools tree, with an empty state, from signed release files.

Locked versions stay where they are unless they are named (`--update NAME`) or all are (`--update`): the packages of the
pool join the mirror as a second source, pinned. Only the very first lock of a tree is resolved by the host's apt.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from builder import cache as trees
from builder import config, fetch, lock, mirrors, tools
from builder.lock import Lock, LockedPackage, LockedWheel, Pocket, RoleRequest
from builder.pool import Pool, make_repository
from builder.sandbox import Environment, Sandbox
from services.common.errors import BacklineError, InputError, MissingError
from services.common.process import ProcessFailed, run

SUITE = "trixie"
COMPONENTS = ["main", "non-free-firmware"]
POCKETS = {"trixie": "debian", "trixie-updates": "debian", "trixie-security": "debian-security"}
_LOCKED_SUITE = "locked"
# As mkosi calls apt (mkosi/installer/apt.py), so that both choose the same packages.
_APT_OPTIONS = {
    "APT::Architecture": "amd64",
    "APT::Architectures": "amd64",
    "APT::Install-Recommends": "false",
    "APT::Get::AutomaticRemove": "true",
    "APT::Sandbox::User": "root",
    "Acquire::Languages": "none",
    "Acquire::ForceHash": "SHA256",
    "Acquire::GzipIndexes": "false",
    "pkgCacheGen::ForceEssential": ",",
    "Dir::State::status": "/dev/null",
    "Debug::NoLocking": "true",
}
_ESSENTIAL = ["?essential", "base-files"]
_URI = re.compile(r"^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Update:
    """What may move: everything, some names, or (the default) nothing that is locked."""

    everything: bool = False
    names: frozenset[str] = frozenset()

    def frees(self, name: str) -> bool:
        """Whether `name` may change its version."""
        return self.everything or name in self.names

    def with_siblings(self, old: Lock | None) -> Update:
        """The same, with all that was built from a named package's source: they depend on each other exactly."""
        locked = old.packages if old else []
        sources = {(package.source, package.source_version) for package in locked if package.name in self.names}
        siblings = {package.name for package in locked if (package.source, package.source_version) in sources}
        return Update(everything=self.everything, names=self.names | siblings)


class Apt:
    """apt-get with a state of its own in `folder`; inside the tools tree once there is one."""

    def __init__(self, folder: Path, tree: Path | None) -> None:
        self.folder = folder
        self.tree = tree
        self.inside = "/apt" if tree else str(folder)

    def prepare(self, sources: str, preferences: str, acquire: str) -> None:
        """Write apt's configuration; the package lists of an earlier run stay."""
        for name in (
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/sources.list.d",
            "state/lists/partial",
            "cache/archives/partial",
        ):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        options = "".join(f'{key} "{value}";\n' for key, value in _APT_OPTIONS.items())
        places = {"Dir::Etc": "etc", "Dir::State": "state", "Dir::Cache": "cache"}
        options += "".join(f'{key} "{self.inside}/{place}";\n' for key, place in places.items())
        (self.folder / "apt.conf").write_text(acquire + options)
        (self.folder / "etc/sources.list.d/builder.sources").write_text(sources)
        (self.folder / "etc/preferences").write_text(preferences)

    def run(self, *words: str) -> str:
        """Run one apt program and return its standard output. Raises ProcessFailed."""
        if self.tree is None:
            import os

            return run(list(words), env={**os.environ, "APT_CONFIG": f"{self.inside}/apt.conf", "LC_ALL": "C"}).stdout
        sandbox = Sandbox(
            tools=self.tree,
            read_only=_network_files(),
            writable={self.folder: "/apt"},
            network=True,
        )
        variables = Environment().variables(0) | {"APT_CONFIG": "/apt/apt.conf"} | _proxies()
        return sandbox.run(list(words), variables=variables).stdout


def _network_files() -> dict[Path, str]:
    names = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs")
    return {Path(name).resolve(): name for name in names if Path(name).exists()}


def _proxies() -> dict[str, str]:
    import os

    names = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in names if name in os.environ}


def requests(root: Path) -> dict[str, RoleRequest]:
    """What every image folder asks for now, by role."""
    images = {role: config.load(root, role) for role in config.roles(root)}
    return {role: RoleRequest(request=image.packages, parent=image.parent) for role, image in images.items()}


def requirement_hashes(root: Path) -> dict[str, str]:
    """Requirement set → SHA-256 of its requirements file, for every set that an image uses."""
    sets = {image.wheels for role in config.roles(root) if (image := config.load(root, role)).wheels}
    found = {}
    for name in sorted(filter(None, sets)):
        path = root / "requirements" / f"{name}.txt"
        if not path.is_file():
            raise InputError("image.wheels", f"there is no requirement set {name!r}", where=f"requirements/{name}.txt")
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def stale(root: Path, locked: Lock) -> str | None:
    """Why the lock does not fit the configuration any more, None while it does."""
    now = requests(root)
    for role in sorted(now.keys() | locked.roles.keys()):
        if role not in locked.roles:
            return f"images/{role} is not in the lock"
        if role not in now:
            return f"the lock has {role}, which images/ has not"
        if now[role] != locked.roles[role]:
            added = sorted(set(now[role].request) - set(locked.roles[role].request))
            removed = sorted(set(locked.roles[role].request) - set(now[role].request))
            moves = [f"+{name}" for name in added] + [f"-{name}" for name in removed]
            return f"images/{role} asks for other packages than the lock has ({' '.join(moves) or 'another Include='})"
    for name, digest in requirement_hashes(root).items():
        if locked.requirements.get(name) != digest:
            return f"requirements/{name}.txt changed since the lock was written"
    return None


def require_fresh(root: Path, locked: Lock) -> None:
    """Raises InputError("lock.stale") with the command to run when the lock does not fit."""
    if reason := stale(root, locked):
        raise InputError("lock.stale", reason, where=lock.NAME, hint="run `build lock`")


def resolve(
    root: Path,
    *,
    old: Lock | None,
    update: Update,
    where: mirrors.Mirrors,
    pool: Pool,
    cache: Path,
    tree: Path | None,
) -> Lock:
    """Resolve every image folder and return the new lock; nothing is written outside of `cache`.

    Raises MissingError("lock.left") or Gone when locked packages that may not move are neither on the mirror nor in the
    pool, MissingError("lock.unknown") for a name that no pocket has, MissingError("lock.network") when a mirror is out
    of reach.
    """
    wanted = requests(root)
    update = update.with_siblings(old)
    state = cache / "apt" / hashlib.sha256(repr((where.live, bool(tree))).encode()).hexdigest()[:16]
    apt = Apt(state, tree)
    with contextlib.ExitStack() as stack:

        def refresh() -> None:
            extra = stack.enter_context(_locked_source(state, apt, old, update, pool)) if old else ""
            apt.prepare(_sources(where, tree) + extra, _preferences(old, update), mirrors.acquire_options())
            try:
                apt.run("apt-get", "update", "--error-on=any")
            except ProcessFailed as error:
                raise MissingError(
                    "lock.network", f"the package lists could not be read\n{error.message}", hint="check the mirror"
                ) from error

        refresh()
        unlisted = _unlisted(state / "state/lists", old, update, pool)
        gone: list[LockedPackage] = []
        if unlisted:  # a mirror keeps the files of a version for some days after it lists the next one
            try:
                fetch.fetch_packages(pool, unlisted, where, advance=lambda _: None)
            except fetch.Gone as error:
                gone = error.packages
            if len(gone) < len(unlisted):
                refresh()
        try:
            chosen = _choose(apt, wanted)
        except BacklineError as error:
            if gone and error.code == "lock.conflict":  # what is kept needs what is gone
                raise fetch.Gone(gone, where) from error
            raise
        stanzas = _stanzas(state / "state/lists", {row[3] for rows in chosen.values() for row in rows})
        packages = _packages(chosen, stanzas, old)
        _refuse_moves(packages, old, update)
        pockets = _pockets(state / "state/lists", where)
        version = apt.run("dpkg-query", "--show", "--showformat=${Version}", "apt") if tree is None else ""
    epoch = max(pocket.date for pocket in pockets)
    found = {package.name: package for package in packages}
    if (
        old
        and not update.everything
        and {p.name: p.sha256 for p in old.packages} == {n: p.sha256 for n, p in found.items()}
    ):
        epoch, pockets = old.epoch, old.pockets  # nothing moved: the lock's date is that of its packages
    return Lock(
        format=lock.FORMAT,
        epoch=epoch,
        apt=found["apt"].version if "apt" in found else version,
        tools_tree="",
        requirements=requirement_hashes(root),
        pockets=pockets,
        roles=wanted,
        packages=packages,
        wheels=[],
    )


def _sources(where: mirrors.Mirrors, tree: Path | None) -> str:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    if tree is None and not Path(keyring).exists():
        raise InputError("lock.keyring", f"no {keyring}", hint="run `make setup`")
    return "".join(
        f"Types: deb\nURIs: {where.live[archive]}\nSuites: {suite}\nComponents: {' '.join(COMPONENTS)}\n"
        f"Signed-By: {keyring}\n\n"
        for suite, archive in POCKETS.items()
    )


@contextlib.contextmanager
def _locked_source(state: Path, apt: Apt, old: Lock, update: Update, pool: Pool) -> Iterator[str]:
    """A source of what is locked, may not move and is in the pool: it may have left the mirror."""
    kept = [package for package in old.packages if not update.frees(package.name)]
    absent = {package.name for package in pool.missing(kept)}
    kept = [package for package in kept if package.name not in absent]
    folder = state / "locked"
    shutil.rmtree(folder, ignore_errors=True)
    if not kept:
        yield ""
        return
    folder.mkdir(parents=True)
    try:
        make_repository(pool, kept, folder, suite=_LOCKED_SUITE, epoch=old.epoch)
        yield f"Types: deb\nURIs: copy://{apt.inside}/locked\nSuites: {_LOCKED_SUITE}\nComponents: main\nTrusted: yes\n"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unlisted(lists: Path, old: Lock | None, update: Update, pool: Pool) -> list[LockedPackage]:
    """What is locked and may not move, but is neither in the pool nor in a package list."""
    kept = pool.missing([package for package in old.packages if not update.frees(package.name)] if old else [])
    if not kept:
        return []
    listed: set[str] = set()
    for path in lists.glob("*_Packages"):
        listed.update(re.findall(r"^SHA256: ([0-9a-f]{64})$", path.read_text(), re.MULTILINE))
    return [package for package in kept if package.sha256 not in listed]


def _preferences(old: Lock | None, update: Update) -> str:
    kept = [package for package in old.packages if not update.frees(package.name)] if old else []
    return "".join(f"Package: {p.name}\nPin: version {p.version}\nPin-Priority: 1001\n\n" for p in kept)


_Row = tuple[str, str, int, str]


def _choose(apt: Apt, wanted: dict[str, RoleRequest]) -> dict[str, list[_Row]]:
    """Role → (address, file name, size, sha256) of each package; a role's set contains its parent's."""
    chosen: dict[str, list[_Row]] = {}

    def one(role: str) -> list[_Row]:
        request = wanted[role]
        names = [*_ESSENTIAL, *request.request]
        if request.parent:
            names += [file.partition("_")[0] for _, file, _, _ in chosen[request.parent]]
        try:
            text = apt.run("apt-get", "install", "--print-uris", "--yes", "--quiet=1", *names)
        except ProcessFailed as error:
            unknown = re.findall(
                r"Unable to locate package (\S+)|Package '?(\S+?)'? has no inst", error.completed.stderr
            )
            if unknown:
                name = next(filter(None, unknown[0]))
                raise MissingError(
                    "lock.unknown", f"no pocket has a package {name!r}", where=f"images/{role}/mkosi.conf"
                ) from error
            reasons = error.completed.stdout.strip().splitlines()[-20:]  # apt says here what needs what
            raise BacklineError(
                "lock.conflict",
                "\n".join([f"apt cannot resolve {role}", *reasons, error.message]),
                where=f"images/{role}/mkosi.conf",
            ) from error
        return [(m[1], m[2], int(m[3]), m[4]) for m in _URI.finditer(text)]

    left = dict(wanted)
    while left:
        ready = [role for role, request in left.items() if request.parent is None or request.parent in chosen]
        if not ready:
            raise InputError("image.include", f"images include each other in a circle: {', '.join(sorted(left))}")
        with ThreadPoolExecutor() as executor:
            for role, rows in zip(ready, executor.map(one, ready), strict=True):
                chosen[role] = rows
                del left[role]
    return chosen


def _stanzas(lists: Path, hashes: set[str]) -> dict[str, dict[str, str]]:
    """SHA-256 → control fields, from the package lists apt downloaded and verified."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(lists.glob("*_Packages")):
        if f"dists_{_LOCKED_SUITE}_" in path.name:
            continue  # what is locked says of itself where it came from
        for block in path.read_text().split("\n\n"):
            start = block.rfind("\nSHA256: ")
            digest = block[start + 9 : start + 73]
            if start >= 0 and digest in hashes and digest not in found:
                fields = re.findall(r"^(Package|Version|Architecture|Source|Filename|Size): (.*)$", block, re.MULTILINE)
                found[digest] = dict(fields) | {"list": path.name}
    return found


def _packages(
    chosen: dict[str, list[_Row]], stanzas: dict[str, dict[str, str]], old: Lock | None
) -> list[LockedPackage]:
    before = {package.sha256: package for package in old.packages} if old else {}
    holders: dict[str, list[str]] = {}
    for role, rows in chosen.items():
        for row in rows:
            holders.setdefault(row[3], []).append(role)
    packages = []
    for digest, holding in holders.items():
        if digest in before:  # its path may be the pool's, which says nothing
            old_one = before[digest]
            packages.append(_with_roles(old_one, holding))
            continue
        fields = stanzas[digest]
        source, _, rest = fields.get("Source", fields["Package"]).partition(" ")
        packages.append(
            LockedPackage(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                size=int(fields["Size"]),
                sha256=digest,
                path=fields["Filename"],
                archive=_archive_of(fields["list"]),
                source=source,
                source_version=rest.strip("()") or fields["Version"],
                roles=sorted(holding),
            )
        )
    packages.sort(key=lambda package: package.name)
    for one, two in itertools.pairwise(packages):
        if one.name == two.name:
            raise BacklineError("lock.versions", f"{one.name} was resolved to {one.version} and {two.version}")
    return packages


def _archive_of(name: str) -> str:
    """The archive whose package list has this file name: apt makes it of the address, which may hold any word."""
    return next(archive for suite, archive in POCKETS.items() if f"_dists_{suite}_" in name)


def _with_roles(package: LockedPackage, roles: list[str]) -> LockedPackage:
    import msgspec

    return msgspec.structs.replace(package, roles=sorted(roles))


def _refuse_moves(packages: list[LockedPackage], old: Lock | None, update: Update) -> None:
    found = {package.name: package for package in packages}
    for was in old.packages if old else []:
        now = found.get(was.name)
        if now and now.version != was.version and not update.frees(was.name):
            raise MissingError(
                "lock.left",
                f"{was.name} {was.version} left the mirror and is not in the pool; the mirror has {now.version}",
                hint=f"run `build lock --update {was.name}`",
            )


def _pockets(lists: Path, where: mirrors.Mirrors) -> list[Pocket]:
    pockets = []
    for suite, archive in POCKETS.items():
        name = re.sub(r"^\w+://(.*@)?", "", where.live[archive]).replace("/", "_") + f"dists_{suite}_InRelease"
        candidates = [path for path in lists.glob(f"*dists_{suite}_InRelease") if path.name.lower() == name.lower()]
        path = (candidates or sorted(lists.glob(f"*dists_{suite}_InRelease")))[0]
        data = path.read_bytes()
        date = re.search(rb"^Date: (.*)$", data, re.MULTILINE)
        if date is None:
            raise MissingError("lock.release", f"the release file of {suite} has no date")
        seconds = int(parsedate_to_datetime(date[1].decode().replace("UTC", "GMT")).timestamp())
        pockets.append(Pocket(archive, suite, COMPONENTS, seconds, hashlib.sha256(data).hexdigest()))
    return pockets


def tools_tree_id(pool: Pool, locked: Lock, cache: Path) -> str:
    """Make the tools tree of a new lock and return its tree id; the tree itself stays in the cache for builds."""
    cache.mkdir(parents=True, exist_ok=True)
    packages = locked.of(tools.ROLE)
    with tempfile.TemporaryDirectory(dir=cache, prefix="tools-") as folder:
        root = Path(folder) / "tree"
        found = tools.unpack(pool, packages, root, epoch=locked.epoch)
        final = cache / "tools" / tools.key(packages)
        if not trees.usable(final):
            tools.compile_python(root)
            trees.keep(root, final)
        return found


def wheels(root: Path, sets: dict[str, str], tree: Path) -> list[LockedWheel]:
    """The wheel file that pip in the tools tree chooses for every requirement of every set.

    Raises MissingError("lock.wheel") when a requirement has no wheel or the index is out of reach.
    """
    import msgspec

    from builder.wheels import pip

    def report(name: str) -> str:
        words = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-")
        return pip(tree, root, *words, requirements=name)

    found: dict[str, LockedWheel] = {}
    with ThreadPoolExecutor() as executor:
        reports = dict(zip(sets, executor.map(report, sets), strict=True))
    for name, text in reports.items():
        items = msgspec.json.decode(text)["install"]
        for item in items:
            file = item["download_info"]["url"].rpartition("/")[2].partition("#")[0]
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            metadata = item["metadata"]
            sets_of = [*(found[file].sets if file in found else []), name]
            found[file] = LockedWheel(
                name=metadata["name"], version=metadata["version"], file=file, sha256=digest, sets=sets_of
            )
    return sorted(found.values(), key=lambda wheel: wheel.file)
