"""Pages for people: one look, one content security policy, and nothing from another address.

A service makes one `Pages` with its templates and its navigation; `Page` is a route of it. Every page works without a
script; htmx, from a file of the system, and `static/pages.js` make it quick. There is no inline script and no inline
style, so the policy allows none. What a browser asks for and does not get is answered by a page, and everybody else by
the usual problem document.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.access import COOKIE
from services.common.errors import AccessError, MissingError
from services.common.problem import Problem
from services.common.sso import seated

HTMX = Path("/usr/share/javascript/htmx/htmx.min.js")  # of Debian's package libjs-htmx
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-cache",
}
_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_SAFE = ("GET", "HEAD", "OPTIONS")


class Visitor(Protocol):
    """Who looks at a page, as the layout shows it; `name` is empty for nobody in particular."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Link:
    """An entry of the navigation; pages whose path begins with `path` belong to it. A private one needs a visitor."""

    text: str
    path: str
    private: bool = False


SITES = (
    ("overview", "Hall"),
    ("map", "Map"),
    ("mdb", "Machines"),
    ("udb", "Users"),
    ("rollout", "Rollouts"),
    ("firewall", "Firewall"),
)
"""Services of gw that have pages, in the order of the header, and what they are called there."""

Handler = Callable[[Request], Awaitable[Response]]


class Page(Route):
    """A route that answers with a page. What could change something is taken from our own pages only."""

    def __init__(self, method: str, path: str, handler: Handler, *, max_body_size: int | None = None) -> None:
        async def endpoint(request: Request) -> Response:
            if request.method not in _SAFE:
                own_origin(request)
            response = await handler(request)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        super().__init__(path, endpoint, methods=[method], include_in_schema=False, max_body_size=max_body_size)


def own_origin(request: Request) -> None:
    """Raises AccessError("auth.origin") for a form that a page of another origin sent.

    Browsers name where a request comes from in Sec-Fetch-Site, and in Origin when it is a POST. A program names
    neither: nobody can lead it to do what its user did not want (https://www.w3.org/TR/fetch-metadata/).
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site not in (None, "same-origin", "none")
    if site is None and origin is not None:
        foreign = urlsplit(origin).netloc != request.headers.get("host")
    if foreign:
        raise AccessError("auth.origin", "this form was sent by a page of somebody else")


def for_people(request: Request) -> bool:
    """Does a browser ask for a page here? Below /v1 are programs."""
    by_htmx = request.headers.get("hx-request") == "true"
    return not request.url.path.startswith("/v1/") and (by_htmx or "text/html" in request.headers.get("accept", ""))


class Pages:
    """The pages of one service.

    `visitor` says who is looking, and never raises; `htmx` need not exist, then pages do without. With `login`, the
    application has the routes of `services.common.sessions`. `static` is a folder of files beside those of all.
    """

    def __init__(
        self,
        service: str,
        *,
        title: str,
        templates: Path,
        navigation: Sequence[Link],
        visitor: Callable[[Request], Visitor],
        htmx: Path = HTMX,
        login: bool = False,
        static: Path | None = None,
    ) -> None:
        self.service = service
        self.navigation = navigation
        self.visitor = visitor
        self.login = login
        folders = [_HERE / "static", *([static] if static else [])]
        self._files = {path.name: path.read_bytes() for folder in folders for path in sorted(folder.iterdir())}
        if htmx.is_file():
            self._files["htmx.js"] = htmx.read_bytes()
        self._tags = {name: hashlib.sha256(data).hexdigest()[:12] for name, data in self._files.items()}
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([templates, _HERE / "templates"]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.do"],
        )
        self._environment.globals |= {
            "service": service,
            "service_title": title,
            "static": self.address,
            "has_htmx": "htmx.js" in self._files,
            "site_titles": SITES,
        }
        self._environment.filters |= {
            "moment": moment,
            "iso": iso,
            "number": number,
            "query": query,
            "shell": shlex.quote,
            "bytes": size,
        }

    def routes(self) -> list[BaseRoute]:
        """The files that every page needs, and the end of a session."""
        return [
            Page("GET", "/static/{name}", self._static),
            Page("GET", "/favicon.ico", self._icon),
            Page("POST", "/logout", self._log_out),
        ]

    async def answer(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **context: object,
    ) -> Response:
        """A page from a template, rendered in a thread: a table of a thousand rows takes its time."""
        visitor = self.visitor(request)
        path = request.url.path
        seen = {
            "visitor": visitor,
            "seated": seated(request),
            "path": path,
            "sites": sites(self.service, request),
            "navigation": [link for link in self.navigation if visitor.name or not link.private],
            "login": f"/login?{urlencode({'next': here(request)})}" if self.login else None,
            "session": COOKIE in request.cookies,
            **context,
        }
        text = await asyncio.to_thread(self._environment.get_template(template).render, seen)
        return Response(text, status_code=status, headers={**HEADERS, **(headers or {})}, media_type="text/html")

    async def part(self, template: str, **context: object) -> Markup:
        """A piece of a page that is the same for whoever looks, to be kept and put into `answer`'s."""
        return Markup(await asyncio.to_thread(self._environment.get_template(template).render, context))

    async def error(self, request: Request, problem: Problem) -> Response | None:
        """The page of a failure, for browsers. htmx puts it where the page was, whatever it wanted to replace."""
        if not for_people(request):
            return None
        headers = {"hx-retarget": "#main", "hx-reselect": "#main", "hx-reswap": "outerHTML"}
        return await self.answer(request, "error.html", status=problem.status, headers=headers, problem=problem)

    def address(self, name: str) -> str:
        """Where a file of the pages is, under an address that changes with it."""
        return f"/static/{name}?v={self._tags[name]}"

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise MissingError("http.not-found", f"there is no file {name} here")
        current = request.query_params.get("v") == self._tags[name]
        kept = "public, max-age=31536000, immutable" if current else "no-cache"
        headers = {**HEADERS, "cache-control": kept, "etag": f'"{self._tags[name]}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(self._files[name], headers=headers, media_type=_TYPES[Path(name).suffix])

    async def _log_out(self, _: Request) -> Response:
        answer = RedirectResponse("/", status_code=303)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")
        return answer

    async def _icon(self, _: Request) -> Response:
        return RedirectResponse(self.address("icon.svg"), status_code=302)


def here(request: Request) -> str:
    """The address that was asked for, without host: where to come back to."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def sites(service: str, request: Request) -> dict[str, str]:
    """Where the pages of each service are, by its name: beside ours, when we are asked by our own name.

    Under an address, as behind a forwarded port, nobody knows: then it is empty.
    """
    host = request.headers.get("host", "")
    label, dot, rest = host.partition(".")
    name, _, port = label.partition(":")
    if name != service:
        return {}
    rest = dot + rest + (f":{port}" if port else "")
    return {name: f"//{name}{rest}" for name, _ in SITES}


def size(value: float) -> str:
    """Bytes for people: `1.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or (unit == "B" and value < 1000):
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def moment(seconds: float) -> str:
    """A time for people, in this host's zone: `2026-11-21 14:03:05`."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: float) -> str:
    """A time for programs."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def number(value: int) -> str:
    """`12,345`."""
    return f"{value:,}"


def query(values: Mapping[str, object]) -> str:
    """The query of an address, without what is empty."""
    return urlencode({name: value for name, value in values.items() if value not in ("", None)})
