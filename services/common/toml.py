"""TOML files whose mistakes are reported with file and line.

`load` reads a file, `decode` turns it into typed structs; what is wrong is an InputError whose `where` is `path:line`.
tomllib forgets where a key stood, so `TomlDocument.line` looks for it again: a scanner that trusts the syntax, because
tomllib has accepted it before (TOML 1.0.0, https://toml.io/en/v1.0.0).
"""

from __future__ import annotations

import bisect
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import msgspec
from msgspec import inspect

from services.common.codec import convert
from services.common.errors import InputError, nearest

T = TypeVar("T")
KeyPath = tuple[str | int, ...]

_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
_END = " (at end of document)"
_AT = re.compile(r" - at `(?:key` in `)?\$(?P<path>.*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>[^.\[\]]+)|\[(?P<index>\d+)\]|(?P<any>\[\.\.\.\])")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]+)`")


class TomlDocument:
    """A parsed file: `data` as tomllib gives it, `path` for messages, `area` as the first part of error codes."""

    def __init__(self, text: str, *, path: Path, area: str = "settings") -> None:
        """Raises InputError("<area>.syntax") with the line of the mistake."""
        self.path = path
        self.area = area
        self.text = text.replace("\r\n", "\n")
        try:
            self.data: Mapping[str, object] = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            message = str(error)
            if found := _LINE.search(message):
                line, message = int(found[1]), message[: found.start()]
            else:
                line, message = self.text.rstrip("\n").count("\n") + 1, message.removesuffix(_END) + ", the file ends"
            raise InputError(
                f"{area}.syntax", f"not valid TOML: {message[:1].lower()}{message[1:]}", where=f"{path}:{line}"
            ) from error

    @cached_property
    def lines(self) -> Mapping[KeyPath, int]:
        """Every key path of the file and the line (from 1) where it is first named."""
        return _Scanner(self.text).scan()

    def line(self, keypath: KeyPath) -> int | None:
        """The line of a key, table or array item, as in `("networks", 0, "cidr")`; None where the file has none."""
        return self.lines.get(keypath)

    def where(self, keypath: KeyPath) -> str:
        """`path:line` of a key, or of the nearest thing around it that is in the file."""
        for end in range(len(keypath), 0, -1):
            if (line := self.line(keypath[:end])) is not None:
                return f"{self.path}:{line}"
        return str(self.path)

    def error(self, keypath: KeyPath, message: str, *, hint: str | None = None) -> InputError:
        """An InputError("<area>.invalid") about one key, for rules that types cannot say."""
        name = dotted(keypath)
        return InputError(
            f"{self.area}.invalid", f"{name}: {message}" if name else message, hint=hint, where=self.where(keypath)
        )


def load(path: Path, *, area: str = "settings") -> TomlDocument:
    """Read a TOML file. Raises InputError: `<area>.missing`, `<area>.unreadable`, `<area>.syntax`."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{area}.missing", "there is no such file", where=str(path)) from error
    except OSError as error:
        raise InputError(f"{area}.unreadable", f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{area}.syntax", "not valid TOML: not UTF-8", where=f"{path}:{line}") from error
    return TomlDocument(text, path=path, area=area)


def decode(document: TomlDocument, type: type[T]) -> T:
    """Convert a document strictly; structs with `forbid_unknown_fields` refuse keys that they do not know.

    Knows the types of `services.common.codec`. Raises InputError("<area>.invalid").
    """
    try:
        return convert(document.data, type)
    except msgspec.ValidationError as error:
        message, keypath = locate(document.data, type, error)
    if found := _UNKNOWN.search(message):
        fields = struct_fields(type, keypath)
        keypath = (*keypath, found["field"])
        hint = nearest(found["field"], fields) or (f"known keys: {', '.join(fields)}" if fields else None)
        raise document.error(keypath, "no such key", hint=hint)
    raise document.error(keypath, message[:1].lower() + message[1:])


def dotted(keypath: Sequence[str | int]) -> str:
    """A key path as people write it: `networks[0].cidr`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in keypath).removeprefix(".")


def locate(data: object, type: type[T], error: msgspec.ValidationError) -> tuple[str, KeyPath]:
    """The message of a validation error without its path, and that path.

    msgspec writes `[...]` for a key of a mapping: the guilty key is found by converting with one key at a time.
    """
    message = str(error)
    found = _AT.search(message)
    if not found:
        return message, ()
    keypath: KeyPath = ()
    for step in _STEP.finditer(found["path"]):
        if step["any"]:
            keypath = (*keypath, _guilty_key(data, type, keypath, message))
        else:
            keypath = (*keypath, step["field"] if step["index"] is None else int(step["index"]))
    return message[: found.start()], keypath


def struct_fields(type: object, keypath: KeyPath) -> list[str]:
    """The keys that the struct at `keypath` below `type` knows, or [] where there is no single struct."""
    info: inspect.Type | None = inspect.type_info(type)
    for step in keypath:
        info = _child(info, step)
    info = _struct(info)
    return [field.encode_name for field in info.fields] if isinstance(info, inspect.StructType) else []


def _guilty_key(data: object, type: type[T], keypath: KeyPath, message: str) -> str:
    mapping = data
    for step in keypath:
        mapping = mapping[step]  # type: ignore[index]
    keys = list(cast(Mapping[str, object], mapping))
    for key in keys:
        try:
            convert(_with_only(data, keypath, key), type)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return key
    return keys[0] if keys else "?"


def _with_only(data: object, keypath: KeyPath, key: str) -> object:
    """A copy of `data` in which the mapping at `keypath` has `key` alone."""
    if not keypath:
        return {key: cast(Mapping[str, object], data)[key]}
    step, rest = keypath[0], keypath[1:]
    if isinstance(step, int):
        items = list(cast(Sequence[object], data))
        items[step] = _with_only(items[step], rest, key)
        return items
    table = dict(cast(Mapping[str, object], data))
    table[step] = _with_only(table[step], rest, key)
    return table


def _struct(info: inspect.Type | None) -> inspect.Type | None:
    """The one struct or container of an optional type."""
    if isinstance(info, inspect.UnionType):
        others = [member for member in info.types if not isinstance(member, inspect.NoneType)]
        return others[0] if len(others) == 1 else None
    return info


def _child(info: inspect.Type | None, step: str | int) -> inspect.Type | None:
    info = _struct(info)
    if isinstance(info, inspect.StructType):
        return next((field.type for field in info.fields if field.encode_name == step), None)
    if isinstance(info, inspect.DictType):
        return info.value_type
    if isinstance(info, inspect.ListType | inspect.VarTupleType | inspect.SetType):
        return info.item_type
    return None


class _Scanner:
    """Walks a valid TOML text once and notes where each key path begins."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[KeyPath, int] = {}
        self.arrays: dict[KeyPath, int] = {}  # arrays of tables: how many so far
        self.newlines = [match.start() for match in re.finditer("\n", text)]

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self.skip():
            if self.take("[["):
                line = self.line()
                table = self.open_array(self.keys(), line)
                self.take("]]")
            elif self.take("["):
                line = self.line()
                table = self.open_table(self.keys(), line)
                self.take("]")
            else:
                self.pair(table)
        return self.found

    def line(self) -> int:
        return bisect.bisect_left(self.newlines, self.at) + 1

    def note(self, path: KeyPath, line: int) -> None:
        self.found.setdefault(path, line)

    def take(self, word: str) -> bool:
        if self.text.startswith(word, self.at):
            self.at += len(word)
            return True
        return False

    def skip(self) -> bool:
        """Go past white space, newlines and comments; False at the end of the text."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in " \t\n":
                self.at += 1
            else:
                return True
        return False

    def keys(self) -> list[str]:
        """A dotted key, up to `=` or `]`."""
        parts = []
        while True:
            self.skip()
            start = self.at
            if self.text[self.at] in "\"'":
                self.string()
                parts.append(str(tomllib.loads(f"k = {self.text[start : self.at]}")["k"]))
            else:
                while self.text[self.at] not in " \t.=]":
                    self.at += 1
                parts.append(self.text[start : self.at])
            self.skip()
            if not self.take("."):
                return parts

    def open_table(self, keys: Sequence[str], line: int) -> KeyPath:
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            self.note(path, line)
            if path in self.arrays:
                path = (*path, self.arrays[path] - 1)
        return path

    def open_array(self, keys: Sequence[str], line: int) -> KeyPath:
        path = (*self.open_table(keys[:-1], line), keys[-1])
        self.note(path, line)
        self.arrays[path] = self.arrays.get(path, 0) + 1
        path = (*path, self.arrays[path] - 1)
        self.note(path, line)
        return path

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        path = table
        for key in self.keys():
            path = (*path, key)
            self.note(path, line)
        self.take("=")
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.skip()
        if self.text[self.at] in "\"'":
            self.string()
        elif self.take("["):
            for index in self.items("]"):
                self.note((*path, index), self.line())
                self.value((*path, index))
        elif self.take("{"):
            for _ in self.items("}"):
                self.pair(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def items(self, end: str) -> Iterator[int]:
        """Stand at each item of an array or inline table in turn, past commas and `end`."""
        index = 0
        while self.skip() and not self.take(end):
            if not self.take(","):
                yield index
                index += 1

    def string(self) -> None:
        quote = self.text[self.at]
        raw = quote == "'"
        if self.take(quote * 3):
            while not self.take(quote * 3):
                self.at += 2 if not raw and self.text[self.at] == "\\" else 1
            while self.at < len(self.text) and self.text[self.at] == quote:  # up to two quotes may precede the end
                self.at += 1
            return
        self.at += 1
        while not self.take(quote):
            self.at += 2 if not raw and self.text[self.at] == "\\" else 1
