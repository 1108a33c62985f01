"""The command line: help that is true, one error with a hint, exit codes that a script can trust."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from builder import cli, config
from builder.store import Store
from services.common import errors
from services.common.errors import BacklineError, Exit
from services.common.main import build as program
from services.common.versions import Ref
from tests.builder import stock

ROOT = Path(__file__).resolve().parents[2]
BUILD = [sys.executable, "-c", "import sys; from services.common.main import build; sys.exit(build())"]
VERBS = (
    "image",
    "check",
    "lock",
    "fetch",
    "plan",
    "list",
    "show",
    "diff",
    "why",
    "sbom",
    "sign",
    "pin",
    "unpin",
    "gc",
    "keys",
)


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Build = Callable[..., Ran]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Build:
    """Run `build` on a store and caches of the test's own."""
    monkeypatch.setenv("BACKLINE_BUILD_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("BACKLINE_BUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "BACKLINE_BUILD_LOCK", "BACKLINE_BUILD_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Ran:
        capsys.readouterr()
        try:
            code = program(words)
        except SystemExit as end:
            code = int(end.code or 0)
        return Ran(code, *capsys.readouterr())

    return call


def add(store: Store, folder: Path, number: int = 0) -> Ref:
    """Put a small version of gw into the store."""
    staged = folder / f"staged-{number}"
    ref = stock.stage(staged, recipe={"settings": {"number": str(number)}}, packages=[stock.package("bash")])
    store.add(ref.role, ref.version, staged)
    return ref


def has(store: Store, ref: Ref) -> bool:
    return store.have(ref.role, ref.version)


# Help


def test_the_help_lists_every_verb(build: Build) -> None:
    text = build("--help").out
    assert [verb for verb in VERBS if not re.search(rf"^    {verb} ", text, re.MULTILINE)] == []


def test_the_help_says_what_exit_codes_mean(build: Build) -> None:
    text = build("--help").out
    codes = {int(code) for code in re.findall(r"(?:^exit codes: |, )(\d) ", text, re.MULTILINE)}
    assert codes == {int(code) for code in Exit if code < Exit.INTERRUPTED}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(build: Build, verb: str) -> None:
    ran = build(verb, "--help")
    assert (ran.code, ran.out.startswith(f"usage: build {verb}")) == (0, True)


TOP = {"--help", "--quiet", "--mirror", "--security-mirror", "--snapshot", "--store", "--cache"}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "keys"])
def test_every_verb_can_speak_json(build: Build, verb: str) -> None:
    assert "--json" in build(verb, "--help").out


def test_the_help_names_no_option_that_is_not_there(build: Build) -> None:
    top = build("--help").out
    known = set(re.findall(r"--[a-z-]+", "".join(build(verb, "--help").out for verb in VERBS)))
    assert set(re.findall(r"--[a-z-]+", top)) - known - TOP == set()


def test_the_root_program_finds_the_builder() -> None:
    from services.common.main import commands

    assert commands()["build"] == "builder.cli"


# Errors


CLASSES = [
    errors.UsageError,
    errors.InputError,
    errors.MissingError,
    errors.IntegrityError,
    errors.HostError,
    errors.BusyError,
    errors.BacklineError,
]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(_: Namespace) -> int:
        raise error

    monkeypatch.setattr(cli, "run_list", run)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_of_failure_has_its_exit_code(
    build: Build, monkeypatch: pytest.MonkeyPatch, kind: type[BacklineError]
) -> None:
    failing(monkeypatch, kind("a.b", "it went wrong"))
    assert build("list").code == kind.exit


def test_no_two_classes_share_an_exit_code() -> None:
    assert len({kind.exit for kind in CLASSES}) == len(CLASSES)


def test_an_error_is_one_line_and_a_hint(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errors.InputError("a.b", "it went wrong", hint="do it again", where="x.conf:3"))
    assert build("list") == (3, "", "error: x.conf:3: it went wrong\n  hint: do it again\n")


def test_with_json_an_error_is_one_object_on_standard_error(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errors.InputError("a.b", "it went wrong", hint="do it again", where="x.conf:3"))
    ran = build("list", "--json")
    assert (ran.out, json.loads(ran.err)) == (
        "",
        {"error": "a.b", "message": "x.conf:3: it went wrong", "hint": "do it again", "exit": 3},
    )


