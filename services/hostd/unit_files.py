"""Unit files and drop-ins of generation documents, in /etc/systemd/system: which are ours, and what they say.

A file is a document's when its first line is `MARK`. Whatever else is there is somebody else's and never touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.common.bus import is_unit_name
from services.hostd import durable

FOLDER = Path("/etc/systemd/system")
MARK = "# From this host's generation document (backline host show): changes here are lost.\n"


@dataclass
class Found:
    """What is in the folder for one unit."""

    file: str | None = None
    drop_ins: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)


class UnitFiles:
    """The files below one folder, which systemd reads."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    def path(self, unit: str, drop_in: str | None) -> Path:
        """Where a document's file is."""
        if drop_in is None:
            return self.folder / unit
        return self.folder / f"{unit}.d" / f"{drop_in}.conf"

    def write(self, unit: str, drop_in: str | None, text: str) -> None:
        """Replace a file in one step. Raises OSError."""
        durable.write(self.path(unit, drop_in), marked(text))

    def remove(self, unit: str, drop_in: str | None) -> None:
        """Remove a file, and the folder of drop-ins with the last one; what is gone already is no error."""
        path = self.path(unit, drop_in)
        if _text(path) is None and path.exists():
            return  # somebody else's by now
        durable.remove(path)
        if drop_in is not None:
            durable.remove_empty(path.parent)

    def found(self, wanted: set[str]) -> dict[str, Found]:
        """Files by unit: all that are ours, and for units in `wanted` those of others too."""
        units: dict[str, Found] = {}
        if not self.folder.is_dir():
            return units
        for path in sorted(self.folder.iterdir()):
            if path.name.endswith(".d") and path.is_dir() and not path.is_symlink():
                unit = path.name.removesuffix(".d")
                if is_unit_name(unit):
                    for each in sorted(path.glob("*.conf")):
                        self._note(units, unit, each, each.name.removesuffix(".conf"))
            elif is_unit_name(path.name) and not path.is_dir():
                self._note(units, path.name, path, None)
        return {name: found for name, found in units.items() if name in wanted or found.file or found.drop_ins}

    def _note(self, units: dict[str, Found], unit: str, path: Path, drop_in: str | None) -> None:
        found = units.setdefault(unit, Found())
        text = _text(path)
        if text is None:
            found.foreign.append(drop_in or "")
        elif drop_in is None:
            found.file = text
        else:
            found.drop_ins[drop_in] = text


def marked(text: str) -> bytes:
    """A file's content; it always ends with a line."""
    return (MARK + text).encode()


def _text(path: Path) -> str | None:
    """What a document wrote into a file; None for somebody else's, and for a link."""
    try:
        if path.is_symlink():
            return None
        content = path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return content.removeprefix(MARK) if content.startswith(MARK) else None
