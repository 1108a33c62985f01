"""Pages over HTTP, without a script: as much of a browser as that needs."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser

import httpx2

from tests.common.service_rig import Service


class Forms(HTMLParser):
    """The forms of a page: by action, the values that a browser would send as they stand."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str]] = {}
        self._form: dict[str, str] = {}
        self._select = self._area = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        match tag:
            case "form":
                self._form = self.found.setdefault(given["action"], {})
            case "input" if given.get("type") in ("checkbox", "radio") and "checked" not in given:
                pass
            case "input" if "name" in given:
                self._form[given["name"]] = given.get("value", "")
            case "select":
                self._select = given["name"]
            case "option" if self._select and ("selected" in given or self._select not in self._form):
                self._form[self._select] = given.get("value", "\0")
            case "textarea":
                self._area = given["name"]
                self._form[self._area] = ""

    def handle_data(self, data: str) -> None:
        if self._select and self._form.get(self._select) == "\0":
            self._form[self._select] = data
        if self._area:
            self._form[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        if tag == "textarea":  # HTML drops a line break that it begins with
            self._form[self._area] = self._form[self._area].removeprefix("\n")
            self._area = ""


class Browser(httpx2.Client):
    """As much of a browser as HTTP needs: says that it wants pages, and where a form comes from.

    `root`: over the unix socket, under the service's `name`; else a stranger on the network.
    """

    def __init__(self, service: Service, *, root: bool = True, name: str = "mdb") -> None:
        super().__init__(
            base_url=f"http://{name}" if root else service.http,
            transport=httpx2.HTTPTransport(uds=str(service.socket) if root else None),
            headers={"accept": "text/html,*/*;q=0.8", "sec-fetch-site": "same-origin"},
            timeout=30,
            follow_redirects=True,
        )

    def page(self, path: str, *, status: int = 200) -> str:
        answer = self.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def fill(self, path: str, values: Mapping[str, str | Sequence[str]], *, status: int = 200) -> str:
        answer = self.post(path, data=values)
        assert answer.status_code == status, answer.text
        return answer.text


def text_of(page: str) -> str:
    """What a page says, without its marks."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
