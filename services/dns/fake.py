"""A named of paper: it reads what named would read, and refuses what it is told to refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from services.common.errors import InputError, MissingError

_ZONE = re.compile(r'zone "([^"]+)" \{ type primary; file "([^"]+)"; \};')
_VIEW = re.compile(r'^view "([a-z]+)" \{$(.*?)^\};$', re.MULTILINE | re.DOTALL)
_SOA = re.compile(r"^@ SOA \S+ \S+ (\d+) ", re.MULTILINE)


def _nothing(text: str) -> bool:
    del text
    return False


class FakeBind:
    """Serves what is below `folder` as soon as it is told; `refuses` says which texts are no zone."""

    def __init__(self, folder: Path, *, refuses: Callable[[str], bool] | None = None) -> None:
        self.folder = folder
        self.refuses = refuses or _nothing
        self.refuses_conf: Callable[[str], bool] = _nothing
        self.runs = True
        self.checks = 0
        self.reloads: list[tuple[str, str]] = []
        self.reconfigured = 0
        self.loaded: dict[tuple[str, str], str] = {}

    def start(self) -> None:
        """Begin anew: read named.conf and all zones."""
        self.runs = True
        self.loaded = {}
        self._load_new()

    def _load_new(self) -> None:
        known = {}
        for view, block in _VIEW.findall((self.folder / "named.conf").read_text()):
            for zone, file in _ZONE.findall(block):
                known[view, zone] = self.loaded.get((view, zone)) or self._read(Path(file))
        self.loaded = known

    def _read(self, file: Path) -> str:
        text = file.read_text()
        if self.refuses(text):
            raise AssertionError(f"named was given a zone that it refuses: {file}")
        return text

    def check_zone(self, zone: str, file: Path) -> None:
        self.checks += 1
        if self.refuses(file.read_text()):
            raise InputError("dns.zone", f"zone {zone}: refused")

    def check_zones(self, files: Mapping[tuple[str, str], Path]) -> bool:
        self.checks += 1
        return not any(self.refuses(file.read_text()) for file in files.values())

    def check_conf(self, file: Path) -> None:
        if self.refuses_conf(file.read_text()):
            raise InputError("dns.conf", f"{file.name}: refused")

    def _must_run(self) -> None:
        if not self.runs:
            raise MissingError("dns.named", "named does not answer: connection refused")

    def reconfigure(self) -> None:
        self._must_run()
        self.reconfigured += 1
        self._load_new()

    def reload(self, zone: str, view: str) -> None:
        self._must_run()
        self.reloads.append((view, zone))
        self.loaded[view, zone] = self._read(self.folder / "zones" / view / f"{zone}.zone")

    def serial(self, zone: str, view: str) -> int | None:
        self._must_run()
        text = self.loaded.get((view, zone))
        found = _SOA.search(text) if text else None
        return int(found[1]) if found else None
