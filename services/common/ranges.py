"""Host ranges: `pas-r[01-08]p[01-12]` is 96 names, from pas-r01p01 to pas-r08p12. Pure.

In brackets are numbers and spans of numbers, with commas; a span counts upwards, in as many digits as its first number
is written with. Several brackets are every combination, the last one counting fastest.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

from services.common.errors import UsageError

LIMIT = 20_000
"""At most so many names; a range of more is a slip of the finger."""

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
_HINT = "such as pas-r[01-08]p[01-12] or gw[1,3-5]"


def is_range(text: str) -> bool:
    """Whether `text` has a bracket, so that it is meant as a range."""
    return "[" in text or "]" in text


def expand(text: str, *, limit: int = LIMIT) -> list[str]:
    """The names of a range, in order; `text` itself when it has no brackets.

    Raises UsageError: `range.syntax`, `range.size` for more than `limit` names, `range.twice` for a name that comes
    twice.
    """
    pieces = _BRACKETS.split(text)
    fixed, brackets = pieces[::2], pieces[1::2]
    if any(is_range(piece) for piece in fixed):
        raise UsageError("range.syntax", f"{text!r} has a bracket without its other half", hint=_HINT)
    spans = [[_span(text, part) for part in bracket.split(",")] for bracket in brackets]
    size = math.prod(sum(last - first + 1 for first, last, _ in bracket) for bracket in spans)
    if size > limit:
        raise UsageError("range.size", f"{text!r} is {size} names, more than {limit}")
    names = [
        "".join(itertools.chain.from_iterable(itertools.zip_longest(fixed, numbers, fillvalue="")))
        for numbers in itertools.product(*(list(_numbers(bracket)) for bracket in spans))
    ]
    if len(set(names)) < len(names):
        double = next(name for index, name in enumerate(names) if name in names[:index])
        raise UsageError("range.twice", f"{text!r} has {double} twice")
    return names


def _span(text: str, part: str) -> tuple[int, int, int]:
    """First, last and the number of digits."""
    found = _SPAN.fullmatch(part.strip())
    if found is None:
        raise UsageError("range.syntax", f"{part!r} in {text!r} is neither a number nor a span", hint=_HINT)
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise UsageError("range.syntax", f"{part} in {text!r} ends before it begins", hint=_HINT)
    return first, last, len(found[1])


def _numbers(spans: Sequence[tuple[int, int, int]]) -> Iterator[str]:
    for first, last, digits in spans:
        for number in range(first, last + 1):
            yield f"{number:0{digits}}"
