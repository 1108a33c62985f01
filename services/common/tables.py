"""Records as text, to take away and to bring back: CSV, JSON, YAML; what is wrong is told with its place. Pure.

One record a row; columns are those of its service, in any order, and what is absent stays as it is. What a cell means
is decided by its column, never by how it looks: a YAML `no` is a fine name, and `52:54:00:12:34:56` is no number.

- CSV: UTF-8, first line the names; comma, semicolon or tab between cells. Lists are separated by a mark of the
  service's. A cell that a spreadsheet would take for a formula gets an apostrophe in front, which is taken off again.
- JSON: an array of objects.
- YAML: a list of mappings. Anchors, aliases and tags are refused: a small file must not become a large one.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from services.common.codec import encode_json
from services.common.errors import InputError, nearest
from services.common.formats import Format

MISTAKES = 20
"""So many are told at once."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # OWASP, "CSV Injection"; the apostrophe itself, so that it comes back
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SIMPLE = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][a-z0-9.-]*")  # a text to YAML 1.1 and 1.2 alike
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")  # or a line break, to YAML
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Row:
    """A row as it was written: its line, its cells, and at which column of the text each is."""

    line: int
    cells: dict[str, object]
    columns: dict[str, int]

    def place(self, name: str | None = None) -> str:
        """Where it stands, or one cell of it."""
        return f"line {self.line}" + (f", column {self.columns[name]}" if name in self.columns else "")


class Mistakes:
    """What was wrong, to be told together."""

    def __init__(self) -> None:
        self.found: list[InputError] = []

    def add(self, code: str, message: str, *, where: str, hint: str | None = None) -> None:
        """Remember one."""
        self.found.append(InputError(code, message, where=where, hint=hint))

    def check(self) -> None:
        """Raise what was found: the one mistake, or InputError("import.invalid") with the first `MISTAKES`."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            lines = [f"  {error}" + (f" ({error.hint})" if error.hint else "") for error in self.found[:MISTAKES]]
            if more := len(self.found) - MISTAKES:
                lines += [f"  and {more} more"] if more > 0 else []
            raise InputError("import.invalid", "\n".join([f"{len(self.found)} mistakes", *lines]))


# Reading


def read(content: bytes, format: Format, columns: Sequence[str], *, what: str) -> list[Row]:
    """The rows of a text, which are `what` people call the records.

    Raises InputError: `import.syntax`, `import.column`, `import.invalid` for several.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError("import.syntax", "this is not UTF-8", where=f"line {line}") from error
    readers = {Format.CSV: _read_csv, Format.JSON: _read_json, Format.YAML: _read_yaml}
    mistakes = Mistakes()
    rows = list(readers[format](text, _Reading(columns, what, mistakes)))
    mistakes.check()
    return rows


@dataclass(frozen=True)
class _Reading:
    """What a reader has to know: the columns that there are, what rows are called, and where mistakes go."""

    columns: Sequence[str]
    what: str
    mistakes: Mistakes

    def known(self, name: str, where: str, seen: dict[str, int]) -> bool:
        """Whether a column can be taken; else that is a mistake."""
        if name not in self.columns:
            hint = nearest(name, list(self.columns)) or f"columns: {', '.join(self.columns)}"
            self.mistakes.add("import.column", f"there is no column {name!r}", where=where, hint=hint)
        elif name in seen:
            self.mistakes.add("import.column", f"column {name} is given twice", where=where)
        else:
            return True
        return False


