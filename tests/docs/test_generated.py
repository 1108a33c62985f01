"""The documents say what the code does: generated parts are current, and what they name exists.

Commands in code blocks are parsed by the real parsers, as if they were typed; those within a sentence may be cut short
("`build keys`"), so there each word and option has to be known.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from docs import generate
from services.common.main import commands

PAGES = [str(path.relative_to(generate.ROOT)) for path in generate.documents()]
PROGRAMS = ("build", "backline", "make")
# What pages may speak of although it is not there yet; each page has to say so itself.
GOALS_TO_COME = {"lan"}
PAGES_TO_COME = {"docs/decisions/erofs-compression.md"}
_FENCE = re.compile(r"^```\w*\n(.*?)^```$|((?:^(?: {4}|\t).*\n)+)", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


class Command(NamedTuple):
    """A command that a page names: its words, and whether it is whole, as if typed."""

    words: list[str]
    whole: bool


def read(page: str) -> str:
    return (generate.ROOT / page).read_text()


def blocks(text: str) -> list[str]:
    """The code blocks of a page, indented or fenced."""
    return [match[1] or re.sub(r"^(?: {4}|\t)", "", match[2], flags=re.MULTILINE) for match in _FENCE.finditer(text)]


def typed(block: str) -> list[str]:
    """What one types in a block: lines after "$ " where there are some, else every line that begins with a program."""
    lines = block.splitlines()
    lines = [line.replace(".venv/bin/", "", 1) for line in lines]
    prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    chosen = prompted or [line for line in lines if line.partition(" ")[0] in PROGRAMS]
    return [line for line in chosen if line.partition(" ")[0] in PROGRAMS]


def split(line: str) -> list[str]:
    """The words of one command: up to a pipe or a comment."""
    words = shlex.split(line, comments=True)
    ends = [words.index(mark) for mark in ("|", "&&", ">") if mark in words]
    return words[: min(ends, default=len(words))]


def named(page: str) -> list[Command]:
    """Every command that a page names. The synopses that the generator makes are not typed by anyone."""
    text = re.sub(r"<!-- begin (.*?) -->.*?<!-- end \1 -->", "", read(page), flags=re.DOTALL)
    found = [Command(split(line), whole=True) for block in blocks(text) for line in typed(block)]
    for span in _SPAN.findall(_FENCE.sub("", text)):
        words = span.split()
        if len(words) > 1 and words[0] in PROGRAMS:
            found.append(Command([word.strip("[]") for word in words], whole=False))
    return found


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser that a command line meets first, and the words that are left for it."""
    if words[0] == "build":
        module, rest = "builder.cli", words[1:]
    else:
        known = commands()
        assert words[1] in known or words[1] in ("COMMAND", "--help", "--version"), f"no command {words[1]}"
        module, rest = known.get(words[1], "builder.cli"), words[2:]
    parser: argparse.ArgumentParser = importlib.import_module(module).parser(words[0])
    return parser, rest


def mistake(command: Command) -> str | None:
    """What is wrong with a command, or None."""
    if command.words[0] == "make":
        goals = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)) | GOALS_TO_COME
        wrong = [
            word for word in command.words[1:] if "=" not in word and not word.startswith("-") and word not in goals
        ]
        return f"no goal {wrong[0]}" if wrong else None
    try:
        parser, rest = parser_of(command.words)
    except AssertionError as error:
        return str(error)
    if command.whole:
        try:
            parser.parse_args(rest)
        except SystemExit as ended:
            return "the parser refuses it" if ended.code else None
        return None
    for word in rest:
        below = generate._subparsers(parser)
        if below and not word.startswith("-"):
            if word.isupper() or word == "...":
                return None  # VERB, for any of them
            if word not in below:
                return f"no {word} in {parser.prog}"
            parser = below[word]
        elif word.startswith("--") and word not in parser._option_string_actions:
            return f"{parser.prog} has no {word}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_generated_parts_are_current(page: str) -> None:
    assert generate.render(read(page)) == read(page), "run `python -m docs.generate`, and commit what it writes"


def test_every_generated_part_is_in_a_document() -> None:
    used = {name for page in PAGES for name in re.findall(r"<!-- begin ([a-z-]+) -->", read(page))}
    assert used == set(generate.BLOCKS)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    folder = (generate.ROOT / page).parent
    links = [link for link in _LINK.findall(read(page)) if "://" not in link and not link.startswith("mailto:")]
    targets = [
        (link, (folder / link.partition("#")[0]).resolve() if link[0] != "#" else generate.ROOT / page)
        for link in links
    ]
    assert [link for link, target in targets if not target.exists() and not _comes(target)] == []
    anchors = [(link, target) for link, target in targets if "#" in link and target.suffix == ".md" and target.exists()]
    assert [link for link, target in anchors if link.partition("#")[2] not in headings(target)] == []


def _comes(target: Path) -> bool:
    return str(target.relative_to(generate.ROOT)) in PAGES_TO_COME


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosting sites make them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page: str) -> None:
    wrong = [f"{' '.join(command.words)}: {why}" for command in named(page) if (why := mistake(command))]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    missing = []
    for path, name in _TEST.findall(read(page)):
        file = generate.ROOT / path
        functions = (
            {node.name for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.FunctionDef)}
            if file.exists()
            else set()
        )
        if not file.exists() or (name and name not in functions):
            missing.append(f"{path}::{name}")
    assert missing == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("build image gw", False),
        ("build imgae gw", True),
        ("build show --every gw", True),
        ("build keys", True),
        ("backline hall check hall.toml", False),
        ("backline paint", True),
        ("make images", False),
        ("make coffee", True),
    ],
)
def test_a_command_that_does_not_exist_would_be_seen(line: str, wrong: bool) -> None:
    assert bool(mistake(Command(split(line), whole=True))) is wrong


def test_a_page_names_no_place_of_this_machine() -> None:
    for page in PAGES:
        assert str(generate.ROOT) not in read(page), page
