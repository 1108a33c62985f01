"""Queries of people for records: words that must hold, in the API, in search boxes, and on the command line. Pure.

A query is words. All of them must hold; a minus before one turns it around.

- `field:value` compares one field. Several values with commas: one of them. `*` is any text, `?` any letter; without
  them the whole value is meant. A value with brackets is a range (`services.common.ranges`).
- A word without a field is looked for anywhere that a service says.

Quotes keep a space inside of a word, as in a shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, TypeVar

from services.common.errors import UsageError, nearest
from services.common.ranges import expand, is_range

R = TypeVar("R")

Test = Callable[[R], bool]
"""Whether a record is meant."""
Field = Callable[[str], Callable[[R], bool]]
"""From a value to a test. Raises UsageError("query.syntax")."""

YES, NO = ("yes", "true", "1"), ("no", "false", "0")
_COMMA = re.compile(r",(?![^\[]*\])")  # not one in brackets


class Language(Generic[R]):
    """The queries for one kind of record, which people call `what`.

    `whole` says of a word with a colon whether it is a word without a field all the same.
    """

    def __init__(
        self,
        what: str,
        fields: Mapping[str, Field[R]],
        anywhere: Field[R],
        *,
        whole: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.what = what
        self.fields = fields
        self.anywhere = anywhere
        self.whole = whole

    def parse(self, text: str) -> Test[R]:
        """A query as a test of one record. Raises UsageError("query.syntax") with what is wrong and what there is."""
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError("query.syntax", f"the query ends inside of a quote: {text}") from error
        tests = [self._word(word) for word in words]
        return lambda record: all(test(record) for test in tests)

    def _word(self, word: str) -> Test[R]:
        turned = word.startswith("-") and len(word) > 1
        if turned:
            word = word[1:]
        name, colon, value = word.partition(":")
        test = self._field(name, _COMMA.split(value)) if colon and not self.whole(word) else self.anywhere(word)
        return (lambda record: not test(record)) if turned else test

    def _field(self, name: str, values: Sequence[str]) -> Test[R]:
        make = self.fields.get(name)
        if make is None:
            raise UsageError(
                "query.syntax",
                f"{self.what} have no field {name!r}",
                hint=nearest(name, list(self.fields))
                or f"words, or field:value with a field of: {', '.join(self.fields)}",
            )
        tests = [make(value) for value in values]
        return lambda record: any(test(record) for test in tests)


def text(texts: Callable[[R], Collection[str]]) -> Field[R]:
    """A field of one or several texts in lower case."""

    def make(value: str) -> Test[R]:
        if is_range(value):
            names = frozenset(expand(value.lower()))
            return lambda record: not names.isdisjoint(texts(record))
        parts = ({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in re.split(r"([*?])", value.lower()))
        pattern = re.compile("".join(parts), re.DOTALL)
        return lambda record: any(pattern.fullmatch(each) for each in texts(record))

    return make


def number(of: Callable[[R], int]) -> Field[R]:
    """A field of a number."""

    def make(value: str) -> Test[R]:
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise UsageError("query.syntax", f"{value!r} is no number")
        return lambda record: of(record) == int(value)

    return make


def choice(field: str, known: Sequence[str], of: Callable[[R], str]) -> Field[R]:
    """A field that has one of a few values; `field` is what people call it."""

    def make(value: str) -> Test[R]:
        if value not in known:
            raise UsageError("query.syntax", f"{value!r} is no {field}", hint=f"{field}: {', '.join(known)}")
        return lambda record: of(record) == value

    return make


def flag(of: Callable[[R], bool]) -> Field[R]:
    """A field that is yes or no."""

    def make(value: str) -> Test[R]:
        if value.lower() not in (*YES, *NO):
            raise UsageError("query.syntax", f"{value!r} is neither yes nor no")
        wanted = value.lower() in YES
        return lambda record: of(record) is wanted

    return make
