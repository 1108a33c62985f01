"""A user as a form shows it, and what a form means. Pure.

A form holds every field as text, with the texts that it began with: so only what somebody really changed becomes a
patch. A password is in no form that we send.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from services.common.codec import convert
from services.common.errors import BacklineError
from services.udb.schema import NewUser, User, UserPatch

Texts = dict[str, str]

TITLES: Mapping[str, str] = {
    "login": "Login",
    "firstname": "First name",
    "lastname": "Last name",
    "group": "Group",
    "uid": "Uid",
    "shell": "Shell",
    "site_id": "Account on the website",
    "keys": "SSH keys",
    "password_set": "Password",
}
FIELDS = tuple(name for name in TITLES if name != "password_set")
_OWNERS = {
    "user.login": "login",
    "user.shell": "shell",
    "user.key": "keys",
    "user.uid": "uid",
    "conflict.login": "login",
    "conflict.uid": "uid",
    "conflict.site_id": "site_id",
    "pool": "group",
    "password": "password",
}


class FieldsError(Exception):
    """What is wrong with the fields of a form, by field."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(", ".join(errors.values()))
        self.errors = errors


def texts(user: User) -> Texts:
    """A user's fields as a form shows them, and sends them back when nobody touches them."""
    return {name: text(getattr(user, name)) for name in FIELDS}


def blank() -> Texts:
    """The fields of a user to be."""
    usual = {field.name: field.default for field in msgspec.structs.fields(NewUser)}
    return {name: "" if usual[name] is msgspec.NODEFAULT else text(usual[name]) for name in FIELDS}


def text(value: object) -> str:
    """A value of a field in a form; a key a line."""
    if value is None or value is msgspec.NODEFAULT:
        return ""
    if isinstance(value, list):
        return "\n".join(value)
    return str(getattr(value, "value", value))


def shown(name: str, value: object) -> str:
    """A value of a field of a record or of the history, for people."""
    if name == "password_set":
        return "none" if value is None else "set"
    if name == "keys":
        count = len(value) if isinstance(value, list) else 0
        return f"{count} key{'' if count == 1 else 's'}" if count else "none"
    return "-" if value in (None, "", []) else str(getattr(value, "value", value))


def patch(mine: Mapping[str, str], was: Mapping[str, str], *, password: str, secret: str) -> UserPatch:
    """What was changed in a form; `secret` says what becomes of the password. Raises FieldsError."""
    changed = {name: value for name, value in mine.items() if value != was.get(name, "")}
    plain = _plain(changed, UserPatch)
    match secret:
        case "make":
            plain["generate"] = True
        case "write":
            plain["password"] = _written(password)
        case "none":
            plain["password"] = None
    return convert(plain, UserPatch)


def new(mine: Mapping[str, str], *, password: str, secret: str) -> NewUser:
    """The user that a form describes; what was left empty is as usual. Raises FieldsError."""
    given = {name: value for name, value in mine.items() if value}
    if "login" not in given:
        raise FieldsError({"login": "Login is needed"})
    plain = _plain(given, NewUser)
    if secret == "make":
        plain["generate"] = True
    elif secret == "write":
        plain["password"] = _written(password)
    return convert(plain, NewUser)


def _written(password: str) -> str:
    if not password:
        raise FieldsError({"password": "Password: which one?"})
    if len(password) > 100:
        raise FieldsError({"password": "Password: 100 characters at most"})
    return password


def _plain(given: Mapping[str, str], struct: type[UserPatch] | type[NewUser]) -> dict[str, object]:
    """The fields as the API takes them, each of the right type. Raises FieldsError with every one that is not."""
    plain: dict[str, object] = {}
    errors = {}
    needed = {"login": "x"} if struct is NewUser else {}
    for name, value in given.items():
        plain[name] = _value(name, value)
        try:
            convert({**needed, name: plain[name]}, struct)
        except msgspec.ValidationError as error:
            message = str(error).partition(" - at ")[0]
            errors[name] = f"{TITLES[name]}: {message[:1].lower()}{message[1:]}"
    if errors:
        raise FieldsError(errors)
    return plain


def _value(name: str, value: str) -> object:
    if name == "keys":
        return [line for line in value.splitlines() if line.strip()]
    if name in ("uid", "site_id"):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else value or None
    return value


def field_of(error: BacklineError) -> str | None:
    """The field that a refusal of the store is about, or None."""
    return _OWNERS.get(error.code) or _OWNERS.get(error.code.partition(".")[0])


def merged(mine: Mapping[str, str], was: Mapping[str, str], theirs: Mapping[str, str]) -> Texts:
    """A form's fields with what somebody else changed, except where one changed it oneself."""
    return {name: mine[name] if mine[name] != was.get(name, "") else theirs[name] for name in mine}
