"""The message of the day, which seats show to who has not logged in yet. Part of `store`.

There is one, or none. It lives in the history alone, whose newest entry of its topic says what it is: a table for one
row would be a new schema, which no older image takes back. What organizers write is text (`services.common.message`).
"""

from __future__ import annotations

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common.changes import Actor
from services.common.errors import InputError
from services.common.feed.wire import Record
from services.common.history import Changed
from services.common.message import clean, problem
from services.common.users import UserGroup
from services.udb.history import MESSAGE, Seen, log
from services.udb.models import AuditRow
from services.udb.schema import Message

KEY = "day"
_NAME = "message of the day"


def load(session: Session) -> Message:
    """The message; an empty text when there is none."""
    query = select(AuditRow.at, AuditRow.after).where(AuditRow.key == KEY, AuditRow.topic == MESSAGE)
    row = session.execute(query.order_by(AuditRow.id.desc()).limit(1)).one_or_none()
    if row is None:
        return Message(text="")
    return Message(text="" if row.after is None else json.loads(row.after)["text"], updated=row.at)


def record(message: Message) -> Record | None:
    """As the feeds carry it; None when there is none."""
    return {"text": message.text, "updated": message.updated} if message.text else None


def wanted(text: str) -> str:
    """What is kept of a text. Raises InputError("message.long")."""
    text = clean(text)
    if (why := problem(text)) is not None:
        raise InputError("message.long", why, hint="say the rest on a page, and its address here")
    return text


def write(session: Session, actor: Actor, text: str, now: float) -> Message:
    """Say another message, none when `text` is empty, with history and feed; the same one again is no change."""
    before = load(session)
    if before.text == text:
        return before
    after = Message(text=text, updated=now)
    change = Changed(MESSAGE, KEY, _NAME, record(before), record(after))
    log(session, actor, [Seen(change, UserGroup.USER)], now)
    return after
