"""Read hall.toml and check it: what comes out is consistent, what is wrong has file and line.

As many mistakes as can be found in one go are reported together, in an InputError whose code begins with `hall.`:
missing, unreadable, syntax, secret, invalid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import msgspec

from services.common import toml
from services.common.codec import convert
from services.common.errors import InputError
from services.hall import keys, rules
from services.hall.schema import Hall


def load(path: Path) -> Hall:
    """Read and check a hall.toml. Raises InputError("hall.*") with file and line of every mistake that was found."""
    return check(toml.load(path, area="hall"))


def check(document: toml.TomlDocument) -> Hall:
    """A parsed hall.toml as a consistent Hall; raises as `load` does."""
    _refuse_secrets(document)
    errors: list[InputError] = []
    hall = _decode(document, errors)
    if hall is not None and not errors:
        errors += [document.error(item.keypath, item.message, hint=item.hint) for item in rules.mistakes(hall)]
    if errors or hall is None:
        raise together(errors, document.path)
    return hall


def together(errors: list[InputError], path: Path) -> InputError:
    """One error for many: a summary line, then one line each in the order of the file."""
    if len(errors) == 1:
        return errors[0]
    lines = []
    for error in sorted(errors, key=lambda error: int((error.where or "").rpartition(":")[2] or 0)):
        lines.append(f"  {error}" + (f" ({error.hint})" if error.hint else ""))
    return InputError("hall.invalid", "\n".join([f"{len(errors)} mistakes", *lines]), where=str(path))


def _decode(document: toml.TomlDocument, errors: list[InputError]) -> Hall | None:
    """Convert; on a mistake within one host or network, leave that one out and look on."""
    whole = document.data
    try:
        while True:
            try:
                return toml.decode(document, Hall)
            except InputError as error:
                errors.append(error)
            keypath = _guilty(document.data)
            if len(keypath) < 2 or keypath[0] not in ("networks", "hosts"):
                return None
            section = dict(cast(Mapping[str, object], document.data[str(keypath[0])]))
            del section[str(keypath[1])]
            document.data = {**document.data, str(keypath[0]): section}
    finally:
        document.data = whole


def _guilty(data: Mapping[str, object]) -> toml.KeyPath:
    try:
        convert(data, Hall)
    except msgspec.ValidationError as error:
        return toml.locate(data, Hall, error)[1]
    return ()


def _walk(value: object, keypath: toml.KeyPath) -> Iterator[tuple[toml.KeyPath, object]]:
    yield keypath, value
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _walk(child, (*keypath, str(key)))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _walk(child, (*keypath, index))


def _refuse_secrets(document: toml.TomlDocument) -> None:
    """Raise InputError("hall.secret") when the file, a comment of it, or the name of a field holds a secret."""
    hint = "hall.toml is given to every machine: secrets go into /etc/credstore, as systemd credentials"
    for number, line in enumerate(document.text.split("\n"), 1):
        if found := keys.looks_secret(line):
            where = f"{document.path}:{number}"
            raise InputError("hall.secret", f"{found} must not be in hall.toml", hint=hint, where=where)
    for keypath, value in _walk(document.data, ()):
        field = keypath[-1] if keypath else ""
        free = len(keypath) == 2 and keypath[0] in ("hosts", "networks")  # names that the administrator chooses
        if isinstance(field, str) and not free and not isinstance(value, Mapping) and keys.names_secret(field):
            message = f"{toml.dotted(keypath)}: a secret must not be in hall.toml"
            raise InputError("hall.secret", message, hint=hint, where=document.where(keypath))
        if isinstance(value, str) and (found := keys.looks_secret(value)):
            message = f"{toml.dotted(keypath)}: {found} must not be in hall.toml"
            raise InputError("hall.secret", message, hint=hint, where=document.where(keypath))
