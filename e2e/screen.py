"""Someone in front of a machine: reads its screen, and types on its keyboard.

For what firmware and iPXE show, which ends no line: menus, prompts. The screen is what its serial console got since it
was switched on, as words: without colours and places, with one blank between two words.
"""

from __future__ import annotations

import re

from e2e.node import Node

# ECMA-48: control sequences, and other escapes.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_c]")


def words(console: str) -> str:
    """What a console got, as words."""
    return " ".join(_CONTROL.sub("", console).split())


def wait_for(node: Node, pattern: str, *, seconds: float = 60.0) -> None:
    """Wait until that is on the screen (a regular expression). Raises WaitFailed."""
    found = re.compile(pattern)
    node.wait_until(
        f"{pattern!r} on its screen", lambda: found.search(words(node.console())) is not None, seconds=seconds
    )


def shows(node: Node, pattern: str) -> bool:
    """Whether that is on the screen now."""
    return re.search(pattern, words(node.console())) is not None


def answer(node: Node, pattern: str, text: str, *, seconds: float = 60.0) -> None:
    """Wait until that is on the screen, then type. Raises WaitFailed, HostError."""
    wait_for(node, pattern, seconds=seconds)
    node.type(text)
