"""Garbage collection: what may be deleted from store and cache, why the rest is kept, and the deleting.

Promises: what is current, published, pinned, in use or young is never deleted, nor is anything of a role whose roots
cannot be read; that is looked at again right before each deletion. Deleting writes nothing first (a rename, then
unlinks), so it works on a full disk, and a kill in the middle leaves only leftovers for the next run.

`gather` reads the facts, `plan` is a pure function of them, `execute` carries a plan out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from builder.aside import disk_bytes, disk_errors, remove_tree, sync
from builder.locking import try_lock
from builder.store import Problem, Store
from builder.wanted import EVERY_ROLE, Roots
from services.common.errors import BacklineError, MissingError
from services.common.manifest import NAME as MANIFEST
from services.common.versions import Ref, human, valid_version

DAY = 86400.0
GRACE = 3600.0
"""Seconds that a pool file is kept after it was written: a fetch may be under way for a lock that nobody passed yet."""
FOLDERS = ("layers", "tools", "wheels")
_DELETED = ".deleted-"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_POOL_FILE = re.compile(r"([0-9a-f]{64})(\.[A-Za-z0-9.]+)?")


class Version(msgspec.Struct, frozen=True):
    """A version in the store; `added` in seconds since 1970; `hashes` of the packages and wheels inside."""

    ref: Ref
    path: str
    bytes: int
    added: float
    hashes: frozenset[str] = frozenset()
    in_use: bool = False


class Cached(msgspec.Struct, frozen=True):
    """A folder of the cache; `kind` is one of FOLDERS; `used` in seconds since 1970."""

    kind: str
    id: str
    path: str
    bytes: int
    used: float
    in_use: bool = False


class Pooled(msgspec.Struct, frozen=True):
    """A file of the pool; `written` in seconds since 1970."""

    sha256: str
    path: str
    bytes: int
    written: float
    partial: bool = False


class Leftover(msgspec.Struct, frozen=True):
    """What a dead process left behind."""

    path: str
    bytes: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a plan depends on."""

    now: float
    versions: tuple[Version, ...] = ()
    roots: Roots = Roots({}, {})
    cached: tuple[Cached, ...] = ()
    pooled: tuple[Pooled, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    problems: tuple[Problem, ...] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What to keep besides roots.

    What is younger than `days`; the cache folders `keep`, by id, of any kind; the pool files `keep_hashes`, to which
    those of kept versions are added. Where no lock could be read these are None: then pool files go only by age, too.
    """

    days: float = 14
    keep: frozenset[str] = frozenset()
    keep_hashes: frozenset[str] | None = None


class Item(msgspec.Struct, frozen=True):
    """One thing that is kept or deleted; `kind` is "version", "leftover", "pool", or one of FOLDERS."""

    kind: str
    name: str
    path: str
    bytes: int
    why: str


class Plan(msgspec.Struct, frozen=True):
    """What `execute` will do. Bytes are those on disk."""

    delete: list[Item]
    keep: list[Item]
    problems: list[Problem]
    days: float

    @property
    def bytes(self) -> int:
        """What deleting frees."""
        return sum(item.bytes for item in self.delete)


class Done(msgspec.Struct, frozen=True):
    """What was deleted, and what of the plan was not, and why not."""

    deleted: list[Item]
    skipped: list[Item]

    @property
    def bytes(self) -> int:
        """What deleting freed."""
        return sum(item.bytes for item in self.deleted)


# Planning


def _age(seconds: float) -> str:
    days = seconds / DAY
    if days < 0:
        return "dated in the future"
    return f"{days:.0f} days old" if days >= 2 else f"{days * 24:.0f} hours old"


def reasons_to_keep(version: Version, facts: Facts, policy: Policy) -> list[str]:
    """Why a version is kept; nothing when it may be deleted. A date in the future counts as young."""
    reasons = list(facts.roots.reasons.get(version.ref.version, []))
    for role in (EVERY_ROLE, version.ref.role):
        if role in facts.roots.unreadable:
            reasons.append(f"unknown: {facts.roots.unreadable[role]}")
    if version.in_use:
        reasons.append("in use")
    age = facts.now - version.added
    if age < policy.days * DAY:
        reasons.append(_age(age))
    return reasons


def plan(facts: Facts, policy: Policy) -> Plan:
    """Decide. Everything in `facts` is in the plan once, kept or deleted; leftovers go first, then the oldest."""
    delete: list[Item] = []
    keep: list[Item] = []

    def decide(item: Item, reasons: list[str], otherwise: str) -> None:
        (keep if reasons else delete).append(msgspec.structs.replace(item, why=", ".join(reasons) or otherwise))

    for leftover in facts.leftovers:
        item = Item("leftover", Path(leftover.path).name, leftover.path, leftover.bytes, "")
        decide(item, [], "its process is dead")
    hashes = set(policy.keep_hashes or ())
    pool_days = policy.days * DAY if policy.keep_hashes is None else GRACE
    for version in sorted(facts.versions, key=lambda version: (version.added, version.ref)):
        reasons = reasons_to_keep(version, facts, policy)
        if reasons:
            hashes |= version.hashes
        item = Item("version", str(version.ref), version.path, version.bytes, "")
        decide(item, reasons, f"{_age(facts.now - version.added)}, nobody wants it")
    for cached in sorted(facts.cached, key=lambda cached: (cached.used, cached.kind, cached.id)):
        age = facts.now - cached.used
        reasons = ["wanted"] * (cached.id in policy.keep) + ["in use"] * cached.in_use
        reasons += ["used recently"] * (age < policy.days * DAY)
        item = Item(cached.kind, cached.id, cached.path, cached.bytes, "")
        decide(item, reasons, f"last used {_age(age).replace(' old', ' ago')}")
    for pooled in sorted(facts.pooled, key=lambda pooled: pooled.path):
        age = facts.now - pooled.written
        reasons = ["locked"] * (pooled.sha256 in hashes and not pooled.partial)
        if age < (policy.days * DAY if pooled.partial else max(pool_days, GRACE)):
            reasons.append("written recently" if not pooled.partial else "an unfinished download")
        item = Item("pool", Path(pooled.path).name, pooled.path, pooled.bytes, "")
        decide(item, reasons, "no lock or kept version names it")
    return Plan(delete, keep, list(facts.problems), policy.days)


# Reading the facts


def gather(store: Store, cache: Path | None, *, now: float | None = None) -> Facts:
    """Read store and cache (None: the store alone). Takes no lock for longer than a moment, and changes nothing.

    Names with a dot in front are made aside in the cache: after a day nobody is at it any more.
    """
    moment = time.time() if now is None else now
    with disk_errors(store.root):
        # Roots after versions: a version that comes in between is not listed, a root that comes is seen.
        listing = store.listing()
        versions = tuple(
            Version(
                stored.ref,
                stored.path,
                disk_bytes(Path(stored.path)),
                stored.added,
                _hashes(store, stored.ref),
                _in_use(Path(stored.path)),
            )
            for stored in listing.versions
        )
        roots = store.wanted.roots()
        leftovers = store.aside.leftovers() + [path for path in _half_deleted(store) if not _wanted(path, roots)]
        cached: list[Cached] = []
        pooled: list[Pooled] = []
        if cache is not None:
            for kind in FOLDERS:
                for path in _entries(cache / kind):
                    if path.name.startswith("."):
                        if path.name.startswith(_DELETED) or (moment - path.lstat().st_ctime > DAY):
                            leftovers.append(path)
                    elif path.is_dir() and not path.is_symlink() and _ID.fullmatch(path.name):
                        cached.append(_cached(kind, path))
            pooled = [found for path in _entries(cache / "pool" / "sha256") for found in _pooled(path)]
        return Facts(
            now=moment,
            versions=versions,
            roots=roots,
            cached=tuple(cached),
            pooled=tuple(pooled),
            leftovers=tuple(Leftover(str(path), disk_bytes(path)) for path in leftovers),
            problems=tuple(listing.problems),
        )


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder.iterdir())
    return []


def _half_deleted(store: Store) -> list[Path]:
    """Version folders without a manifest: versions come in whole, so these were going when a process died."""
    return [
        path
        for role in _entries(store.images)
        for path in _entries(role)
        if valid_version(path.name) and path.is_dir() and not path.is_symlink() and not (path / MANIFEST).exists()
    ]


def _wanted(path: Path, roots: Roots) -> list[str]:
    """The reasons to keep the version folder `path`."""
    held = [roots.unreadable[role] for role in (EVERY_ROLE, path.parent.name) if role in roots.unreadable]
    return roots.reasons.get(path.name, []) + held


def _hashes(store: Store, ref: Ref) -> frozenset[str]:
    """What is in a version, and what building it again takes, as far as its sources can be read."""
    from builder import sources

    manifest = store.manifest(ref.role, ref.version)
    inside = frozenset([one.sha256 for one in manifest.packages] + [one.sha256 for one in manifest.wheels])
    with contextlib.suppress(BacklineError):
        return inside | sources.needed(store, ref)
    return inside


def stamp_of(folder: Path) -> Path:
    """The file beside a cache folder whose time says when it was last used."""
    return folder.with_name(f"{folder.name}.used")


def touch_used(folder: Path) -> None:
    """Note that a cache folder is used now. On a full disk the note is lost, and the work goes on."""
    with contextlib.suppress(OSError):
        stamp_of(folder).touch()


@contextlib.contextmanager
def using(folder: Path) -> Iterator[Path]:
    """Use a cache folder for a block: noted as used, and not deleted meanwhile.

    Raises MissingError("cache.gone") when it was deleted before we could hold it: make it again.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MissingError("cache.gone", "is not in the cache", where=str(folder)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise MissingError("cache.gone", "was just deleted from the cache", where=str(folder))
        touch_used(folder)
        yield folder
    finally:
        os.close(descriptor)


def _cached(kind: str, path: Path) -> Cached:
    try:
        used = stamp_of(path).stat().st_mtime
    except FileNotFoundError:
        used = path.stat().st_ctime  # mtime may be the epoch of the build
    return Cached(kind, path.name, str(path), disk_bytes(path), used, _in_use(path))


def _pooled(folder: Path) -> Iterator[Pooled]:
    for path in _entries(folder):
        match = _POOL_FILE.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):
            info = path.lstat()
            if match is not None:
                partial = path.name.endswith(".part")
                yield Pooled(match[1], str(path), info.st_blocks * 512, info.st_mtime, partial)


def _in_use(path: Path) -> bool:
    with _held(path) as ours:
        return not ours


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a folder for a block against all users; False when someone uses it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


# Deleting


def execute(plan: Plan, store: Store, *, progress: Callable[[Item], None] | None = None) -> Done:
    """Delete what the plan says, in its order. What has become wanted or used meanwhile is skipped, and named.

    Deletes on a full disk. An item that cannot be deleted is skipped with the reason; the others are deleted.
    """
    deleted: list[Item] = []
    skipped: list[Item] = []
    for item in plan.delete:
        try:
            with disk_errors(store.root):
                reason = _delete(item, store)
        except BacklineError as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror or str(error)
        if reason is None:
            deleted.append(item)
        else:
            skipped.append(msgspec.structs.replace(item, why=reason))
        if progress is not None:
            progress(item)
    return Done(deleted, skipped)


def _delete(item: Item, store: Store) -> str | None:
    """Delete one item; or return why it may not be deleted any more."""
    path = Path(item.path)
    if item.kind == "pool":
        path.unlink(missing_ok=True)
        return None
    if item.kind == "leftover":
        if path.is_dir() and not path.is_symlink():
            with _held(path) as ours:
                if not ours and path.exists():
                    return "in use"
                if path.is_relative_to(store.images) and (path / MANIFEST).exists():
                    return "it is a version by now"
                remove_tree(path)
        else:
            path.unlink(missing_ok=True)
        return None
    with _held(path) as ours:
        if not ours:
            return "in use" if path.exists() else None
        if item.kind == "version":
            # Whoever writes a pointer to a version holds it (`Store.use`), so this cannot change until we are done.
            if reasons := _wanted(path, store.wanted.roots()):
                return ", ".join(reasons)
            aside = store.aside.root / f"{os.getpid()}-{secrets.token_hex(6)}"
            path.chmod(0o755)
        else:
            stamp_of(path).unlink(missing_ok=True)
            aside = path.with_name(f"{_DELETED}{os.getpid()}-{secrets.token_hex(6)}")
        store.hook(f"rename {item.name}")
        remove_tree(_put_aside(path, aside))
    return None


def _put_aside(path: Path, aside: Path) -> Path:
    """Rename `path` to `aside`, on disk, and return where it is now: in place, no longer a version, without room."""
    try:
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
        sync(path.parent)  # else its files might go before it does
        return aside
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        (path / MANIFEST).unlink(missing_ok=True)
        return path


# Rendering


def _group(items: Collection[Item], *, verb: str) -> Iterator[str]:
    width = max((len(item.name) for item in items), default=0)
    for item in items:
        yield f"{verb} {item.kind:<8} {item.name:<{width}}  {human(item.bytes):>10}  {item.why}"


def _pool_line(items: list[Item], verb: str) -> Iterator[str]:
    if items:
        yield f"{verb} {len(items)} files of the pool, {human(sum(item.bytes for item in items))}"


def _lines(items: list[Item], *, verb: str) -> Iterator[str]:
    yield from _group([item for item in items if item.kind != "pool"], verb=verb)
    yield from _pool_line([item for item in items if item.kind == "pool"], verb)


def render(plan: Plan) -> str:
    """The plan as text: what is kept and why, what would be deleted, how much that frees. Pool files are counted."""
    lines = [*_lines(plan.keep, verb="keep  "), *_lines(plan.delete, verb="delete")]
    lines += [f"note   {problem.path}: {problem.message}" for problem in plan.problems]
    lines.append(f"{len(plan.delete)} to delete, {human(plan.bytes)}; {len(plan.keep)} kept")
    return "\n".join(lines) + "\n"


def render_done(done: Done) -> str:
    """What was done, as text."""
    lines = [*_lines(done.deleted, verb="deleted"), *_lines(done.skipped, verb="skipped")]
    lines.append(f"{len(done.deleted)} deleted, {human(done.bytes)} freed")
    return "\n".join(lines) + "\n"
