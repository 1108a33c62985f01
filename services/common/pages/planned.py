"""The preview of an import, as `import_planned.html` shows it: a page of a service fills in what it calls things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Row(Generic[T, D]):
    """A line of a table and what it would change; a difference has `title`, `before` and `after`."""

    taken: T
    differences: Sequence[D]
