"""The forms in which records are exported and imported (`services.common.tables` reads and writes them)."""

from __future__ import annotations

from enum import Enum


class Format(Enum):
    """How records are written down."""

    CSV = "csv"
    JSON = "json"
    YAML = "yaml"

    @property
    def media_type(self) -> str:
        """RFC 7111, RFC 8259, RFC 9512."""
        return "text/csv" if self is Format.CSV else f"application/{self.value}"
