"""The message of the day on a seat, as what shows it wants it. Greeters read their file when they start.

    text            pam_motd(8), after a login at the console or over ssh
    issue           the console's greeter, agreety(1) of greetd, and agetty(8): /etc/issue
    greeter.conf    lightdm's greeter: a drop-in of lightdm-gtk-greeter.conf

What udb sends is cleaned and cut here once more (`services.common.message`), and escaped as each format wants it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from services.common.errors import HostError
from services.common.message import bounded

TEXT, ISSUE, GREETER = "text", "issue", "greeter.conf"
ISSUE_HEAD = "\\S \\n \\l\n\n"
"""System, host name and terminal, as Debian's own /etc/issue."""
INDICATORS = ("~host", "~spacer", "~spacer", "~layout", "~session", "~a11y", "~clock")
"""The bar of lightdm's greeter, which has the message between the spacers."""


def files(text: str) -> Mapping[str, str]:
    """The files that show a message, in the order in which they are written: who waits for one waits for the last."""
    shown = bounded(text)
    return {ISSUE: ISSUE_HEAD + _issue(shown), GREETER: _greeter(shown), TEXT: "".join(f"{line}\n" for line in shown)}


def _issue(lines: Sequence[str]) -> str:
    """A backslash begins an escape, and agreety and agetty do not agree on how to write one: it becomes a slash."""
    return "".join(f"{line.replace(chr(92), '/')}\n" for line in [*lines, ""]) if lines else ""


def _greeter(lines: Sequence[str]) -> str:
    """Escaped as a list in a key file of GLib is; an item that begins with two tildes is text."""
    if not lines:
        return "[greeter]\n"
    text = "\n".join(lines).replace("\\", "\\\\").replace(";", "\\;").replace("\n", "\\n")
    return f"[greeter]\nindicators={';'.join([*INDICATORS[:2], f'~~{text}', *INDICATORS[2:]])}\n"


class Board:
    """The folder of these files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, text: str) -> bool:
        """Show a message, none when it is empty; returns whether that is another one. Raises HostError."""
        changed = False
        try:
            self.folder.mkdir(mode=0o755, exist_ok=True)
            for name, content in files(text).items():
                changed = self._write(self.folder / name, content) or changed
        except OSError as error:
            raise HostError(
                "identity.message", f"cannot be written: {error.strerror}", where=str(error.filename)
            ) from error
        return changed

    def _write(self, path: Path, content: str) -> bool:
        if path.exists() and path.read_bytes() == content.encode():
            return False
        aside = path.with_name(f"{path.name}.new")
        aside.write_text(content)
        aside.replace(path)
        return True
