"""The table of hall.toml's fields in docs/hall.md, made from the structs so that it cannot be out of date."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from msgspec import NODEFAULT, inspect

from services.hall.schema import Hall

BEGIN = "<!-- fields: `backline hall fields` prints this table -->"
END = "<!-- end of fields -->"


def field_table() -> str:
    """One row a field: where it stands, its type, its default, what it is. Markdown."""
    rows = ["| field | type | default | what it is |", "| --- | --- | --- | --- |"]
    for path, info, default in _fields(inspect.type_info(Hall), ""):
        text = _description(info)
        rows.append(f"| `{path}` | {_type(info)} | {default} | {text} |")
    return "\n".join(rows) + "\n"


def _fields(info: inspect.Type, path: str) -> Iterator[tuple[str, inspect.Type, str]]:
    info = _plain(info)
    if isinstance(info, inspect.StructType):
        for field in info.fields:
            here = f"{path}.{field.encode_name}".removeprefix(".")
            inner = _inner(field.type)
            if inner is None:
                yield here, field.type, _default(field)
            else:
                yield from _fields(inner[1], here + inner[0])


def _inner(info: inspect.Type) -> tuple[str, inspect.Type] | None:
    """How a struct inside a field is written, or None when there is no struct in it."""
    info = _plain(info)
    if isinstance(info, inspect.DictType):
        steps, child = ".NAME", info.value_type
    elif isinstance(info, inspect.ListType):
        steps, child = "[]", info.item_type
    else:
        steps, child = "", info
    return (steps, child) if isinstance(_plain(child), inspect.StructType) else None


def _plain(info: inspect.Type) -> inspect.Type:
    """Without descriptions and `or nothing`."""
    if isinstance(info, inspect.Metadata):
        return _plain(info.type)
    if isinstance(info, inspect.UnionType):
        others = [member for member in info.types if not isinstance(member, inspect.NoneType)]
        return _plain(others[0]) if len(others) == 1 else info
    return info


def _description(info: inspect.Type) -> str:
    schema = (info.extra_json_schema or {}) if isinstance(info, inspect.Metadata) else {}
    return str(schema.get("description", ""))


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default is None:
        return "none"
    value = field.default
    if value is NODEFAULT and field.default_factory is not NODEFAULT:
        value = field.default_factory()
    if isinstance(value, list) and value:
        return ", ".join(f"`{each.value if isinstance(each, Enum) else each}`" for each in value)
    if isinstance(value, str) or type(value) is int:
        return f"`{value}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value.value}`" if hasattr(value, "value") else "empty"


def _type(info: inspect.Type) -> str:
    info = _plain(info)
    if isinstance(info, inspect.DictType):
        return f"table of {_type(info.value_type)}"
    if isinstance(info, inspect.ListType):
        return f"list of {_type(info.item_type)}"
    if isinstance(info, inspect.EnumType):
        return " or ".join(f"`{member.value}`" for member in info.cls)
    if isinstance(info, inspect.CustomType):
        return {"IPv4Address": "address", "IPv4Network": "network", "IPv4Interface": "address/prefix"}[
            info.cls.__name__
        ]
    if isinstance(info, inspect.IntType):
        return "number" if info.ge is None or info.le is None else f"{info.ge} to {info.le}"
    return {"StrType": "text", "BoolType": "true or false", "DateTimeType": "date and time"}[type(info).__name__]
