"""The house's style, as tests: ruff and mypy over the whole tree, and what no file of ours may hold."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import settings
from builder.config import tracked_files
from builder.locking import exclusive

ROOT = Path(__file__).resolve().parents[1]
CODE = ("benchmarks", "builder", "e2e", "netboot", "services")
# Hosts that serve packages: Debian's archives, Python's index. Written so that this file names none.
MIRRORS = re.compile(
    r"\b(?:deb|ftp\d?(?:\.[a-z]{2})?|security|snapshot|httpredir|cloudfront)\.debian\.[a-z]+|\bpypi\.[a-z]+|"
    + "python"
    + r"hosted|https?://[\w.-]*mirrors?\.[\w.-]+\.(?:com|net|org)"
)
HOMES = re.compile(r"(?<![\w.])/(?:home|Users)/[A-Za-z][\w-]*/")
MAX_LINES = 600


def tool(*words: str) -> tuple[int, str]:
    """Exit code and whole output of a Python tool, run on the tree."""
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def modules() -> list[str]:
    """Our own modules but the empty ones that only make a folder a package."""
    names = [name for name in tracked_files(ROOT, list(CODE)) if name.endswith(".py")]
    return [name for name in names if (ROOT / name).stat().st_size]


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the project."""
    folders = [path.name for path in ROOT.iterdir() if path.name not in (".git", ".venv")]
    for name in tracked_files(ROOT, sorted(folders)):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if b"\0" not in data:
                yield name, data.decode(errors="replace")


def found(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: match` of every match in the project."""
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for name, text in texts()
        for match in pattern.finditer(text)
    ]


def test_ruff_has_no_complaint() -> None:
    code, output = tool("ruff", "check", "--quiet", ".")
    assert code == 0, output


def test_every_file_is_formatted() -> None:
    code, output = tool("ruff", "format", "--check", "--quiet", ".")
    assert code == 0, output


@pytest.fixture
def remembered() -> Iterator[list[str]]:
    """Where mypy has what it knows of modules, by content: with the other caches, so that a fresh clone starts warm."""
    folder = settings.load().cache_path
    if not os.access(folder, os.W_OK):
        yield []
        return
    with exclusive(folder / "mypy.lock", what="mypy"):  # of another clone
        yield ["--cache-dir", str(folder / "mypy")]


def test_mypy_has_no_complaint(remembered: list[str]) -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    code, output = tool("mypy", *remembered, *[name for name in configured if any((ROOT / name).rglob("*.py"))])
    assert code == 0, output


def test_no_file_names_a_mirror_or_an_index() -> None:
    assert found(MIRRORS) == []


def test_no_file_has_a_path_of_someones_home() -> None:
    assert found(HOMES) == []


def test_no_file_has_the_path_of_this_checkout() -> None:
    assert found(re.compile(re.escape(f"{ROOT}/"))) == []


@pytest.mark.parametrize(
    "name", ["images/images.lock", *sorted(f"requirements/{path.name}" for path in ROOT.glob("requirements/*.txt"))]
)
def test_a_lock_has_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"\S*://\S*|^-(?:i|f|-index-url|-extra-index-url|-find-links)\b.*", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", modules())
def test_a_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / name).read_text()))


@pytest.mark.parametrize("name", modules())
def test_a_module_can_be_read_in_one_go(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) < MAX_LINES
