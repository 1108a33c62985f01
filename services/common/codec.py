"""Structs to and from plain data and JSON, with the house's extra types: ipaddress addresses and networks, and Path.

msgspec does the work; these hooks are in one place so that a type means the same in TOML, on the wire and in OpenAPI.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TypeVar

import msgspec

T = TypeVar("T")

_ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


def convert(data: object, type: type[T], *, strict: bool = True) -> T:
    """msgspec.convert with the house's types; lax takes `"3"` for a number. Raises msgspec.ValidationError."""
    return msgspec.convert(data, type=type, strict=strict, dec_hook=_from_wire)


def decode_json(content: bytes, type: type[T]) -> T:
    """Strict. Raises msgspec.ValidationError for a wrong value, msgspec.DecodeError for what is no JSON."""
    return msgspec.json.decode(content, type=type, dec_hook=_from_wire)


def encode_json(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    return msgspec.json.encode(value, enc_hook=_to_wire)


def to_builtins(value: object) -> object:
    """Plain dicts, lists and scalars."""
    return msgspec.to_builtins(value, enc_hook=_to_wire)


def json_schemas(types: Sequence[object]) -> tuple[tuple[dict[str, object], ...], dict[str, dict[str, object]]]:
    """JSON Schema 2020-12 of each type, and the components they refer to as #/components/schemas/NAME."""
    schemas, components = msgspec.json.schema_components(
        list(types), schema_hook=_schema, ref_template="#/components/schemas/{name}"
    )
    return tuple(schemas), dict(components)


def _from_wire(type: type, value: object) -> object:
    if type in _ADDRESSES and isinstance(value, str):
        try:
            return type(value)
        except ValueError as error:
            kind = type.__name__[:4] + " " + type.__name__[4:].lower()
            raise ValueError(f"{value!r} is not an {kind}: {error}") from error
    if type is Path and isinstance(value, str):
        return Path(value)
    if type in _ADDRESSES or type is Path:
        raise ValueError(f"Expected a string, got {value!r}")
    raise NotImplementedError(f"no conversion to {type.__name__}")


def _to_wire(value: object) -> object:
    if isinstance(value, (*_ADDRESSES, PurePath)):
        return str(value)
    raise NotImplementedError(f"no conversion from {type(value).__name__}")


def _schema(type: type) -> dict[str, object]:
    if type in _ADDRESSES:
        return {
            "type": "string",
            "format": type.__name__[:4].lower() + type.__name__[4:].lower().replace("address", ""),
        }
    if type is Path:
        return {"type": "string"}
    raise NotImplementedError(f"no schema of {type.__name__}")
