"""What browsers send of a form, in both encodings, is read as it was written."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from services.common.errors import UsageError
from services.common.pages.forms import FIELDS_MAX, Form, read_form

MULTIPART = "multipart/form-data; boundary=x"
URLENCODED = "application/x-www-form-urlencoded"
# Browsers end lines in CRLF, and we read a line feed: what else a text may hold comes as it is.
TEXT = st.text(st.characters(exclude_characters="\r\ufeff", exclude_categories=["Cs"]), max_size=60)


def read(kind: str, content: bytes) -> Form:
    """What is read of a body that comes in two pieces."""
    pieces = [content[: len(content) // 2], content[len(content) // 2 :]]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    return asyncio.run(read_form(Request(scope, receive)))


def multipart(fields: list[tuple[str, str]], *, boundary: str = "----WebKitFormBoundary7MA4") -> tuple[str, bytes]:
    """As Chromium writes it (RFC 7578, and the escapes of the HTML standard's "multipart/form-data")."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + text.replace("\n", "\r\n").encode()
        + b"\r\n"
        for name, text in fields
    ]
    return f"multipart/form-data; boundary={boundary}", b"".join(parts) + f"--{boundary}--\r\n".encode()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "notes"]), TEXT), min_size=1, max_size=6))
def test_both_encodings_mean_the_same(fields: list[tuple[str, str]]) -> None:
    crlf = [(name, text.replace("\n", "\r\n")) for name, text in fields]
    for form in (read(URLENCODED, urlencode(crlf).encode()), read(*multipart(fields))):
        for name in ("a", "b", "notes"):
            assert form.all(name) == [text for key, text in fields if key == name]


def test_a_file_is_its_text() -> None:
    kind, content = multipart([("table", "")])
    file = (
        b'------WebKitFormBoundary7MA4\r\nContent-Disposition: form-data; name="file"; filename="m.csv"\r\n'
        b"Content-Type: text/csv\r\n\r\n\xef\xbb\xbfhostname,mac\r\np1,x\r\n\r\n"
    )
    form = read(kind, file + content)
    assert form.raw("file") == "hostname,mac\np1,x\n"
    assert (form.text("table"), "table" in form, "other" in form) == ("", True, False)


@pytest.mark.parametrize(
    ("kind", "content", "code"),
    [
        ("application/json", b"{}", "request.type"),
        ("", b"a=b", "request.type"),
        (URLENCODED, b"a=%ff", "request.syntax"),
        (URLENCODED, b"\xff", "request.syntax"),
        (URLENCODED, b"a&" * (FIELDS_MAX + 1), "request.syntax"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\nz\r\n--x--",
            "request.syntax",
        ),
    ],
)
def test_what_is_no_form_is_refused(kind: str, content: bytes, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(kind, content)
    assert caught.value.code == code