def test_an_interrupt_is_told_as_a_shell_does(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert build("list").code == 130


@pytest.mark.parametrize("words", [[], ["bogus"], ["image"], ["gc", "--days", "x"], ["pin", "a"], ["keys"]])
def test_a_command_line_that_makes_no_sense_is_usage(build: Build, words: list[str]) -> None:
    ran = build(*words)
    assert (ran.code, "usage: build" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "words", [["image", "gv"], ["plan", "gv"], ["fetch", "gv"], ["check", "gv"], ["image", "rhfs", "gv"]]
)
def test_an_unknown_role_comes_with_the_nearest_name(build: Build, words: list[str]) -> None:
    ran = build(*words)
    assert (ran.code, ran.err) == (2, "error: no role 'gv'\n  hint: did you mean gw?\n")


def test_a_name_like_nothing_comes_with_all_roles(build: Build) -> None:
    assert "roles are " + ", ".join(config.published(ROOT)) in build("plan", "zzz").err


@pytest.mark.parametrize("words", [["gc", "--days", "-1"], ["lock", "--check", "--update"]])
def test_arguments_that_contradict_are_usage(build: Build, words: list[str]) -> None:
    assert build(*words).code == 2


def test_a_broken_lock_is_named_with_its_line(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_text('{\n "format": x\n}\n')
    monkeypatch.setenv("BACKLINE_BUILD_LOCK", str(tmp_path / "x.lock"))
    ran = build("plan", "gw")
    assert (ran.code, ran.err.startswith(f"error: {tmp_path}/x.lock:2: ")) == (3, True)


def test_a_setting_that_makes_no_sense_is_named(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE_BUILD_CACHE", "here")
    ran = build("plan", "gw")
    assert (ran.code, "BACKLINE_BUILD_CACHE" in ran.err) == (3, True)


@pytest.mark.parametrize("words", [["image", "gw"], ["lock"], ["lock", "--update"]])
def test_what_needs_root_says_so(build: Build, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ran = build(*words)
    assert (ran.code, "needs root" in ran.err) == (7, True)


def test_a_check_that_finds_a_difference_is_told_by_the_exit_code(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder import check

    monkeypatch.setattr(check, "check", lambda shop, role: Namespace(same=False))
    monkeypatch.setattr(check, "render", lambda report: "not the same")
    assert build("check", "gw") == (1, "not the same\n", "")


# Plans


def measured(*words: str, tmp_path: Path, offline: bool = False) -> tuple[float, str]:
    """CPU seconds of a `build` process, and its standard output."""
    env = {**os.environ, "BACKLINE_BUILD_STORE": f"{tmp_path}/store", "BACKLINE_BUILD_CACHE": f"{tmp_path}/cache"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    argv = [*(["unshare", "--net"] if offline else []), *BUILD, *words]
    done = subprocess.run(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_a_plan_is_there_within_a_second(tmp_path: Path) -> None:
    assert measured("plan", "gw", tmp_path=tmp_path)[0] < 1


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_a_plan_needs_no_network(tmp_path: Path) -> None:
    assert "would be built" in measured("plan", "gw", tmp_path=tmp_path, offline=True)[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_the_committed_lock_fits_without_a_network(tmp_path: Path) -> None:
    assert "up to date" in measured("lock", "--check", tmp_path=tmp_path, offline=True)[1]


def test_a_plan_writes_nothing(build: Build, tmp_path: Path) -> None:
    build("plan", "gw")
    assert sorted(tmp_path.iterdir()) == []


def test_a_plan_holds_the_whole_recipe(build: Build) -> None:
    document = json.loads(build("plan", "gw", "--json").out)
    assert document["version"].endswith(document["recipe_id"][:12])
    assert {"packages", "files", "services", "builder"} <= set(document["recipe"])


@pytest.mark.parametrize("role", config.published(ROOT))
def test_every_role_can_be_planned(build: Build, role: str) -> None:
    assert build("plan", role).out.startswith(f"{role}/")


# The store


def test_an_empty_store_is_said_to_be_empty(build: Build) -> None:
    assert build("list") == (0, "the store is empty\n", "")


def test_a_list_has_a_line_a_version(build: Build, store: Store, tmp_path: Path) -> None:
    refs = {add(store, tmp_path, number).version for number in range(2)}
    assert {line.split()[1] for line in build("list").out.splitlines()} == refs


def test_a_list_of_another_role_is_empty(build: Build, store: Store, tmp_path: Path) -> None:
    add(store, tmp_path)
    assert json.loads(build("list", "rhfs", "--json").out)["versions"] == []


def test_what_is_no_version_is_a_warning(build: Build, store: Store, tmp_path: Path) -> None:
    add(store, tmp_path)
    (tmp_path / "store/images/gw/junk").mkdir()
    ran = build("list")
    assert (ran.code, ran.err.startswith("warning: ")) == (0, True)


def test_a_version_is_shown_by_its_first_digits(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    assert build("show", ref.version.partition(".")[2][:6]).out.startswith(f"{ref}\n")


def test_a_version_that_is_not_there_comes_with_near_ones(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    ran = build("show", ref.version[:-1] + ("0" if ref.version[-1] != "0" else "1"))
    assert (ran.code, ref.version in ran.err) == (4, True)


def test_a_damaged_version_is_an_integrity_error(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    path = store.path(ref.role, ref.version) / "root.erofs"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"erofs", b"EROFS", 1))
    ran = build("show", ref.version, "--verify")
    assert (ran.code, "root.erofs" in ran.err) == (5, True)


def test_an_unsigned_version_is_said_to_be_not_trusted(build: Build, store: Store, tmp_path: Path) -> None:
    assert "not trusted" in build("show", add(store, tmp_path).version).out


def test_a_bill_of_materials_is_the_stored_one(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    expected = (store.path(ref.role, ref.version) / "sbom.cdx.json").read_text()
    assert build("sbom", ref.version).out == expected


@pytest.mark.parametrize("verb", ["diff", "why"])
def test_two_versions_are_compared(build: Build, store: Store, tmp_path: Path, verb: str) -> None:
    one, two = add(store, tmp_path, 1), add(store, tmp_path, 2)
    ran = build(verb, one.version, two.version)
    assert (ran.code, one.version in ran.out) == (0, True)


def test_signing_without_a_key_says_how_to_make_one(build: Build, store: Store, tmp_path: Path) -> None:
    ran = build("sign", add(store, tmp_path).version)
    assert (ran.code, "build keys new" in ran.err) == (4, True)


def test_a_pinned_version_is_kept(build: Build, store: Store, tmp_path: Path) -> None:
    kept, lost = add(store, tmp_path, 1), add(store, tmp_path, 2)
    build("pin", "release", kept.version)
    build("gc", "--days", "0")
    assert (has(store, kept), has(store, lost)) == (True, False)


def test_an_unpinned_version_goes(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    build("pin", "release", ref.version)
    build("unpin", "release")
    build("gc", "--days", "0")
    assert not has(store, ref)


def test_a_pin_that_is_not_there_comes_with_the_names(build: Build, store: Store, tmp_path: Path) -> None:
    build("pin", "release", add(store, tmp_path).version)
    ran = build("unpin", "releese")
    assert (ran.code, "did you mean release?" in ran.err) == (4, True)


def test_a_dry_run_deletes_nothing(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    ran = build("gc", "--days", "0", "--dry-run")
    assert (ref.version in ran.out, has(store, ref)) == (True, True)


def test_young_versions_are_kept(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    build("gc")
    assert has(store, ref)


@pytest.mark.parametrize(
    "words", [["list"], ["gc"], ["gc", "--dry-run"], ["plan", "gw"], ["keys", "list"], ["lock", "--check"]]
)
def test_with_json_standard_output_is_one_document(build: Build, words: list[str]) -> None:
    ran = build(*words, "--json")
    assert (ran.code, type(json.loads(ran.out))) == (0, dict)


# Completion


def completed(line: str, tmp_path: Path) -> set[str]:
    """What a shell would be offered at the end of a line (argcomplete's protocol)."""
    answer = tmp_path / "answer"
    env = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "BACKLINE_BUILD_STORE": str(tmp_path / "store"),
    }
    subprocess.run(BUILD, env=env, cwd=ROOT, check=True)
    return {word.strip() for word in answer.read_text().split("\n")} - {""}


def test_verbs_are_completed(tmp_path: Path) -> None:
    assert completed("build pl", tmp_path) == {"plan"}


def test_roles_are_completed(tmp_path: Path) -> None:
    assert completed("build plan nfs", tmp_path) == {"nfsroot", "nfsroot-desktop"}


def test_versions_are_completed(store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    assert completed("build show 2026", tmp_path) == {ref.version}


# What a person would otherwise have to guess


def test_a_role_without_versions_is_not_an_empty_store(build: Build, store: Store, tmp_path: Path) -> None:
    add(store, tmp_path)
    assert build("list", "rhfs").out == "no version of rhfs in the store\n"
    assert "did you mean rhfs?" in build("list", "rhsf").err


def test_a_store_of_broken_versions_is_not_called_empty(build: Build, store: Store, tmp_path: Path) -> None:
    ref = add(store, tmp_path)
    folder = store.path(ref.role, ref.version)
    folder.chmod(0o755)
    (folder / "manifest.json").unlink()
    ran = build("list")
    assert (ran.out, "holds no manifest" in ran.err) == ("no version in the store\n", True)


@pytest.mark.parametrize("option", ["--mirror", "--security-mirror", "--snapshot"])
def test_an_address_that_is_none_is_named(build: Build, option: str) -> None:
    ran = build(option, "foo", "fetch", "gw")
    assert (ran.code, "'foo' is no address of a mirror" in ran.err) == (Exit.INPUT, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root")
@pytest.mark.parametrize(("name", "code"), [("gww", Exit.USAGE), ("beefdead", Exit.MISSING), ("gw/1", Exit.MISSING)])
def test_a_check_tells_a_mistyped_role_from_a_version_that_is_not_there(build: Build, name: str, code: Exit) -> None:
    ran = build("check", name)
    assert (ran.code, len(ran.err.splitlines())) == (code, 2)


def test_output_ends_with_one_newline(build: Build) -> None:
    assert not build("keys", "list").out.endswith("\n\n")
