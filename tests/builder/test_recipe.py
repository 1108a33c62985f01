"""The recipe id: every input changes it, and nothing else does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from builder import config, recipe
from builder.lock import Lock
from tests.builder import checkout, locks

Recipes = dict[str, recipe.Recipe]
Change = Callable[[Path, Lock], Lock | None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout.make(tmp_path_factory.mktemp("original") / "checkout")


@pytest.fixture(scope="module")
def lock(original: Path) -> Lock:
    return checkout.lock_of(original)


@pytest.fixture(scope="module")
def before(original: Path, lock: Lock) -> Recipes:
    """The recipes of the checkout as it is."""
    return {role: checkout.recipe_of(original, role, lock) for role in ("gw", "seat", "web")}


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy of the checkout to edit."""
    shutil.copytree(original, tmp_path / "checkout", symlinks=True)
    return tmp_path / "checkout"


def write(name: str, text: str) -> Change:
    return lambda root, _: checkout.write(root, name, text)


def add(name: str, text: str) -> Change:
    return lambda root, _: checkout.write(root, name, checkout.FILES[name] + text)


def mode(name: str, bits: int) -> Change:
    return lambda root, _: (root / name).chmod(bits)


def package(name: str, **fields: object) -> Change:
    return lambda _, lock: checkout.edit_package(lock, name, **fields)


def locked(**fields: object) -> Change:
    return lambda _, lock: msgspec.structs.replace(lock, **fields)


def link(name: str, target: str) -> Change:
    def change(root: Path, _: Lock) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)

    return change


def remove(name: str) -> Change:
    return lambda root, _: (root / name).unlink()


def ids(before: str, after: str) -> Change:
    text = checkout.FILES["images/ids.toml"]
    assert before in text
    return write("images/ids.toml", text.replace(before, after))


# What changes the id of gw

