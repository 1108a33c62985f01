"""`build gc`: gathers what is there, plans, and deletes; never while a build is at work on the same caches."""

from __future__ import annotations

from builder import config, gc, recipe, tools
from builder.image import Shop
from builder.locking import exclusive
from services.common.errors import BacklineError


def policy(shop: Shop, days: int) -> gc.Policy:
    """What the checkout's lock still needs is kept, whatever its age. Without a usable lock only age counts."""
    try:
        locked = shop.lock
        hashes = {package.sha256 for package in locked.packages} | {wheel.sha256 for wheel in locked.wheels}
        keep = {tools.key(locked.of(tools.ROLE))}
        for role in config.published(shop.root):
            keep |= {recipe.layer_id(sections) for sections in recipe.of_layers(shop.root, role, locked).values()}
    except BacklineError as error:
        shop.progress.note(
            f"the lock is not looked at ({error.message.splitlines()[0]}): the pool is kept by age alone"
        )
        return gc.Policy(days=days)
    return gc.Policy(days=days, keep=frozenset(keep), keep_hashes=frozenset(hashes))


def collect(shop: Shop, *, days: int, dry_run: bool) -> tuple[gc.Plan | gc.Done, str]:
    """Plan, and unless `dry_run` delete; the document and its text."""
    rules = policy(shop, days)
    with exclusive(shop.settings.cache_path / "build.lock", what="a build", notify=shop.progress.note):
        plan = gc.plan(gc.gather(shop.store, shop.settings.cache_path), rules)
        if dry_run:
            return plan, gc.render(plan)
        with shop.progress.step("deleting", total=plan.bytes, unit="B") as step:
            done = gc.execute(plan, shop.store, progress=lambda item: step.advance(item.bytes))
    return done, gc.render_done(done)
