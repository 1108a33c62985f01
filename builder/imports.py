"""What a module of ours imports of ours, read from its syntax tree, and remembered by the content of its file.

To parse the modules of an image takes longer than all else that a build with unchanged inputs does. What was found is
kept in the cache folder under the hash of the file, of the module's name and of this program: whatever changes, it is
read anew. Whoever can write there can also write the layers that images are made from.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from builder.config import ROOMS
from services.common.errors import InputError

NAME = "imports.json"
"""The file in the cache folder."""
LIMIT = 20_000
"""Entries beyond which the file begins anew: a hundred edits of each module."""
_PACKAGES = ("services", *ROOMS)


class _Remembered(msgspec.Struct):
    """The file: `program` says by what it was found."""

    program: str
    imports: dict[str, list[str]]


def _program() -> str:
    """This module and the Python that parses, as one hash: another one may find something else."""
    return hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()


class Imports:
    """Imports of modules. With a `path` they are read from there when first asked for; `save` writes them."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known: dict[str, list[str]] | None = None
        self._new = False

    def of(self, source: Path, module: str) -> list[str]:
        """What the module `module` in the file `source` imports of ours, sorted.

        Raises InputError("service.syntax") with file and line.
        """
        content = source.read_bytes()
        package = module if source.name == "__init__.py" else module.rpartition(".")[0]
        key = f"{package} {hashlib.sha256(content).hexdigest()}"
        if self._known is None:
            self._known = self._read()
        if key not in self._known:
            self._known[key] = sorted(_parse(content, source, package))
            self._new = True
        return self._known[key]

    def _read(self) -> dict[str, list[str]]:
        """What is remembered: nothing when the file is missing, damaged, too long, or another program's."""
        if self.path is None:
            return {}
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            found = msgspec.json.decode(self.path.read_bytes(), type=_Remembered)
            if found.program == _program() and len(found.imports) <= LIMIT:
                return found.imports
        return {}

    def save(self) -> None:
        """Write what was found, in one step. A folder that cannot be written is no error: it is only slower."""
        if self.path is None or not self._new or self._known is None:
            return
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.write_bytes(msgspec.json.encode(_Remembered(_program(), self._known)))
                aside.rename(self.path)
            finally:
                aside.unlink(missing_ok=True)
            self._new = False


def _parse(content: bytes, source: Path, package: str) -> set[str]:
    try:
        tree = ast.parse(content, filename=str(source))
    except SyntaxError as error:
        raise InputError("service.syntax", error.msg, where=f"{source}:{error.lineno}") from error
    except ValueError as error:  # null bytes
        raise InputError("service.syntax", str(error), where=f"{source}:1") from error
    found: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in _PACKAGES}


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement below a node. Imports are statements: to look into expressions too takes six times as long."""
    left = [tree]
    while left:
        node = left.pop()
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, field, None)
            if isinstance(below, list):
                yield from below
                left += below
