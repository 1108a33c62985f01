"""Mirrors that hold what a test says, as if an owner had told it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from services.common.feed.mirror import Mirror
from services.common.feed.wire import Record

T = TypeVar("T", bound=msgspec.Struct)


def mirrored(type: type[T], records: Iterable[Record]) -> Mirror[T]:
    """A mirror of nobody, with these records; their keys count from 0."""
    mirror = Mirror.at("unix:/nowhere", "things", type)
    mirror.take({("things", str(number)): record for number, record in enumerate(records)})
    return mirror
