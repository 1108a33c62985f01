"""The message of the day: text alone, whoever wrote it and whatever shows it. Pure.

udb keeps what `clean` leaves and refuses what is too long; a seat cleans once more what comes to it, and cuts. A
console takes control characters as orders, and bidirectional ones turn a line around: neither is in a message.
"""

from __future__ import annotations

import textwrap
import unicodedata

CHARACTERS, LINES, WIDTH = 600, 10, 76
"""How long a message may be; lines are those that a console shows, which breaks them at `WIDTH`."""
_BREAKS = str.maketrans({"\r": "\n", "\v": "\n", "\f": "\n", "\x85": "\n", "\u2028": "\n", "\u2029": "\n", "\t": " "})
_NO_TEXT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})  # Unicode's general categories (UAX 44, 5.7.1)


def clean(text: str) -> str:
    """The text of a message: without control characters, empty lines around it, and white space where lines end."""
    broken = unicodedata.normalize("NFC", text.replace("\r\n", "\n").translate(_BREAKS))
    kept = "".join(char for char in broken if char == "\n" or unicodedata.category(char) not in _NO_TEXT)
    return "\n".join(line.rstrip() for line in kept.split("\n")).strip("\n")


def problem(text: str) -> str | None:
    """Why a clean text is no message; None for one that is."""
    if len(text) > CHARACTERS:
        return f"the message has {len(text)} characters: {CHARACTERS} are shown"
    if (count := len(lines(text))) > LINES:
        return f"the message is {count} lines of {WIDTH} characters: {LINES} are shown"
    return None


def lines(text: str) -> list[str]:
    """A clean text as lines that a console shows whole."""
    return [part for line in text.split("\n") for part in textwrap.wrap(line, WIDTH) or [""]] if text else []


def bounded(text: str) -> list[str]:
    """The lines of any text, whoever it comes from: clean, and no more than are shown."""
    return lines(clean(text[: CHARACTERS * 4])[:CHARACTERS])[:LINES]