def _read_csv(text: str, reading: _Reading) -> Iterator[Row]:
    mistakes = reading.mistakes
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in (",", ";", "\t") if mark in first), ",")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: dict[str, int] | None = None
    begin = 1
    try:
        for cells in lines:
            line, begin = begin, lines.line_num + 1
            if not any(cells):
                continue
            if columns is None:
                columns = {}
                for number, cell in enumerate(cells, 1):
                    name = cell.strip().lower()
                    if reading.known(name, f"line {line}, column {number}", columns):
                        columns[name] = number
                if mistakes.found:
                    return
                continue
            if len(cells) != len(columns):
                message = f"{len(cells)} cells, where the first line has {len(columns)}"
                mistakes.add("import.syntax", message, where=f"line {line}")
                continue
            yield Row(line, {name: _plain(cells[number - 1]) for name, number in columns.items()}, columns)
    except csv.Error as error:
        mistakes.add("import.syntax", f"this is not CSV: {error}", where=f"line {begin}")


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _read_json(text: str, reading: _Reading) -> Iterator[Row]:
    """Element by element, so that each has its place."""
    mistakes = reading.mistakes
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
    line, counted = 1, 0

    def at(index: int) -> tuple[int, int]:
        nonlocal line, counted
        line += text.count("\n", counted, index)
        counted = index
        return line, index - text.rfind("\n", 0, index)

    try:
        index = _skip(text, 0)
        if text[index : index + 1] != "[":
            raise json.JSONDecodeError(f"expecting an array of {reading.what}", text, index)
        index = _skip(text, index + 1)
        while text[index : index + 1] != "]":
            value, end = decoder.raw_decode(text, index)
            number, column = at(index)
            if isinstance(value, _Pairs):
                yield from _json_row(value, text, index, end, (number, column), reading)
            else:
                mistakes.add("import.syntax", "this is no object", where=f"line {number}, column {column}")
            index = _skip(text, end)
            if text[index : index + 1] == ",":
                index = _skip(text, index + 1)
                if text[index : index + 1] == "]":
                    raise json.JSONDecodeError("a comma before the end", text, index)
            elif text[index : index + 1] != "]":
                raise json.JSONDecodeError("expecting ',' or ']'", text, index)
        if (index := _skip(text, index + 1)) < len(text):
            raise json.JSONDecodeError("something after the end", text, index)
    except RecursionError:
        mistakes.add("import.syntax", "this is nested too deeply", where="line 1")
    except json.JSONDecodeError as error:
        message = f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        mistakes.add("import.syntax", message, where=f"line {error.lineno}, column {error.colno}")


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON with the order and the doubles of its keys."""


def _skip(text: str, index: int) -> int:
    found = _SPACE.match(text, index)
    return found.end() if found else index


def _json_row(
    pairs: _Pairs, text: str, begin: int, end: int, start: tuple[int, int], reading: _Reading
) -> Iterator[Row]:
    columns: dict[str, int] = {}
    cells: dict[str, object] = {}
    for name, value in pairs:
        where = f"line {start[0]}, column {start[1]}"
        if name not in reading.columns or name in columns or isinstance(value, _Pairs):  # look for its own place
            found = list(re.finditer(rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:", text[begin:end]))
            if found:
                place = begin + found[-1].start()
                number = start[0] + text.count("\n", begin, place)
                where = f"line {number}, column {place - text.rfind(chr(10), 0, place)}"
        if not reading.known(name, where, columns):
            continue
        if isinstance(value, _Pairs) or (isinstance(value, list) and any(not isinstance(each, str) for each in value)):
            reading.mistakes.add("import.value", f"{name} is neither a value nor a list of texts", where=where)
            continue
        cells[name], columns[name] = value, start[1]
    yield Row(start[0], cells, columns)


def _read_yaml(text: str, reading: _Reading) -> Iterator[Row]:
    mistakes = reading.mistakes
    try:
        yield from _yaml_rows(text, reading)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1"
        mistakes.add("import.syntax", f"this is not YAML: {error.problem or error.context}", where=where)
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML does not know
        mistakes.add("import.syntax", f"this is not YAML: {str(error).partition(chr(10))[0]}", where="line 1")


def _yaml_rows(text: str, reading: _Reading) -> Iterator[Row]:
    events = (event for event in yaml.parse(text, Loader=_LOADER))

    def refuse(event: Any, why: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=why, problem_mark=event.start_mark)

    def mark(event: Any) -> tuple[int, int]:
        return event.start_mark.line + 1, event.start_mark.column + 1

    def following() -> Any:
        event = next(events)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise refuse(event, "anchors and aliases are not taken")
        if getattr(event, "tag", None) not in (None, "!"):
            raise refuse(event, "tags are not taken")
        return event

    def value(event: Any) -> object:
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None or event.style == ""
            return None if plain and event.value in ("", "~", "null", "Null", "NULL") else event.value
        if not isinstance(event, yaml.SequenceStartEvent):
            raise refuse(event, "expecting a value, or a list of texts")
        items: list[str] = []
        while not isinstance(item := following(), yaml.SequenceEndEvent):
            if not isinstance(item, yaml.ScalarEvent):
                raise refuse(item, "expecting a text")
            items.append(item.value)
        return items

    event = next(
        (each for each in events if not isinstance(each, yaml.StreamStartEvent | yaml.DocumentStartEvent)), None
    )
    if event is None or isinstance(event, yaml.StreamEndEvent):
        return
    if not isinstance(event, yaml.SequenceStartEvent):
        raise refuse(event, f"expecting a list of {reading.what}")
    while not isinstance(event := following(), yaml.SequenceEndEvent):
        if not isinstance(event, yaml.MappingStartEvent):
            raise refuse(event, "expecting a mapping")
        line, _ = mark(event)
        cells: dict[str, object] = {}
        columns: dict[str, int] = {}
        while not isinstance(key := following(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise refuse(key, "expecting the name of a column")
            at, column = mark(key)
            found = value(following())
            if reading.known(key.value, f"line {at}, column {column}", columns):
                cells[key.value], columns[key.value] = found, column
        yield Row(line, cells, columns)
    if not isinstance(following(), yaml.DocumentEndEvent) or not isinstance(end := following(), yaml.StreamEndEvent):
        raise refuse(end, "one document is enough")


# Writing


def write(records: Sequence[Mapping[str, Any]], format: Format, columns: Sequence[str], *, between: str = " ") -> str:
    """The text of some records, which `read` understands. In CSV, `between` stands between the texts of a list."""
    rows = [{name: record[name] for name in columns} for record in records]
    if format is Format.JSON:
        return "[" + ",".join("\n" + encode_json(row).decode() for row in rows) + "\n]\n"
    if format is Format.YAML:
        return "".join(_yaml_record(row) for row in rows) or "[]\n"
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\r\n")  # RFC 4180
    lines.writerow(columns)
    for row in rows:
        lines.writerow([_cell(row[name], between) for name in columns])
    return text.getvalue()


def _yaml_record(record: dict[str, Any]) -> str:
    lines = []
    for name, value in record.items():
        if isinstance(value, list):
            lines.append(f"{name}: [{', '.join(map(_yaml, value))}]\n")
        else:
            lines.append(f"{name}: {_yaml(value)}\n")
    return "- " + "  ".join(lines)


def _yaml(value: object) -> str:
    """A scalar; JSON's are YAML's too."""
    if isinstance(value, str) and _SIMPLE.fullmatch(value):
        return value
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _cell(value: object, between: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = between.join(value) if isinstance(value, list) else "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
