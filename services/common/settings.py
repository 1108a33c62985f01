"""Typed settings: a struct per service, filled from its defaults, a TOML file and the environment.

The environment wins over the file, the file over the default. The file of section `hostd` holds its keys at the top
(nested structs are tables); the variable of `limits.lines` is BACKLINE_HOSTD_LIMITS_LINES, a list is written with
commas. What is unknown or of the wrong type is refused with the place it came from. A setting holds no secret: secrets
are systemd credentials.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import inspect

from services.common.codec import convert
from services.common.errors import InputError, nearest
from services.common.toml import decode, load

T = TypeVar("T", bound=msgspec.Struct)

FOLDER = Path("/etc/backline")


@dataclass(frozen=True)
class Setting:
    """One leaf of a settings struct, as the reference shows it."""

    path: tuple[str, ...]
    variable: str
    type: inspect.Type
    default: object
    doc: str

    @property
    def key(self) -> str:
        return ".".join(self.path)


def read(type: type[T], *, section: str, file: Path | None = None, environ: Mapping[str, str] | None = None) -> T:
    """The settings of `section`. A `file` that is given must exist; the usual /etc/backline/<section>.toml need not.

    Every field of `type` has a default. Raises InputError: `settings.missing`, `settings.syntax`, `settings.invalid`.
    """
    environ = os.environ if environ is None else environ
    data: dict[str, object] = {}
    source = "the environment"
    if file is not None or (FOLDER / f"{section}.toml").exists():
        document = load(file or FOLDER / f"{section}.toml")
        decode(document, type)
        data = _copy(document.data)
        source = str(document.path)
    for setting, value in _from_environment(type, section, environ):
        try:
            convert(_put({}, setting.path, value), type, strict=False)
        except msgspec.ValidationError as error:
            message = str(error).rsplit(" - at `", 1)[0]
            raise InputError(
                "settings.invalid",
                f"{setting.variable}: {message[:1].lower()}{message[1:]}",
                hint=f"wanted: {type_text(setting.type)}" + (f" ({setting.doc})" if setting.doc else ""),
                where="environment",
            ) from error
        _put(data, setting.path, value)
    try:
        return convert(data, type, strict=False)
    except msgspec.ValidationError as error:  # a rule over several fields, of which each is right
        raise InputError("settings.invalid", str(error), where=source) from error


def settings(type: type[msgspec.Struct], section: str) -> list[Setting]:
    """Every leaf of a settings struct, in the order of the struct."""
    return list(_leaves(type, section, ()))


def reference(type: type[msgspec.Struct], section: str) -> str:
    """A Markdown table of a settings struct, for the documentation."""
    rows = [("key", "environment", "type", "default", "meaning"), ("---",) * 5]
    for setting in settings(type, section):
        default = "" if setting.default is None else f"`{_default_text(setting.default)}`"
        rows.append((f"`{setting.key}`", f"`{setting.variable}`", type_text(setting.type), default, setting.doc))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def type_text(info: inspect.Type) -> str:
    """A type in the words of an administrator."""
    match info:
        case inspect.UnionType():
            return " or ".join(type_text(member) for member in info.types if not isinstance(member, inspect.NoneType))
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return f"list of {type_text(info.item_type)}"
        case inspect.LiteralType():
            return " or ".join(f"`{value}`" for value in info.values)
        case inspect.Metadata():
            return type_text(info.type)
        case inspect.CustomType():
            return info.cls.__name__.lower()
        case inspect.IntType():
            bounds = [f"from {info.ge}"] if info.ge is not None else []
            bounds += [f"to {info.le}"] if info.le is not None else []
            return " ".join(["whole number", *bounds])
        case inspect.BoolType():
            return "true or false"
        case inspect.FloatType():
            return "number"
        case inspect.StrType():
            return "text"
        case _:
            return type(info).__name__.removesuffix("Type").lower()


def _leaves(kind: type[msgspec.Struct], section: str, base: tuple[str, ...]) -> Iterator[Setting]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        path = (*base, field.encode_name)
        doc, inner = "", field.type
        while isinstance(inner, inspect.Metadata):
            doc = str((inner.extra_json_schema or {}).get("description", doc))
            inner = inner.type
        if isinstance(inner, inspect.StructType):
            yield from _leaves(inner.cls, section, path)
            continue
        default = field.default
        if default is msgspec.NODEFAULT:
            if field.default_factory is msgspec.NODEFAULT:
                raise TypeError(f"setting {section}.{'.'.join(path)} has no default")
            default = field.default_factory()
        variable = "_".join(["BACKLINE", section, *path]).upper().replace("-", "_")
        yield Setting(path, variable, inner, default, doc)


def _from_environment(
    type: type[msgspec.Struct], section: str, environ: Mapping[str, str]
) -> Iterator[tuple[Setting, object]]:
    known = {setting.variable: setting for setting in settings(type, section)}
    prefix = f"BACKLINE_{section}_".upper().replace("-", "_")
    for variable in sorted(name for name in environ if name.startswith(prefix)):
        if variable not in known:
            hint = nearest(variable, list(known)) or f"known variables: {', '.join(known)}"
            raise InputError("settings.invalid", f"{variable}: no such setting", hint=hint, where="environment")
        yield known[variable], _parse(known[variable].type, environ[variable])


def _parse(info: inspect.Type, text: str) -> object:
    members = info.types if isinstance(info, inspect.UnionType) else (info,)
    lists = (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType)
    if any(isinstance(member, lists) for member in members):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _put(data: dict[str, object], path: tuple[str, ...], value: object) -> dict[str, object]:
    table = data
    for step in path[:-1]:
        inner = table.setdefault(step, {})
        assert isinstance(inner, dict)
        table = inner
    table[path[-1]] = value
    return data


def _copy(data: Mapping[str, object]) -> dict[str, object]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _default_text(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list | tuple | set | frozenset):
        return ", ".join(str(item) for item in default)
    return str(default)
