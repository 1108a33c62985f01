"""`build lock`: resolve, make the tools tree, choose the wheels, and write the lock in one rename."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from builder import config, fetch, lock, mirrors, resolve, tools
from builder.image import Shop, require_root
from builder.lock import Lock
from builder.pool import Pool
from builder.resolve import Update
from services.common.errors import BacklineError, InputError, UsageError, nearest


class LockReport(msgspec.Struct, frozen=True):
    """What `build lock` did: lines as `builder.lock.changes` gives them, and the lock's date (yyyymmdd)."""

    path: str
    changed: bool
    date: str
    packages: int
    wheels: int
    changes: list[str]


def read_old(path: Path) -> Lock | None:
    """The lock that is there, None for none. A broken one is an error: it is never thrown away silently."""
    return lock.load(path) if path.exists() else None


def check(shop: Shop) -> LockReport:
    """Whether the lock fits the configuration, offline. Raises InputError("lock.stale") when it does not."""
    locked = shop.lock
    resolve.require_fresh(shop.root, locked)
    for role in config.roles(shop.root):
        image = config.load(shop.root, role)
        have = {package.name for package in locked.of(role)}
        absent = sorted(set(image.packages) - have)
        if absent:
            raise InputError("lock.stale", f"{role}: {', '.join(absent)} is not locked", hint="run `build lock`")
    if lock.encode(locked).encode() != shop.lock_path.read_bytes():
        raise InputError("lock.form", "not in its canonical form", where=str(shop.lock_path), hint="run `build lock`")
    return _report(shop.lock_path, locked, locked)


def update(shop: Shop, what: Update) -> LockReport:
    """Resolve again and write the lock when something changed.

    Raises UsageError("lock.name") for a name to update that is not locked, and what `builder.resolve` raises.
    """
    require_root()
    old = read_old(shop.lock_path)
    if old:
        known = [package.name for package in old.packages]
        for name in sorted(what.names):
            if name not in known:
                raise UsageError("lock.name", f"no package {name!r} in the lock", hint=nearest(name, known))
    new = resolve_all(shop, old, what)
    report = _report(shop.lock_path, old, new)
    if report.changed:
        write(shop.lock_path, new)
    return report


def resolve_all(shop: Shop, old: Lock | None, what: Update) -> Lock:
    """A whole new lock: packages, tools tree id and wheels."""
    cache = shop.settings.cache_path
    cache.mkdir(parents=True, exist_ok=True)
    pool = Pool(cache / "pool")
    where = mirrors.discover(shop.settings, epoch=old.epoch if old else None)
    tree = _old_tools(shop, old, pool, where)
    wanted = resolve.requirement_hashes(shop.root)
    choose = old is None or what.everything or old.requirements != wanted or not old.wheels
    with ThreadPoolExecutor(max_workers=1) as executor:
        # Beside apt, in the tools tree of before: nearly always it is that of the new lock too.
        early = executor.submit(resolve.wheels, shop.root, wanted, tree) if choose and tree is not None else None
        with shop.progress.step("resolving packages"):
            new = resolve.resolve(shop.root, old=old, update=what, where=where, pool=pool, cache=cache, tree=tree)
        needed = pool.missing(new.of(tools.ROLE))
        with shop.progress.step("fetching tools", total=sum(package.size for package in needed), unit="B") as step:
            fetch.fetch_packages(pool, needed, where, advance=step.advance)
        same_tools = (
            old is not None
            and tree is not None
            and tools.key(old.of(tools.ROLE)) == tools.key(new.of(tools.ROLE))
            and old.epoch == new.epoch
        )
        if same_tools and old is not None:
            new = msgspec.structs.replace(new, tools_tree=old.tools_tree)
        else:
            with shop.progress.step("making the tools tree"):
                new = msgspec.structs.replace(new, tools_tree=resolve.tools_tree_id(pool, new, cache))
        if old is not None and not choose:
            return msgspec.structs.replace(new, wheels=old.wheels)
        with shop.progress.step("choosing wheels"):
            if early is not None and same_tools:
                return msgspec.structs.replace(new, wheels=early.result())
            tree = tools.ensure(pool, new, cache)
            return msgspec.structs.replace(new, wheels=resolve.wheels(shop.root, wanted, tree))


def _old_tools(shop: Shop, old: Lock | None, pool: Pool, where: mirrors.Mirrors) -> Path | None:
    """The tools tree of the old lock: apt runs in it. Without one, or when it is gone, the host's apt has to do."""
    if old is None:
        return None
    packages = old.of(tools.ROLE)
    try:
        fetch.fetch_packages(pool, packages, where, advance=lambda _: None)
        return tools.ensure(pool, old, shop.settings.cache_path)
    except BacklineError as error:
        shop.progress.note(
            f"the locked tools cannot be used ({error.message.splitlines()[0]}): the host's apt resolves"
        )
        return None


def write(path: Path, new: Lock) -> None:
    """Write a lock in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w") as file:
            file.write(lock.encode(new))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def _report(path: Path, old: Lock | None, new: Lock) -> LockReport:
    return LockReport(
        path=str(path),
        changed=old is None or lock.encode(old) != lock.encode(new),
        date=new.date,
        packages=len(new.packages),
        wheels=len(new.wheels),
        changes=lock.changes(old, new),
    )
