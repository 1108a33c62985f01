"""Lists of records as people ask for them: search, filters, order and page of the address become rows. Pure.

A filter is a word of the service's query language (`services.common.query`) that was picked instead of typed, so that
the same list is to be had on the command line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec

from services.common.query import Test

R = TypeVar("R")

SIZES = (50, 100, 250, 1000)
Size = Literal[50, 100, 250, 1000]


class Asked(Protocol):
    """What the address of a list says, and a field for each filter."""

    @property
    def q(self) -> str: ...
    @property
    def sort(self) -> str: ...
    @property
    def down(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def page(self) -> int: ...


@dataclass(frozen=True)
class Choice:
    """A value of a filter and how many records it would show."""

    value: str
    count: int


@dataclass(frozen=True)
class Filter:
    """A filter with what can be picked; `picked` is empty when it lets everything through."""

    name: str
    title: str
    picked: str
    choices: Sequence[Choice]


@dataclass(frozen=True)
class Listing(Generic[R]):
    """What was found, and the part of it that is shown."""

    found: Sequence[R]
    shown: Sequence[R]
    filters: Sequence[Filter]
    total: int
    page: int
    pages: int

    size: int

    @property
    def first(self) -> int:
        """Number of the first record shown, from 1."""
        return (self.page - 1) * self.size + 1 if self.shown else 0


Filters = Mapping[str, tuple[str, Callable[[R], Sequence[str]]]]
"""Filters by name: what people call each, and the values that a record has."""
Orders = Mapping[str, Callable[[R], tuple[object, ...]]]


class Lists(Generic[R]):
    """Lists of one kind of record. `word` is the word of the query language for a filter's value."""

    def __init__(
        self,
        *,
        filters: Filters[R],
        orders: Orders[R],
        word: Callable[[str, str], str],
        parse: Callable[[str], Test[R]],
    ) -> None:
        self.filters = filters
        self.orders = orders
        self.word = word
        self.parse = parse

    def words(self, asked: Asked) -> str:
        """The whole query, search and filters. Raises nothing: what is wrong with it shows when it is parsed."""
        picked = [self.word(name, value) for name in self.filters if (value := getattr(asked, name))]
        return " ".join([*([asked.q.strip()] if asked.q.strip() else []), *picked])

    def listing(self, records: Sequence[R], asked: Asked) -> Listing[R]:
        """The list. Raises UsageError("query.syntax")."""
        test = self.parse(asked.q)
        searched = [record for record in records if test(record)]
        picked = {name: value for name in self.filters if (value := getattr(asked, name))}
        counts: dict[str, Counter[str]] = {name: Counter() for name in self.filters}
        found = []
        for record in searched:
            values = {name: of(record) for name, (_, of) in self.filters.items()}
            missed = [name for name, value in picked.items() if value not in values[name]]
            if not missed:
                found.append(record)
            for name in self.filters:
                if missed in ([], [name]):  # what one would see after picking another value of this filter
                    counts[name].update(values[name])
        found.sort(key=self.orders[asked.sort], reverse=bool(asked.down))
        pages = max(1, -(-len(found) // asked.size))
        page = min(asked.page, pages)
        return Listing(
            found=found,
            shown=found[(page - 1) * asked.size : page * asked.size],
            filters=[
                Filter(name, title, picked.get(name, ""), _choices(counts[name], picked.get(name, "")))
                for name, (title, _) in self.filters.items()
            ],
            total=len(records),
            page=page,
            pages=pages,
            size=asked.size,
        )

    def nothing(self, asked: Asked, *, total: int) -> Listing[R]:
        """The list of a query that cannot be read; what was picked stays picked."""
        filters = [
            Filter(name, title, value, [Choice(value, 0)] if value else [])
            for name, (title, _) in self.filters.items()
            for value in [getattr(asked, name)]
        ]
        return Listing(found=[], shown=[], filters=filters, total=total, page=1, pages=1, size=asked.size)


def address(asked: msgspec.Struct, **changed: object) -> dict[str, object]:
    """The values of a list's address with some changed, without those that are the usual ones."""
    values: dict[str, Any] = {**msgspec.structs.asdict(asked), "done": None, **changed}
    usual = msgspec.structs.asdict(type(asked)())
    return {name: value for name, value in values.items() if value != usual[name]}


def _choices(counts: Counter[str], picked: str) -> list[Choice]:
    values = {*counts, *([picked] if picked else [])}
    return [Choice(value, counts[value]) for value in sorted(values, key=natural)]


def natural(text: str) -> tuple[tuple[str, int], ...]:
    """A key that puts p9 before p10."""
    parts = re.split(r"([0-9]{1,18})", text)
    return tuple((before, int(digits)) for before, digits in zip(parts[::2], [*parts[1::2], "-1"], strict=True))