INPUTS: dict[str, Change] = {
    "a package's hash": package("nginx", sha256="a" * 64),
    "a package's version": package("nginx", version="2.0-1"),
    "a package of what it includes": package("bash", sha256="a" * 64),
    "a package more": package("linux-image-amd64", roles=["gw", "seat"]),
    "a wheel's hash": locked(wheels=[msgspec.structs.replace(locks.wheel("idna"), sha256="a" * 64)]),
    "a wheel less": locked(wheels=[]),
    "the lock's epoch": locked(epoch=locks.EPOCH + 1),
    "the tools tree": locked(tools_tree="0" * 64),
    "the version of mkosi": package("mkosi", version="26"),
    "a file's content": add("images/gw/mkosi.extra/etc/nginx/nginx.conf", "#\n"),
    "a file's executable bit": mode("images/gw/mkosi.extra/etc/nginx/nginx.conf", 0o755),
    "a file more": write("images/gw/mkosi.extra/etc/more", ""),
    "a file less": remove("images/gw/mkosi.extra/etc/nginx/nginx.conf"),
    "a file of what it includes": add("images/base/mkosi.extra/etc/motd", "!\n"),
    "a skeleton file": add("images/base/mkosi.skeleton/etc/early", "!\n"),
    "a file that becomes a link": link("images/gw/mkosi.extra/etc/nginx/nginx.conf", "other.conf"),
    "a script": add("images/gw/mkosi.postinst.chroot", "#\n"),
    "a service": add("services/one/schema.py", "#\n"),
    "a service's data": add("services/one/templates/page.html", "</p>\n"),
    "what a service imports": add("services/common/shared.py", "#\n"),
    "what a service imports from now on": add("services/one/schema.py", "import services.common.unused\n"),
    "a unit": add("units/backline-one.service", "#\n"),
    "another service": write("images/gw/image.toml", 'publish = true\nservices = ["two"]\n'),
    "the id of its service's user": ids("20100", "20101"),
    "the id of its package's user": ids("220, gid = 220", "221, gid = 221"),
    "a setting": add("images/gw/mkosi.conf", "WithDocs=yes\n"),
    "a shared setting": add("mkosi.conf.d/10-content.conf", "[Content]\nWithRecommends=no\n"),
    "what is removed": add("images/gw/mkosi.conf", "RemoveFiles=/usr/share/info\n"),
    "a variable of the build": add("mkosi.conf.d/10-content.conf", "    MORE=1\n"),
    "whether it boots": write("images/gw/image.toml", "publish = true\nkernel = true\n"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_changes_the_id(root: Path, lock: Lock, before: Recipes, name: str) -> None:
    after = checkout.recipe_of(root, "gw", INPUTS[name](root, lock) or lock)
    assert after.identity != before["gw"].identity


@pytest.mark.parametrize("module", recipe.SHAPING)
def test_every_module_that_shapes_bytes_changes_the_id(
    original: Path, lock: Lock, before: Recipes, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    modules = recipe.shaping_modules()
    monkeypatch.setattr(recipe, "shaping_modules", lambda: modules | {module: "0" * 64})
    assert checkout.recipe_of(original, "gw", lock).identity != before["gw"].identity


def test_every_module_of_the_builder_that_shapes_bytes_exists() -> None:
    assert set(recipe.shaping_modules()) == set(recipe.SHAPING)


SEAT_INPUTS: dict[str, Change] = {
    "a kernel module": write(
        "images/seat/image.toml", 'publish = true\nkernel = true\n[initrd]\nmodules = ["erofs", "loop"]\n'
    ),
    "a left out folder of drivers": write(
        "images/seat/image.toml",
        'publish = true\nkernel = true\n[initrd]\nmodules = ["erofs"]\nexclude = ["kernel/drivers/"]\n',
    ),
    "a file of the initrd": add("images/initrd/mkosi.extra/usr/lib/mount-root", "#\n"),
    "a setting of the initrd": add("images/initrd/mkosi.conf", "WithDocs=yes\n"),
    "a package of the initrd": package("mkosi", roles=["initrd", "tools"]),
}


@pytest.mark.parametrize("name", SEAT_INPUTS)
def test_an_input_of_the_initrd_changes_the_id_of_a_seat(root: Path, lock: Lock, before: Recipes, name: str) -> None:
    after = checkout.recipe_of(root, "seat", SEAT_INPUTS[name](root, lock) or lock)
    assert after.identity != before["seat"].identity


@pytest.mark.parametrize("name", [name for name in SEAT_INPUTS if "kernel module" not in name])
def test_the_initrd_is_no_input_of_a_server(root: Path, lock: Lock, before: Recipes, name: str) -> None:
    after = checkout.recipe_of(root, "gw", SEAT_INPUTS[name](root, lock) or lock)
    assert after.identity == before["gw"].identity


# What changes no id


def commit(root: Path, _: Lock) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["add", "--all"], [*identity, "commit", "--quiet", "--message", "x"], ["branch", "other"]):
        subprocess.run(["git", "-C", root, *words], check=True)


def later(root: Path, _: Lock) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)


def group_modes(root: Path, _: Lock) -> None:
    """As a checkout under another umask has them."""
    for path in root.rglob("images/**/*"):
        if path.is_file():
            path.chmod(0o700 if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else 0o600)
        else:
            path.chmod(0o700)


def turned(_: Path, lock: Lock) -> Lock:
    return msgspec.structs.replace(
        lock,
        packages=lock.packages[::-1],
        wheels=lock.wheels[::-1],
        roles=dict(reversed(lock.roles.items())),
        requirements=dict(reversed(lock.requirements.items())),
    )


def without_git(root: Path, _: Lock) -> None:
    shutil.rmtree(root / ".git")


NO_INPUTS: dict[str, Change] = {
    "the place of the checkout": lambda root, _: None,
    "the order of the lock": turned,
    "times of files": later,
    "modes that a umask makes": group_modes,
    "git's own data": commit,
    "an unpacked archive": without_git,
    "an ignored file in an image": write("images/gw/mkosi.extra/etc/x.swp", ""),
    "an ignored file in a service": write("services/one/x.swp", ""),
    "bytecode": write("services/one/__pycache__/app.cpython-311.pyc", "x"),
    "documents": add("docs/builder.md", "more\n"),
    "tests": add("tests/test_one.py", "#\n"),
    "the harness": add("e2e/lan.py", "#\n"),
    "another role's service": add("services/two/app.py", "#\n"),
    "another role's unit": add("units/backline-two.service", "#\n"),
    "another role's file": add("images/web/mkosi.extra/etc/web", "#\n"),
    "a module that nobody imports": add("services/common/unused.py", "#\n"),
    "the id of another role's user": ids("20200", "20201"),
    "comments in its configuration": add("images/gw/mkosi.conf", "# why\n"),
    "another role's package": package("mkosi", sha256="a" * 64),
    "another set's wheel": locked(wheels=[locks.wheel("idna")]),
    "where a package lay on the mirror": package("nginx", path="pool/updates/main/nginx.deb"),
    "which archive a package came from": package("nginx", archive="debian-security"),
    "the order of its packages": write(
        "images/gw/mkosi.conf",
        "[Include]\nInclude=../base\n\n[Content]\nPackages=nginx\n    bash\nRemoveFiles=/usr/share/man\n",
    ),
}


@pytest.mark.parametrize("name", NO_INPUTS)
def test_nothing_else_changes_the_id(root: Path, lock: Lock, before: Recipes, name: str) -> None:
    after = checkout.recipe_of(root, "gw", NO_INPUTS[name](root, lock) or lock)
    assert after.data == before["gw"].data


def test_the_umask_of_the_process_is_no_input(original: Path, lock: Lock, before: Recipes) -> None:
    umask = os.umask(0o077)
    try:
        assert checkout.recipe_of(original, "gw", lock).identity == before["gw"].identity
    finally:
        os.umask(umask)


# The form


def test_every_role_has_an_id_of_its_own(before: Recipes) -> None:
    assert len({one.identity for one in before.values()}) == len(before)


def test_the_data_is_canonical(before: Recipes) -> None:
    data = before["gw"].data
    assert data == msgspec.json.encode(msgspec.json.decode(data), order="sorted")


def test_no_path_of_the_host_is_in_a_recipe(original: Path, before: Recipes) -> None:
    assert str(original).encode() not in before["seat"].data


def test_a_version_is_the_locks_date_and_the_ids_digits(lock: Lock, before: Recipes) -> None:
    assert recipe.version(before["gw"], lock) == f"20260131.{before['gw'].identity[:12]}"


def test_two_versions_have_two_seeds(before: Recipes) -> None:
    assert before["gw"].seed != before["web"].seed


# Layers


def layer_ids(root: Path, lock: Lock, role: str = "gw") -> dict[str, str]:
    config._load.cache_clear()
    return {name: recipe.layer_id(sections) for name, sections in recipe.of_layers(root, role, lock).items()}


def test_layers_come_in_the_order_of_the_chain(original: Path, lock: Lock) -> None:
    assert list(layer_ids(original, lock)) == ["base", "gw"]


@pytest.mark.parametrize(
    "name", ["a file's content", "a service", "a unit", "a script", "a wheel's hash", "what is removed"]
)
def test_our_own_files_change_no_layer(root: Path, original: Path, lock: Lock, name: str) -> None:
    before = layer_ids(original, lock)
    assert layer_ids(root, INPUTS[name](root, lock) or lock) == before


@pytest.mark.parametrize(
    "name", ["a package of what it includes", "the tools tree", "the lock's epoch", "a skeleton file"]
)
def test_what_lies_below_changes_every_layer(root: Path, original: Path, lock: Lock, name: str) -> None:
    before = layer_ids(original, lock)
    after = layer_ids(root, INPUTS[name](root, lock) or lock)
    assert {role for role in before if before[role] == after[role]} == set()


@pytest.mark.parametrize("name", ["a package's hash", "the id of its package's user", "a setting"])
def test_what_is_the_roles_own_changes_its_layer_alone(root: Path, original: Path, lock: Lock, name: str) -> None:
    before = layer_ids(original, lock)
    after = layer_ids(root, INPUTS[name](root, lock) or lock)
    assert {role for role in before if before[role] != after[role]} == {"gw"}


def test_roles_share_the_layer_of_what_they_include(original: Path, lock: Lock) -> None:
    assert layer_ids(original, lock, "gw")["base"] == layer_ids(original, lock, "seat")["base"]
