"""As much of iPXE as our scripts use: how it reads a line, and what its commands do. After its core/exec.c.

A line is split at white space; a word that begins with `#` ends it, `||`, `&&` and `;` end a command; then settings are
expanded, word by word. What this iPXE does not know is an error, so a script that says more than it should is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, urljoin

_SETTING = re.compile(r"\$\{([^${}]*)\}")
TERMINATORS = ("||", "&&", ";")


class Ended(Exception):
    """The machine does something else now: `reboot`, `boot`, `shell`."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Failed(Exception):
    """A command that fails."""


def commands(line: str) -> Iterator[tuple[list[str], str]]:
    """The commands of a line, as words before expansion, each with what ends it ("" at the end)."""
    words: list[str] = []
    for word in line.split():
        if word.startswith("#"):
            break
        if word in TERMINATORS:
            yield words, word
            words = []
        else:
            words.append(word)
    yield words, ""


def all_commands(script: str) -> list[list[str]]:
    """Every command of a script, without empty ones and labels."""
    lines = script.splitlines()
    assert lines[0] == "#!ipxe"
    return [words for line in lines[1:] if not line.startswith(":") for words, _ in commands(line) if words]


def labels(script: str) -> set[str]:
    return {line[1:] for line in script.splitlines() if line.startswith(":")}


@dataclass
class Machine:
    """A machine whose iPXE runs scripts. `fetch` gets a URL; `choose` is asked with the items of a menu."""

    fetch: Callable[[str], str]
    settings: dict[str, str] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    typed: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    """Chassis ids in LLDP frames, one for each second of waiting."""
    screen: list[str] = field(default_factory=list)
    loaded: list[list[str]] = field(default_factory=list)
    slept: int = 0
    items: dict[str, str] = field(default_factory=dict)
    steps: int = 0

    def start(self, url: str) -> str:
        """Run the script at `url` until the machine does something else; returns what."""
        try:
            self.run(self.fetch(url), url)
        except Ended as ended:
            return ended.what
        return "end"

    def expand(self, word: str) -> str:
        while found := _SETTING.search(word):
            name, _, kind = found[1].partition(":")
            value = self.settings.get(name, "")
            if kind == "uristring":
                value = quote(value, safe="")
            elif kind == "hexhyp":
                value = value.replace(":", "-")
            word = word[: found.start()] + value + word[found.end() :]
        return word

    def run(self, script: str, url: str) -> None:
        lines = script.splitlines()
        assert lines[0] == "#!ipxe"
        at = 1
        while at < len(lines):
            target = self._line(lines[at], url)
            if target == "exit":
                return
            at += 1
            if target is not None:
                at = lines.index(f":{target}") + 1

    def _line(self, line: str, url: str) -> str | None:
        if line.startswith(":"):
            return None
        self.steps += 1
        assert self.steps < 5000, "the script turns in a circle"
        doing, good = True, True
        for words, end in commands(line):
            if doing and not words:
                good = True  # an empty command does nothing, successfully
            elif doing:
                try:
                    target = self._do([self.expand(word) for word in words], url)
                except Failed:
                    good = False
                else:
                    good = True
                    if target is not None:
                        return target
            doing = good if end == "&&" else not good if end == "||" else True
        assert good, f"the script ends with an error at {line!r}"
        return None

    def _do(self, words: list[str], url: str) -> str | None:
        command, *rest = words
        match command:
            case "echo":
                self.screen.append(" ".join(word for word in rest if word != "-n"))
            case "set":
                self.settings[rest[0].partition(":")[0]] = " ".join(rest[1:])
            case "inc":
                self.settings[rest[0]] = str(int(self.settings.get(rest[0]) or 0) + 1)
            case "iseq":
                assert len(rest) == 2, words
                if rest[0] != rest[1]:
                    raise Failed
            case "isset":
                assert len(rest) == 1, words
                if not rest[0]:
                    raise Failed
            case "goto":
                return rest[0]
            case "exit":
                return "exit"
            case "sleep":
                self.slept += int(rest[0])
                self.settings["netX.lldp/4.1.0.1.0"] = self.heard.pop(0) if self.heard else ""
            case "menu":
                self.items = {}
                self.screen.append(" ".join(rest))
            case "item":
                self._item(rest)
            case "choose":
                if not self.choices:
                    raise Ended("nobody chooses")
                choice = self.choices.pop(0)
                assert choice in self.items, (choice, self.items)
                self.settings[rest[-1]] = choice
            case "read":
                if not self.typed:
                    raise Ended("nobody types")
                self.settings[rest[0]] = self.typed.pop(0)
            case "prompt":
                self.screen.append(" ".join(rest[2:]))
            case "chain":
                try:
                    script = self.fetch(urljoin(url, rest[-1]))
                except OSError as error:
                    raise Failed from error
                self.run(script, urljoin(url, rest[-1]))
            case "kernel" | "initrd":
                self.loaded.append(words)
                try:
                    self.fetch(rest[0])
                except OSError as error:
                    raise Failed from error
            case "imgfree":
                self.loaded = []
            case "boot" | "reboot" | "shell":
                raise Ended(command)
            case _:
                raise AssertionError(f"no command of ours: {words}")
        return None

    def _item(self, rest: list[str]) -> None:
        if rest[0] == "--gap":
            self.screen.append(" ".join(rest[1:]))
            return
        if rest[0] == "--key":
            rest = rest[2:]
        self.items[rest[0]] = " ".join(rest[1:])
