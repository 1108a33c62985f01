"""mkosi.conf and image.toml: every mistake has its file and line, and what is read is what mkosi reads."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import config
from builder.config import Setting
from builder.image import Shop
from builder.sandbox import Environment, Sandbox
from services.common.errors import InputError, UsageError
from services.common.process import run
from tests.builder import checkout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout.make(tmp_path / "checkout", git=False)


def refused(root: Path, role: str = "gw") -> InputError:
    with pytest.raises(InputError) as caught:
        config.load(root, role)
    return caught.value


# The syntax


def test_settings_carry_their_section_and_line() -> None:
    assert config.parse_conf("[Content]\n\nWithDocs=no\n", "x.conf") == [
        Setting("Content", "WithDocs", ["no"], "x.conf:3")
    ]


def test_indented_lines_continue_a_value() -> None:
    (setting,) = config.parse_conf("[Content]\nPackages=a\n    b\n\n    c\n", "x.conf")
    assert setting.values == ["a", "b", "c"]


@pytest.mark.parametrize("text", ["[Content]\nPackages=a # why\n", "# why\n[Content] # why\nPackages=a#why\n"])
def test_comments_end_a_line_anywhere(text: str) -> None:
    assert [setting.values for setting in config.parse_conf(text, "x.conf")] == [["a"]]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("WithDocs=no\n", 1),
        ("[Content\n", 1),
        ("[]\n", 1),
        ("[Content]\nWithDocs\n", 2),
        ("[Content]\n=no\n", 2),
        ("[Content]\n; not a comment for mkosi\n", 2),
        ("[Content]\n    WithDocs=no\n", 2),
        ("[Content]\nWithDocs=no\n[Build]\n    Environment=a\n", 4),
    ],
)
def test_a_mistake_in_the_syntax_has_its_line(text: str, line: int) -> None:
    with pytest.raises(InputError) as caught:
        config.parse_conf(text, "x.conf")
    assert (caught.value.code, caught.value.where) == ("image.conf", f"x.conf:{line}")


@given(st.text(string.ascii_letters + "[]=#;\n \t,", max_size=60))
def test_any_text_is_settings_or_one_error_with_its_line(text: str) -> None:
    lines = text.count("\n") + 1
    try:
        places = [setting.where for setting in config.parse_conf(text, "x.conf")]
    except InputError as error:
        places = [error.where or ""]
    assert all(1 <= int(place.removeprefix("x.conf:")) <= lines for place in places)


def test_packages_are_split_at_commas_and_lines() -> None:
    assert config.words(Setting("Content", "Packages", ["a,b", "c"], "x.conf:1")) == ["a", "b", "c"]


def test_packages_are_not_split_at_spaces() -> None:
    with pytest.raises(InputError) as caught:
        config.words(Setting("Content", "Packages", ["a b"], "x.conf:1"))
    assert (caught.value.code, caught.value.where) == ("image.conf", "x.conf:1")


def test_a_list_without_a_value_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        config.words(Setting("Content", "Packages", [], "x.conf:7"))
    assert caught.value.where == "x.conf:7"


# Image folders


def test_an_image_has_the_packages_of_what_it_includes(root: Path) -> None:
    assert config.load(root, "gw").packages == ["bash", "nginx", "systemd"]


def test_an_image_has_the_services_of_what_it_includes(root: Path) -> None:
    assert config.load(root, "web").services == ["one", "two"]


def test_an_image_names_its_chain_from_the_first_included(root: Path) -> None:
    checkout.write(root, "images/desktop/mkosi.conf", "[Include]\nInclude=../gw\n")
    image = config.load(root, "desktop")
    assert (image.chain, image.parent) == (["images/base", "images/gw", "images/desktop"], "gw")


def test_shared_settings_are_in_every_image(root: Path) -> None:
    assert config.load(root, "web").settings["Content.WithDocs"] == "no"


def test_an_image_may_override_a_shared_setting(root: Path) -> None:
    checkout.write(root, "images/web/mkosi.conf", "[Include]\nInclude=../base\n[Content]\nWithDocs=yes\n")
    assert config.load(root, "web").settings["Content.WithDocs"] == "yes"


def test_only_roles_that_say_so_are_published(root: Path) -> None:
    assert config.published(root) == ["gw", "seat", "web"]


def test_an_unknown_role_comes_with_near_names(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        config.require_role(root, "seet")
    assert (caught.value.code, caught.value.hint) == ("role.unknown", "did you mean seat?")


def test_a_part_of_images_is_no_role(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        config.require_role(root, "base")
    assert caught.value.code == "role.unknown"


def test_a_folder_without_configuration_is_no_image(root: Path) -> None:
    (root / "images/empty").mkdir()
    assert refused(root, "empty").code == "image.missing"


def test_a_circle_of_includes_is_named_where_it_closes(root: Path) -> None:
    checkout.write(root, "images/base/mkosi.conf", "# circle\n[Include]\nInclude=../gw\n")
    error = refused(root)
    assert (error.code, error.where) == ("image.include", "images/base/mkosi.conf:3")
    assert "gw → base → gw" in error.message


def test_an_image_cannot_include_itself(root: Path) -> None:
    checkout.write(root, "images/gw/mkosi.conf", "[Include]\nInclude=../gw\n")
    assert (refused(root).code, refused(root).where) == ("image.include", "images/gw/mkosi.conf:2")


Edit = Callable[[Path], object]
GW = "images/gw/mkosi.conf"
MISTAKES: dict[str, tuple[Edit, str, str]] = {
    "an unknown setting": (
        lambda root: checkout.write(root, GW, "[Content]\nBootloader=grub\n"),
        "image.setting",
        f"{GW}:2",
    ),
    "a known setting in another section": (
        lambda root: checkout.write(root, GW, "[Output]\nPackages=nginx\n"),
        "image.setting",
        f"{GW}:2",
    ),
    "an unknown shared setting": (
        lambda root: checkout.write(root, "mkosi.conf.d/20-x.conf", "[Content]\n\nHostname=x\n"),
        "image.setting",
        "mkosi.conf.d/20-x.conf:3",
    ),
    "an include that is not there": (
        lambda root: checkout.write(root, GW, "[Include]\nInclude=../bass\n"),
        "image.include",
        f"{GW}:2",
    ),
    "an include outside of images": (
        lambda root: checkout.write(root, GW, "[Include]\nInclude=../../docs\n"),
        "image.include",
        f"{GW}:2",
    ),
    "two includes": (
        lambda root: checkout.write(root, GW, "[Include]\nInclude=../base\nInclude=../web\n"),
        "image.include",
        f"{GW}:2",
    ),
    "bytes that are no text": (
        lambda root: (root / GW).write_bytes(b"[Content]\n# caf\xe9\n"),
        "image.conf",
        f"{GW}:2",
    ),
    "an unknown file": (
        lambda root: checkout.write(root, "images/gw/mkosi.extras/x", ""),
        "image.file",
        "images/gw/mkosi.extras",
    ),
    "a script that cannot run": (
        lambda root: (root / "images/gw/mkosi.postinst.chroot").chmod(0o644),
        "image.script",
        "images/gw/mkosi.postinst.chroot",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_an_image_folder_is_named_with_its_place(root: Path, name: str) -> None:
    edit, code, where = MISTAKES[name]
    edit(root)
    error = refused(root)
    assert (error.code, error.where) == (code, where)


def test_an_unknown_file_comes_with_the_name_that_was_meant(root: Path) -> None:
    checkout.write(root, "images/gw/mkosi.postinst.chrot", "#!/bin/sh\n")
    assert (refused(root).hint or "").startswith("did you mean mkosi.postinst.chroot")


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("publish = true\nservices = [\n", "image.syntax", 2),
        ("publish = true\nkernle = true\n", "image.invalid", 2),
        ('publish = "yes"\n', "image.invalid", 1),
        ('publish = true\n\n[initrd]\nmodules = "erofs"\n', "image.invalid", 4),
        ('publish = true\nservices = [\n    "one",\n    "tow",\n]\n', "image.service", 4),
    ],
)
def test_a_mistake_in_image_toml_has_its_line(root: Path, text: str, code: str, line: int) -> None:
    checkout.write(root, "images/gw/image.toml", text)
    error = refused(root)
    assert (error.code, error.where) == (code, f"{root / 'images/gw/image.toml'}:{line}")


def test_an_unknown_service_comes_with_the_nearest_name(root: Path) -> None:
    checkout.write(root, "images/gw/image.toml", 'services = ["tow"]\n')
    assert refused(root).hint == "did you mean two?"


def test_an_unknown_key_of_image_toml_comes_with_the_nearest_one(root: Path) -> None:
    checkout.write(root, "images/gw/image.toml", "kernle = true\n")
    assert refused(root).hint == "did you mean kernel?"


# Files


def test_files_are_what_git_sees(root: Path) -> None:
    checkout.make(root)
    checkout.write(root, "images/gw/mkosi.extra/etc/x.swp", "ignored")
    checkout.write(root, "images/gw/mkosi.extra/etc/new", "not added yet")
    assert config.tracked_files(root, ["images/gw/mkosi.extra"]) == [
        "images/gw/mkosi.extra/etc/new",
        "images/gw/mkosi.extra/etc/nginx/nginx.conf",
    ]


def test_an_archive_has_all_its_files_also_inside_of_a_repository_that_ignores_it(root: Path) -> None:
    checkout.make(root)
    checkout.write(root, ".gitignore", "/vendor/\n")
    inner = checkout.make(root / "vendor/backline", git=False)
    (inner / "images/gw/mkosi.extra/etc/link").symlink_to("/usr")
    assert config.tracked_files(inner, ["images/gw/mkosi.extra"]) == [
        "images/gw/mkosi.extra/etc/link",
        "images/gw/mkosi.extra/etc/nginx/nginx.conf",
    ]


def test_a_deleted_file_is_not_one_any_more(root: Path) -> None:
    checkout.make(root)
    run(["git", "-C", root, "add", "--all"])
    (root / "images/web/mkosi.extra/etc/web").unlink()
    assert config.tracked_files(root, ["images/web/mkosi.extra"]) == []


# The real images


@pytest.mark.parametrize("role", config.roles(ROOT))
def test_every_real_image_can_be_read(role: str) -> None:
    assert config.load(ROOT, role).packages


def test_every_image_that_boots_has_modules_for_its_initrd() -> None:
    images = [config.load(ROOT, role) for role in config.roles(ROOT)]
    assert [image.role for image in images if image.kernel and not image.initrd.modules] == []


def test_the_roles_of_a_hall_are_published() -> None:
    assert {"gw", "rhfs", "nfsroot"} <= set(config.published(ROOT))


@pytest.mark.images
@pytest.mark.parametrize("role", config.roles(ROOT))
def test_mkosi_reads_the_same_out_of_an_image_folder(shop: Shop, tools_tree: Path, role: str) -> None:
    names = ("images", "mkosi.conf", "mkosi.conf.d")
    sandbox = Sandbox(tools=tools_tree, read_only={shop.root / name: f"/checkout/{name}" for name in names})
    done = sandbox.run(
        ["mkosi", "-I", f"images/{role}", "--json", "summary"],
        variables=Environment().variables(0),
        chdir="/checkout",
    )
    summary = json.loads(done.stdout)["Images"][-1]
    image = config.load(shop.root, role)
    ours = (image.packages, image.remove, image.settings["Distribution.Release"])
    assert (sorted(summary["Packages"]), summary["RemoveFiles"], summary["Release"]) == ours
    assert {f"{key}={value}" for key, value in summary["Environment"].items()} >= set(image.environment)
    assert done.stderr == ""


def test_a_checkout_without_git_lists_folders_and_single_files(tmp_path: Path) -> None:
    for name in ("mkosi.conf", "images/gw/mkosi.conf", "images/gw/__pycache__/x.pyc", "other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert config.tracked_files(tmp_path, ["mkosi.conf", "images", "nowhere"]) == ["images/gw/mkosi.conf", "mkosi.conf"]
