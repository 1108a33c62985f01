"""What udb takes and answers.

A user is known by its `id`, which never changes and is never given to another; login, names, uid and group may all
change. `revision` is the feed's revision of the last change, and the user's entity tag. A password is in one answer
alone, `Shown`, and in no feed.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.common.access_settings import AccessSettings
from services.common.changes import Action
from services.common.formats import Format
from services.common.users import LOGIN, UserGroup

USERS_MAX = 3000
"""So many have a uid (`services.common.users.UID_POOLS`)."""


def about(text: str) -> Meta:
    """What a field is, for OpenAPI and docs/udb.md."""
    return Meta(description=text)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `udb`."""

    database: Annotated[str, Meta(description="URL of the database: sqlite:////path or postgresql://host/name")] = (
        "sqlite:////var/lib/backline-udb/udb.db"
    )
    writer_groups: Annotated[
        list[str], Meta(description="groups whose members may change udb over the unix socket, besides root")
    ] = msgspec.field(default_factory=list)
    organizer_groups: Annotated[
        list[str], Meta(description="groups whose members may do over the unix socket what organizers may")
    ] = msgspec.field(default_factory=list)
    private_groups: Annotated[
        list[str],
        Meta(description="groups whose members may follow hashes and keys over the unix socket"),
    ] = msgspec.field(default_factory=lambda: ["backline-udb-private"])
    access: AccessSettings = AccessSettings()
    hall: Annotated[str, Meta(description="the hall's name, for the head of password sheets")] = ""
    htmx: Annotated[
        Path, Meta(description="htmx.min.js of Debian's libjs-htmx; pages do without where it is missing")
    ] = Path("/usr/share/javascript/htmx/htmx.min.js")
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in: an unknown field is a mistake."""


# For OpenAPI: the store is what checks logins, names, shells and keys, as its words say more than a pattern's.
Login = Annotated[str, Meta(max_length=64, extra_json_schema={"pattern": LOGIN})]
_NO_NUL = r"^[^\x00]*$"  # PostgreSQL has no text with one
Name = Annotated[str, Meta(max_length=64, pattern=_NO_NUL, extra_json_schema={"pattern": r"^[^:,\\\x00-\x1f]*$"})]
Shell = Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema={"pattern": "^/[a-z/]+$"})]
Key = Annotated[str, Meta(max_length=4096, pattern=_NO_NUL)]
Keys = Annotated[list[Key], Meta(max_length=16)]
Password = Annotated[str, Meta(min_length=1, max_length=100, extra_json_schema={"pattern": "^[!-~]+$"})]
Uid = Annotated[int, Meta(ge=10_000, le=12_999)]
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # BIGINT


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user as udb knows it. Times are seconds since the epoch; `password_set` is null for who has no password."""

    id: int
    login: str
    firstname: str
    lastname: str
    uid: int
    group: UserGroup
    shell: str
    keys: list[str]
    site_id: int | None
    password_set: float | None
    created: float
    updated: float
    revision: int

    @property
    def name(self) -> str:
        """What people call them; the login where there is no name."""
        return f"{self.firstname} {self.lastname}".strip() or self.login


class NewUser(Strict, frozen=True, kw_only=True):
    """A user to be."""

    login: Annotated[Login, about("What they log in with: a to z, digits, hyphens, underscores; no system user's.")]
    firstname: Annotated[Name, about("First name.")] = ""
    lastname: Annotated[Name, about("Last name.")] = ""
    uid: Annotated[Uid | None, about("Unix user id of the group's pool; the next free one when absent.")] = None
    group: Annotated[UserGroup, about("user (a contestant), orga (an organizer), or root.")] = UserGroup.USER
    shell: Annotated[Shell, about("Login shell.")] = "/bin/bash"
    keys: Annotated[Keys, about("SSH public keys, a line each, without options.")] = []
    password: Annotated[Password | None, about("Password; without one nobody logs in by password.")] = None
    generate: Annotated[bool, about("Have a password made.")] = False
    site_id: Annotated[Id | None, about("Id of their account on the contest's website.")] = None


class UserPatch(Strict, frozen=True, kw_only=True):
    """What to change of a user; what is absent stays."""

    login: Login | UnsetType = UNSET
    firstname: Name | UnsetType = UNSET
    lastname: Name | UnsetType = UNSET
    uid: Uid | UnsetType | None = UNSET
    group: UserGroup | UnsetType = UNSET
    shell: Shell | UnsetType = UNSET
    keys: Keys | UnsetType = UNSET
    password: Annotated[Password | UnsetType | None, about("null takes the password away.")] = UNSET
    generate: Annotated[bool, about("Have a new password made.")] = False
    site_id: Id | UnsetType | None = UNSET


