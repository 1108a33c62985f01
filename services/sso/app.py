"""Single sign-on over HTTP: one question, from nginx alone, about the caller that nginx sees.

Nobody else is told who sits where: neither other processes of this host, nor root, who can ask presence. The answer is
always 204, so that nginx's auth_request lets everybody in; what a page makes of who it is, is the page's.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from services.common.access import Access, access_of
from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.errors import AccessError
from services.common.feed.mirror import Mirror, Mirrors
from services.sso.quick import Counts
from services.sso.schema import Machine, Session, Settings
from services.sso.who import AUTHENTICATED, Who


class Handlers(Collector):
    """The handler, and what it has counted."""

    def __init__(self, who: Who, counts: Counts) -> None:
        self.who = who
        self.counts = counts

    async def whois(self, request: Request) -> Response:
        """Who sits at the address in X-Real-IP: headers X-SSO-User, when somebody is known, and X-SSO-Status."""
        if not access_of(request).from_proxy(request):
            raise AccessError("auth.denied", "only nginx of this host is told who sits where", hint="ask presence")
        answer = self.who.at(request.headers.get("x-real-ip"))
        headers = {"x-sso-status": answer.status}
        if answer.login is not None:
            headers["x-sso-user"] = answer.login
        self.counts.count(answer)
        return Response(status_code=204, headers=headers)

    def collect(self) -> list[CounterMetricFamily]:
        """Answers by whether somebody was known."""
        answers = CounterMetricFamily("backline_sso_answers", "Questions of nginx", labels=["status"])
        answers.add_metric([AUTHENTICATED], self.counts.known)
        answers.add_metric(["anonymous"], self.counts.unknown)
        quick = CounterMetricFamily("backline_sso_quick", "Questions in nginx's own form", value=self.counts.quick)
        return [answers, quick]


def make_who(settings: Settings) -> Who:
    """What the settings say to follow; nobody is followed yet."""

    def memory(name: str) -> Path | None:
        return Path(settings.memory) / f"{name}.json" if settings.memory else None

    return Who(
        Mirror.at(settings.mdb, "machines", Machine, memory=memory("mdb"), by=lambda machine: machine.ip),
        Mirror.at(settings.presence, "sessions", Session, memory=memory("presence"), by=lambda each: str(each.machine)),
        settings.overrides,
    )


def make_app(who: Who, access: Access, counts: Counts | None = None) -> Application:
    """The service's application; it follows mdb and presence while it lives."""
    its = Handlers(who, counts or Counts())
    feeds = Mirrors({"mdb": who.machines, "presence": who.sessions})

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        app.metrics.registry.register(its)
        async with feeds.run(app.metrics):
            yield

    return create_app(
        service="sso",
        access=access,
        description="Who sits at an address, for nginx.",
        checks=feeds.checks(),
        lifespan=lifespan,
        routes=[
            Operation("GET", "/v1/whois", its.whois, summary="Who is there?", status=204, errors=[403]),
        ],
    )
