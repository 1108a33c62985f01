"""What a form of a page sends, in either of the two encodings that browsers have.

`application/x-www-form-urlencoded` (https://url.spec.whatwg.org/) by urllib, `multipart/form-data` (RFC 7578), which
brings files, by the standard library's MIME parser. Text is UTF-8, its lines end in a line feed alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request

from services.common.edge import BODY_SECONDS
from services.common.errors import BacklineError, BusyError, UsageError

FIELDS_MAX = 50_000


class Form:
    """The fields of a form by name. A file is its text; one that was not chosen is empty."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def text(self, name: str) -> str:
        """The value of a field, without white space around it; empty when it is not there."""
        return self.raw(name).strip()

    def raw(self, name: str) -> str:
        """The value of a field as it came."""
        return (self._fields.get(name) or [""])[0]

    def all(self, name: str) -> list[str]:
        """Every value of a field that may be there several times."""
        return self._fields.get(name, [])


async def read_form(request: Request) -> Form:
    """Raises UsageError: `request.type`, `request.syntax`, `request.late`."""
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        raise UsageError("request.type", f"the body is {kind or 'of no named type'}, not a form")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            content = await request.body()
    except TimeoutError as error:
        raise UsageError("request.late", f"the form took longer than {BODY_SECONDS:.0f} s") from error
    try:
        if kind == "multipart/form-data":
            fields = await asyncio.to_thread(_parts, content_type, content)
        else:
            fields = parse_qs(content.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError as error:  # UnicodeDecodeError too
        raise UsageError("request.syntax", "this is not a form in UTF-8") from error
    return Form({name: [_lines(value) for value in values] for name, values in fields.items()})


def was_of(form: Form) -> dict[str, str]:
    """The texts that a form's fields began with, as its hidden field `was` brings them back.

    Raises UsageError("request.syntax").
    """
    try:
        return msgspec.json.decode(form.raw("was") or "{}", type=dict[str, str])
    except msgspec.DecodeError as error:
        raise UsageError("request.syntax", "the form is not one of ours") from error


def revision_of(form: Form) -> int:
    """The revision at which a form showed its record. Raises UsageError("request.syntax")."""
    value = form.text("match")
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise UsageError("request.syntax", f"the form's revision is {value or 'missing'}")
    return int(value)


def refused(error: BacklineError) -> int:
    """The status of a page whose form was refused."""
    return 409 if isinstance(error, BusyError) else 422


def _parts(content_type: str, content: bytes) -> dict[str, list[str]]:
    """Raises ValueError."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
    message = BytesParser(EmailMessage, policy=HTTP).parsebytes(head + content)
    found: dict[str, list[str]] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(data, bytes):
            raise ValueError("a part without a name")  # noqa: TRY004
        found.setdefault(name, []).append(data.decode("utf-8-sig"))
    return found


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