class UsersQuery(Strict, frozen=True, kw_only=True):
    """Which users to list."""

    q: Annotated[str, Meta(max_length=500), about("Words that must hold; see docs/udb.md.")] = ""
    limit: Annotated[int, Meta(ge=1, le=10_000), about("At most so many.")] = 10_000
    offset: Annotated[int, Meta(ge=0, le=1_000_000), about("After so many.")] = 0


class Users(msgspec.Struct, frozen=True, kw_only=True):
    """Users in the order of their logins; `total` is how many there are in all."""

    users: list[User]
    total: int


class Change(Strict, frozen=True, kw_only=True):
    """A user to change; with `match`, only while its revision is that one."""

    id: Id
    patch: UserPatch
    match: int | None = None


class Removal(Strict, frozen=True, kw_only=True):
    """A user to remove; with `match`, only while its revision is that one."""

    id: Id
    match: int | None = None


class Edits(Strict, frozen=True, kw_only=True):
    """Many edits, done all or not at all; `dry` only tells what would be."""

    create: Annotated[list[NewUser], Meta(max_length=USERS_MAX)] = []
    update: Annotated[list[Change], Meta(max_length=USERS_MAX)] = []
    delete: Annotated[list[Removal], Meta(max_length=USERS_MAX)] = []
    dry: bool = False


class Edited(msgspec.Struct, frozen=True, kw_only=True):
    """The users that were made or changed, in the order of the edits."""

    users: list[User]
    dry: bool


class ImportFormat(Enum):
    """How a list of people is written; the last three are tables as an export writes them."""

    NAMES = "names"
    LOGINS = "logins"
    PASSWORDS = "passwords"
    SITE = "site"
    CSV = "csv"
    JSON = "json"
    YAML = "yaml"

    @property
    def table(self) -> Format | None:
        """The form of a table, None for a list of people."""
        return Format(self.value) if self.value in {format.value for format in Format} else None

    @property
    def media_type(self) -> str:
        """What the body is."""
        if self is ImportFormat.SITE:
            return "application/json"
        return "text/plain" if self.table is None else self.table.media_type


class ImportQuery(Strict, frozen=True, kw_only=True):
    """How to import."""

    format: Annotated[ImportFormat, about("names, logins, passwords, site, csv, json or yaml; see docs/udb.md.")]
    group: Annotated[UserGroup, about("Of new users; a table says it itself.")] = UserGroup.USER
    generate: Annotated[bool, about("Have a password made for new users who bring none.")] = True
    dry: Annotated[bool, about("Only tell what would be.")] = False


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a line of an import did; `before` and `after` hold the fields that differ, null for no record."""

    line: int
    id: int
    login: str
    name: str
    action: Action
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did, or with `dry` would do. `changes` are in the order of the lines, without those that agree."""

    created: int
    updated: int
    unchanged: int
    changes: list[Taken]
    dry: bool


class ExportQuery(Strict, frozen=True, kw_only=True):
    """Which users to write down, and how."""

    format: Annotated[Format, about("csv, json or yaml.")] = Format.CSV
    q: Annotated[str, Meta(max_length=500), about("Words that must hold; see docs/udb.md.")] = ""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's password, to be given back; null for who has none. That it was shown is in the history."""

    id: int
    login: str
    firstname: str
    lastname: str
    password: str | None


class SheetRequest(Strict, frozen=True, kw_only=True):
    """Whose passwords to show at once: those with these ids, else all that a query finds."""

    ids: Annotated[list[Id], Meta(max_length=USERS_MAX), about("By id, in this order.")] = []
    q: Annotated[str, Meta(max_length=500), about("Words that must hold, where no id is given.")] = ""


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """Passwords to be printed and given to their owners. That each was shown is in the history."""

    people: list[Shown]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The message of the day; without one the text is empty. `updated` is when that was said last."""

    text: str
    updated: float | None = None


class NewMessage(Strict, frozen=True, kw_only=True):
    """What seats are to show to who has not logged in yet: text alone. An empty one takes it away."""

    text: Annotated[str, Meta(max_length=4000), about("At most 600 characters and 10 lines; others are refused.")]


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The uids of a group, and what is left of them."""

    group: UserGroup
    first: int
    last: int
    used: int
    free: int


class Pools(msgspec.Struct, frozen=True, kw_only=True):
    """Every pool that the caller may see."""

    pools: list[Pool]


class Topic(Enum):
    """Kinds of entries in the history: changes of users, showings of their passwords, messages of the day."""

    USERS = "users"
    SHOWINGS = "showings"
    MESSAGE = "message"


class AuditQuery(Strict, frozen=True, kw_only=True):
    """Which part of the history."""

    user: Annotated[Id | None, about("Of one user, by its id.")] = None
    topic: Annotated[Topic | None, about("Changes, showings of passwords, or messages of the day.")] = None
    before: Annotated[Id | None, about("Older than this entry.")] = None
    limit: Annotated[int, Meta(ge=1, le=1000), about("At most so many.")] = 100
