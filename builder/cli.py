"""`build`, also `backline build`: lock, fetch, build, check, compare, keep and sign images.

Every verb has --json: one JSON document on standard output. Progress and errors go to standard error. Exit codes are
those of `services.common.errors.Exit`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

import msgspec

from services.common.errors import Exit, MissingError, UsageError

SUMMARY = "make images: lock, fetch, build, check, compare, keep, sign"

_EPILOG = """\
exit codes: 0 done, 1 different (check), 2 usage, 3 a file of yours is wrong, 4 something is missing or out of
reach, 5 hash or signature is wrong, 6 a program failed, 7 this machine cannot (root, disk), 8 someone else is at it
"""


def _roles(prefix: str = "", **_: object) -> list[str]:
    from builder import config, settings

    return [role for role in config.published(settings.source_root()) if role.startswith(prefix)]


def _versions(prefix: str = "", **_: object) -> list[str]:
    from builder import settings
    from builder.store import Store

    return [ref.version for ref in Store(settings.load().store_path).refs() if ref.version.startswith(prefix)]


def _names(prefix: str = "", **_: object) -> list[str]:
    return [*_roles(prefix), *_versions(prefix)]


def _add(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.add_argument("--json", action="store_true", help="print one JSON document")
    verb.set_defaults(run=run)
    return verb


def _complete(action: argparse.Action, completer: Callable[..., list[str]]) -> None:
    action.completer = completer  # type: ignore[attr-defined]  # argcomplete's own protocol


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `build`."""
    top = argparse.ArgumentParser(
        prog=prog, description=SUMMARY, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--quiet", action="store_true", help="no progress")
    for name, text in (
        ("mirror", "base address of the Debian archive (default: the host's apt configuration)"),
        ("security-mirror", "base address of the security archive (default: the host's apt configuration)"),
        ("snapshot", "address with {archive} and {stamp} to try for packages that left the mirror"),
        ("store", "folder of finished versions"),
        ("cache", "folder of pool, layers and tools trees"),
    ):
        top.add_argument(f"--{name}", metavar="FOLDER" if text.startswith("folder") else "ADDRESS", help=text)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = _add(verbs, "image", run_image, "build roles that are not in the store yet, and print their paths")
    _complete(verb.add_argument("role", nargs="+", metavar="ROLE", help="gw, rhfs, nfsroot..."), _roles)
    verb.add_argument("--verbose", action="store_true", help="show mkosi's own output when it is done")

    verb = _add(
        verbs, "check", run_check, "build a role or version again under other conditions and compare every byte"
    )
    _complete(verb.add_argument("name", metavar="ROLE|VERSION"), _names)

    verb = _add(verbs, "lock", run_lock, "resolve packages and wheels into images/images.lock; what is locked stays")
    verb.add_argument("--update", nargs="*", metavar="PKG", help="move these packages, or all when none is named")
    verb.add_argument("--check", action="store_true", help="only say whether the lock fits the configuration (offline)")

    verb = _add(verbs, "fetch", run_fetch, "download what the lock names into the pool")
    _complete(verb.add_argument("role", nargs="*", help="only what these roles need"), _roles)

    verb = _add(verbs, "plan", run_plan, "show what a role would be built from, and its version, without building")
    _complete(verb.add_argument("role"), _roles)

    verb = _add(verbs, "list", run_list, "list the versions in the store")
    _complete(verb.add_argument("role", nargs="?"), _roles)

    verb = _add(verbs, "show", run_show, "show one version: identities, files, signatures")
    _complete(verb.add_argument("version", metavar="VERSION"), _names)
    verb.add_argument("--verify", action="store_true", help="hash every file and check the signatures")

    for name, run, text in (
        ("diff", run_diff, "compare two versions: packages, files, sizes"),
        ("why", run_why, "say which inputs make two versions differ, and what followed from it"),
    ):
        verb = _add(verbs, name, run, text)
        _complete(verb.add_argument("first", metavar="A"), _versions)
        _complete(verb.add_argument("second", metavar="B"), _versions)

    verb = _add(verbs, "sbom", run_sbom, "print a version's bill of materials (CycloneDX)")
    _complete(verb.add_argument("version", metavar="VERSION"), _names)

    verb = _add(verbs, "sign", run_sign, "sign a version with your key")
    _complete(verb.add_argument("version", metavar="VERSION"), _names)

    for name, run, text in (
        ("pin", run_pin, "keep a version whatever `gc` thinks"),
        ("unpin", run_unpin, "let a version go again"),
    ):
        verb = _add(verbs, name, run, text)
        verb.add_argument("name", help="name of the pin")
        if name == "pin":
            _complete(verb.add_argument("version", metavar="VERSION"), _versions)

    verb = _add(verbs, "gc", run_gc, "delete versions and caches that nothing needs")
    verb.add_argument("--dry-run", action="store_true", help="only say what would go, and how much")
    verb.add_argument("--days", type=int, default=14, help="keep what is younger (default: %(default)s)")

    verb = _add(verbs, "keys", run_keys, "make, list and rotate signing keys")
    what = verb.add_subparsers(dest="what", required=True, metavar="WHAT")
    new = what.add_parser("new", help="make a key and trust it")
    new.add_argument("name")
    listing = what.add_parser("list", help="list keys and trusted signers")
    default = what.add_parser("default", help="choose the key that signs")
    default.add_argument("name")
    trust = what.add_parser("trust", help="trust a key that came another way: an agent's .pub in the keys' folder")
    trust.add_argument("name")
    rotate = what.add_parser("rotate", help="make a new key; the old one stays trusted for a while")
    rotate.add_argument("old")
    rotate.add_argument("new")
    rotate.add_argument("--days", type=int, default=30, help="overlap (default: %(default)s)")
    for each in (new, rotate):
        each.add_argument("--passphrase", action="store_true", help="ask for a passphrase on the terminal")
    for each in (new, listing, default, trust, rotate):
        each.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    return top


def _shop(arguments: argparse.Namespace) -> object:
    from builder import settings
    from builder.image import Shop
    from services.common.progress import Progress

    names = ("mirror", "security_mirror", "snapshot", "store", "cache")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return Shop.open(settings.load(given), Progress(quiet=arguments.quiet))


def _print(arguments: argparse.Namespace, document: object, text: str) -> None:
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    elif text:
        print(text.rstrip("\n"))


def run_image(arguments: argparse.Namespace) -> int:
    """`build image ROLE...`: each version's path on standard output, in the order asked."""
    from builder.image import Shop, build, plan

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    for role in arguments.role:  # every mistake is said before the first minute is spent
        plan(shop, role)
    rows = []
    for role in dict.fromkeys(arguments.role):
        built = build(shop, role)
        rows.append({"role": role, "version": built.ref.version, "path": str(built.path), "built": built.fresh})
        if not arguments.json:
            print(built.path, flush=True)
        if arguments.verbose and built.fresh:
            sys.stderr.write((shop.settings.cache_path / "logs" / f"{role}.log").read_text(errors="replace"))
    if arguments.json:
        _print(arguments, rows, "")
    return Exit.OK


def run_check(arguments: argparse.Namespace) -> int:
    """`build check ROLE|VERSION`."""
    from builder import check, config, sources
    from builder.image import Shop, require_root

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    require_root()
    if arguments.name in config.published(shop.root):
        role = arguments.name
    else:
        try:
            ref = shop.store.resolve(arguments.name)
        except MissingError:
            if not re.fullmatch(r".*/.*|[0-9a-f.]+", arguments.name):  # nothing like a version: a role, mistyped
                config.require_role(shop.root, arguments.name)
            raise
        if not check.describes(shop, ref):
            shop.progress.note(f"{ref} is not of this checkout: built again from its own sources, by its own builder")
            options = ["--quiet"] * arguments.quiet
            return sources.run_again(shop, ref, *options, "check", ref.role, *["--json"] * arguments.json)
        role = ref.role
    report = check.check(shop, role)
    _print(arguments, report, check.render(report))
    return Exit.OK if report.same else Exit.DIFFERENT


def run_lock(arguments: argparse.Namespace) -> int:
    """`build lock [--update [PKG...]] [--check]`."""
    from builder import relock
    from builder.image import Shop
    from builder.resolve import Update

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    if arguments.check:
        if arguments.update is not None:
            raise UsageError("lock.usage", "--check changes nothing: it does not go with --update")
        report = relock.check(shop)
    else:
        names = arguments.update
        what = Update(everything=names == [], names=frozenset(names or []))
        report = relock.update(shop, what)
    text = "\n".join(report.changes) + ("\n" if report.changes else "")
    state = "written" if report.changed else "up to date"
    text += f"{report.path}: {state}, {report.packages} packages, {report.wheels} wheels of {report.date}"
    _print(arguments, report, text)
    return Exit.OK


def run_fetch(arguments: argparse.Namespace) -> int:
    """`build fetch [ROLE...]`."""
    from builder import config
    from builder.image import Shop, fetch

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    roles = arguments.role or config.published(shop.root)
    for role in roles:
        config.require_role(shop.root, role)
    count = fetch(shop, roles)
    _print(arguments, {"fetched": count}, f"{count} files fetched" if count else "everything is in the pool")
    return Exit.OK


def run_plan(arguments: argparse.Namespace) -> int:
    """`build plan ROLE`: the recipe, and whether the store has it."""
    from builder import recipe
    from builder.image import Shop, plan

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    wanted = plan(shop, arguments.role)
    version = recipe.version(wanted, shop.lock)
    there = shop.store.have(arguments.role, version)
    document = {"version": version, "recipe_id": wanted.identity, "in_store": there, "recipe": wanted.sections}
    counts = "\n".join(f"  {name:<9} {len(rows)}" for name, rows in wanted.sections.items())
    state = "is in the store" if there else "would be built"
    _print(arguments, document, f"{arguments.role}/{version} {state}, from\n{counts}")
    return Exit.OK


def run_list(arguments: argparse.Namespace) -> int:
    """`build list [ROLE]`."""
    from datetime import datetime

    from builder import config
    from builder.image import Shop
    from services.common.versions import human

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    listing = shop.store.listing()
    if arguments.role and arguments.role not in {row.role for row in listing.versions}:
        config.require_role(shop.root, arguments.role)
    rows = [row for row in listing.versions if arguments.role in (None, row.role)]
    lines = [
        f"{row.role:<16} {row.version}  {human(row.size):>10}  {datetime.fromtimestamp(row.added):%Y-%m-%d %H:%M}  "
        + (", ".join(row.signatures) or "not signed")
        for row in rows
    ]
    for problem in listing.problems:
        print(f"warning: {problem.path}: {problem.message}", file=sys.stderr)
    nothing = f"no version of {arguments.role}" if arguments.role else "no version"
    empty = "the store is empty" if not listing.versions and not listing.problems else f"{nothing} in the store"
    _print(arguments, {"versions": rows, "problems": listing.problems}, "\n".join(lines) or empty)
    return Exit.OK


def run_show(arguments: argparse.Namespace) -> int:
    """`build show VERSION`."""
    from builder.image import Shop
    from builder.keys import Keyring
    from services.common.errors import IntegrityError
    from services.common.versions import human

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    ref = shop.store.resolve(arguments.version)
    manifest = shop.store.verify(ref.role, ref.version) if arguments.verify else shop.store.check(ref.role, ref.version)
    try:
        trusted = shop.store.require_signed(ref.role, ref.version, Keyring().signers())
        signed = f"signed by {', '.join(trusted)}"
    except IntegrityError as error:
        if arguments.verify:
            raise
        trusted, signed = [], f"not trusted: {error.message}"
    folder = shop.store.path(ref.role, ref.version)
    lines = [str(ref), f"  path      {folder}", f"  recipe    {manifest.recipe_id}", f"  tree      {manifest.tree_id}"]
    lines += [f"  root hash {manifest.root_hash}", f"  kernel    {manifest.kernel or '-'}", f"  {signed}"]
    lines += [f"  {name:<18} {human(item.size):>10}  {item.sha256}" for name, item in manifest.artefacts.items()]
    lines.append(f"  {len(manifest.packages)} packages, {len(manifest.wheels)} wheels")
    _print(arguments, {"path": str(folder), "trusted_signers": trusted, "manifest": manifest}, "\n".join(lines))
    return Exit.OK


def run_diff(arguments: argparse.Namespace) -> int:
    """`build diff A B`."""
    from builder import diff
    from builder.image import Shop

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    sizes = diff.pool_sizes(shop.settings.cache_path / "pool")
    first, second = shop.store.resolve(arguments.first), shop.store.resolve(arguments.second)
    report = diff.diff(shop.store, first, second, sizes=sizes)
    _print(arguments, report, diff.render_diff(report))
    return Exit.OK


def run_why(arguments: argparse.Namespace) -> int:
    """`build why A B`."""
    from builder import diff
    from builder.image import Shop

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    sizes = diff.pool_sizes(shop.settings.cache_path / "pool")
    first, second = shop.store.resolve(arguments.first), shop.store.resolve(arguments.second)
    report = diff.why(shop.store, first, second, sizes=sizes)
    _print(arguments, report, diff.render_why(report))
    return Exit.OK


def run_sbom(arguments: argparse.Namespace) -> int:
    """`build sbom VERSION`: the stored document, byte for byte."""
    from builder.image import Shop
    from services.common import manifest

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    ref = shop.store.resolve(arguments.version)
    sys.stdout.write((shop.store.find(ref.role, ref.version) / manifest.SBOM).read_text())
    return Exit.OK


def run_sign(arguments: argparse.Namespace) -> int:
    """`build sign VERSION`."""
    from builder.image import Shop, sign

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    ref = shop.store.resolve(arguments.version)
    shop.store.verify(ref.role, ref.version)
    name = sign(shop, ref)
    _print(arguments, {"version": str(ref), "signer": name}, f"{ref} signed by {name}")
    return Exit.OK


def run_pin(arguments: argparse.Namespace) -> int:
    """`build pin NAME VERSION`."""
    from builder.image import Shop

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    ref = shop.store.resolve(arguments.version)
    shop.store.pin(arguments.name, ref)
    _print(arguments, {"pin": arguments.name, "version": str(ref)}, f"{ref} is kept as {arguments.name}")
    return Exit.OK


def run_unpin(arguments: argparse.Namespace) -> int:
    """`build unpin NAME`."""
    from builder.image import Shop

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    ref = shop.store.unpin(arguments.name)
    _print(arguments, {"pin": arguments.name, "version": str(ref)}, f"{ref} is no longer kept as {arguments.name}")
    return Exit.OK


def run_gc(arguments: argparse.Namespace) -> int:
    """`build gc [--dry-run] [--days N]`."""
    from builder import collect
    from builder.image import Shop

    shop = _shop(arguments)
    assert isinstance(shop, Shop)
    if arguments.days < 0:
        raise UsageError("gc.days", "--days cannot be negative")
    document, text = collect.collect(shop, days=arguments.days, dry_run=arguments.dry_run)
    _print(arguments, document, text)
    return Exit.OK


def run_keys(arguments: argparse.Namespace) -> int:
    """`build keys new|list|rotate|default`."""
    from datetime import timedelta

    from builder import keys

    ring = keys.Keyring()
    if arguments.what == "rotate":
        if arguments.days < 0:
            raise UsageError("keys.days", "--days cannot be negative")
        rotation = ring.rotate(
            arguments.old, arguments.new, overlap=timedelta(days=arguments.days), ask_passphrase=arguments.passphrase
        )
        _print(arguments, rotation, keys.render_rotation(rotation))
        return Exit.OK
    if arguments.what == "new":
        ring.new(arguments.name, ask_passphrase=arguments.passphrase)
    elif arguments.what == "default":
        ring.set_default(arguments.name)
    elif arguments.what == "trust":
        ring.trust(arguments.name)
    listing = ring.listing()
    _print(arguments, listing, keys.render(listing))
    return Exit.OK
