"""The HTTP face of the supervisor: who changes this host, and how.

Everything is for root of this host, by the kernel's word on the unix socket, and for callers over TLS whose certificate
has scope `host`. What everybody may see of a host is hostd's to tell (`services.hostd.app`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.access import Access, Caller, Role, require
from services.common.app import Application, create_app
from services.common.codec import encode_json
from services.common.edge import Operation, read_body, read_query
from services.common.errors import BacklineError, UsageError
from services.common.identity import ImageIdentity
from services.hostd.app import Hostd
from services.hostd.machines_seen import MachineDetail, Machines
from services.hostd.schema import Host, Journal, JournalQuery, UnitDetail, Units, UnitsQuery
from services.hostd.store import Store, checked
from services.hostd.supervisor import Supervisor
from services.hostd.supervisor_schema import (
    Action,
    EventsQuery,
    GenerationDetail,
    Generations,
    InForce,
    Job,
    JobQuery,
    Jobs,
    MachineAction,
    Observed,
    Planned,
    Properties,
    PropertiesOf,
    Proposal,
    Rollback,
    Transient,
    Wanted,
)
from services.roots.client import Roots

logger = logging.getLogger(__name__)

SCOPE = "host"
_ETAG = re.compile(r'"(\d{1,9})"')


class MatchError(BacklineError):
    """A change that does not say what it is based on, or says it in no form of ours."""


class Supervising:
    """The handlers, around one supervisor; what only shows the host is hostd's."""

    def __init__(self, supervisor: Supervisor, store: Store) -> None:
        self.supervisor = supervisor
        self.shown = Hostd(store)

    async def host(self, request: Request) -> Host:
        """The host's name, boot, role and version."""
        self.caller(request)
        return await self.shown.host(request)

    async def units(self, request: Request) -> Units:
        """Loaded units with their states."""
        self.caller(request)
        return await self.shown.units(request)

    async def unit(self, request: Request) -> UnitDetail:
        """One unit, looked at closely."""
        self.caller(request)
        return await self.shown.unit(request)

    async def journal(self, request: Request) -> Journal:
        """The newest journal entries of a unit."""
        self.caller(request)
        query = read_query(request, JournalQuery)
        async with self.shown.journals:
            return await asyncio.to_thread(self.shown.store.journal, request.path_params["name"], query)

    async def properties(self, request: Request) -> PropertiesOf:
        """Every property of a unit, by systemd's names on the bus."""
        self.caller(request)
        name = checked(request.path_params["name"])
        return PropertiesOf(name, await asyncio.to_thread(self.supervisor.manager.properties, name))

    async def set_properties(self, request: Request) -> None:
        """Change properties of a unit until the next boot; what shall stay is a drop-in of a document."""
        self.caller(request)
        name = checked(request.path_params["name"])
        wanted = await read_body(request, Properties)
        await asyncio.to_thread(self.supervisor.manager.set_properties, name, wanted.properties)

    async def act(self, request: Request) -> Job:
        """Start, stop, restart or reload a unit, once."""
        caller = self.caller(request)
        action = await read_body(request, Action)
        return await self.supervisor.act(request.path_params["name"], action, by=_name(caller))

    async def transient(self, request: Request) -> Job:
        """Run a program as a unit that goes when it ends."""
        caller = self.caller(request)
        return await self.supervisor.transient(await read_body(request, Transient), by=_name(caller))

    async def generations(self, request: Request) -> Response:
        """Generations, newest first. The ETag is the newest one's number."""
        self.caller(request)
        found = await asyncio.to_thread(self.supervisor.generations)
        return _tagged(found, found.newest)

    async def generation(self, request: Request) -> GenerationDetail:
        """A generation with its document and its journal."""
        self.caller(request)
        return await asyncio.to_thread(self.supervisor.generation, request.path_params["number"])

    async def desired(self, request: Request) -> Response:
        """The document in force. The ETag is the newest generation's number."""
        self.caller(request)
        found = await asyncio.to_thread(self.supervisor.in_force)
        return _tagged(found, found.newest)

    async def observed(self, request: Request) -> Observed:
        """What the document in force is about as it is, and the steps that would set it right."""
        self.caller(request)
        return await asyncio.to_thread(self.supervisor.observed)

    async def plan(self, request: Request) -> Planned:
        """What applying a document would do; nothing is changed."""
        self.caller(request)
        proposal = await read_body(request, Proposal)
        return await asyncio.to_thread(self.supervisor.planned, proposal.desired)

    async def apply(self, request: Request) -> Job:
        """Bring a document into force, as a new generation. If-Match has the number of the newest one."""
        caller = self.caller(request)
        expected = _expected(request, must=True)
        wanted = await read_body(request, Wanted)
        return await self.supervisor.apply(wanted.desired, why=wanted.why, by=_name(caller), expected=expected)

    async def rollback(self, request: Request) -> Job:
        """Bring back what was in force before, as a new generation."""
        caller = self.caller(request)
        expected = _expected(request, must=False)
        wanted = await read_body(request, Rollback)
        return await self.supervisor.rollback(why=wanted.why, by=_name(caller), to=wanted.to, expected=expected)

    async def again(self, request: Request) -> Jobs:
        """Set right what is not as the generation in force says; no job when there is nothing to do."""
        job = await self.supervisor.again(by=_name(self.caller(request)))
        return Jobs([] if job is None else [job])

    async def machines(self, request: Request) -> Machines:
        """The machines of this iron and how they are; none on a host that is no iron."""
        self.caller(request)
        return await asyncio.to_thread(self.supervisor.machines)

    async def machine(self, request: Request) -> MachineDetail:
        """One machine, and its record with what was done to it."""
        self.caller(request)
        return await asyncio.to_thread(self.supervisor.machine, request.path_params["name"])

    async def change(self, request: Request) -> Job:
        """Start, stop, upgrade or revert a machine, once."""
        caller = self.caller(request)
        action = await read_body(request, MachineAction)
        return await self.supervisor.change(request.path_params["name"], action, by=_name(caller))

    async def roots(self, request: Request) -> Roots:
        """The versions on this root file server."""
        self.caller(request)
        return await asyncio.to_thread(self.supervisor.hands.root_server.roots)

    async def jobs(self, request: Request) -> Jobs:
        """Jobs, newest first."""
        self.caller(request)
        return Jobs(self.supervisor.jobs())

    async def job(self, request: Request) -> Job:
        """One job; with `wait`, at its end."""
        self.caller(request)
        query = read_query(request, JobQuery)
        return await self.supervisor.job(request.path_params["id"], wait=query.wait)

    async def cancel(self, request: Request) -> Job:
        """Ask a job to end. What a generation has changed already is taken back."""
        self.caller(request)
        return await self.supervisor.cancel(request.path_params["id"])

    async def events(self, request: Request) -> Response:
        """Units, machines, jobs and generations as they change: a snapshot, then changes (SSE, with Last-Event-ID)."""
        self.caller(request)
        return await self.supervisor.hub.subscribe(request)

    async def bus_answers(self) -> None:
        """Raises BusError when systemd cannot be asked."""
        await self.shown.bus_answers()

    @staticmethod
    def caller(request: Request) -> Caller:
        """Root of this host, or a part of the hall with our scope; nobody else gets anywhere."""
        return require(request, Role.ROOT, scope=SCOPE)


def make_supervisor_app(
    supervisor: Supervisor, store: Store, *, idle_seconds: float, identity: ImageIdentity
) -> Application:
    """The supervisor's application. With `idle_seconds` it ends the process when there was nothing to do so long."""
    handlers = Supervising(supervisor, store)
    activity = _Activity()

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        running = Gauge("backline_supervisor_jobs", "Jobs that run", registry=app.metrics.registry)
        running.set_function(lambda: sum(job.state == "running" for job in supervisor.jobs()))
        listening = Gauge("backline_supervisor_subscribers", "Open streams", registry=app.metrics.registry)
        listening.set_function(lambda: supervisor.hub.subscribers)
        force = Gauge("backline_supervisor_generation", "Generation in force", registry=app.metrics.registry)
        force.set_function(lambda: supervisor.history.force().generation)
        async with supervisor.run():
            watch = asyncio.create_task(_leave_when_idle(supervisor, activity, idle_seconds))
            try:
                yield
            finally:
                watch.cancel()

    known = [401, 403]
    unit = [*known, 400, 404, 503]
    change = [*known, 400, 409, 422, 503]
    app = create_app(
        service="supervisor",
        access=Access(),
        description="What changes a host, generation by generation: units, machines, roots. For root and scope host.",
        identity=identity,
        checks={"bus": handlers.bus_answers},
        lifespan=lifespan,
        routes=[
            Operation("GET", "/v1/host", handlers.host, summary="This host", answer=Host, errors=known),
            Operation(
                "GET",
                "/v1/units",
                handlers.units,
                summary="Units",
                query=UnitsQuery,
                answer=Units,
                errors=[*known, 503],
            ),
            Operation("GET", "/v1/units/{name}", handlers.unit, summary="A unit", answer=UnitDetail, errors=unit),
            Operation(
                "GET",
                "/v1/units/{name}/journal",
                handlers.journal,
                summary="A unit's journal",
                query=JournalQuery,
                answer=Journal,
                errors=unit,
            ),
            Operation(
                "GET",
                "/v1/units/{name}/properties",
                handlers.properties,
                summary="A unit's properties",
                answer=PropertiesOf,
                errors=unit,
            ),
            Operation(
                "PATCH",
                "/v1/units/{name}/properties",
                handlers.set_properties,
                summary="Change properties until the next boot",
                body=Properties,
                status=204,
                errors=unit,
            ),
            Operation(
                "POST",
                "/v1/units/{name}/jobs",
                handlers.act,
                summary="Start, stop, restart or reload a unit",
                body=Action,
                answer=Job,
                status=202,
                errors=[*unit, 409],
            ),
            Operation(
                "POST",
                "/v1/transients",
                handlers.transient,
                summary="Run a transient service",
                body=Transient,
                answer=Job,
                status=202,
                errors=[*unit, 409],
            ),
            Operation(
                "GET",
                "/v1/generations",
                handlers.generations,
                summary="Generations",
                answer=Generations,
                errors=known,
            ),
            Operation(
                "POST",
                "/v1/generations",
                handlers.apply,
                summary="Bring a document into force",
                body=Wanted,
                answer=Job,
                status=202,
                errors=[*change, 412, 428],
            ),
            Operation(
                "GET",
                "/v1/generations/{number:int}",
                handlers.generation,
                summary="A generation",
                answer=GenerationDetail,
                errors=[*known, 404],
            ),
            Operation(
                "GET", "/v1/desired", handlers.desired, summary="The document in force", answer=InForce, errors=known
            ),
            Operation(
                "GET",
                "/v1/observed",
                handlers.observed,
                summary="What is, of the document in force",
                answer=Observed,
                errors=[*known, 422, 503],
            ),
            Operation(
                "POST",
                "/v1/plans",
                handlers.plan,
                summary="What applying would do",
                body=Proposal,
                answer=Planned,
                errors=change,
            ),
            Operation(
                "POST",
                "/v1/rollback",
                handlers.rollback,
                summary="Back to what was in force before",
                body=Rollback,
                answer=Job,
                status=202,
                errors=[*change, 404, 412],
            ),
            Operation(
                "POST",
                "/v1/again",
                handlers.again,
                summary="Set right what has drifted",
                answer=Jobs,
                status=202,
                errors=[*known, 422, 503],
            ),
            Operation(
                "GET",
                "/v1/machines",
                handlers.machines,
                summary="Machines",
                answer=Machines,
                errors=[*known, 503],
            ),
            Operation(
                "GET",
                "/v1/machines/{name}",
                handlers.machine,
                summary="A machine",
                answer=MachineDetail,
                errors=unit,
            ),
            Operation(
                "POST",
                "/v1/machines/{name}/jobs",
                handlers.change,
                summary="Start, stop, upgrade or revert a machine",
                body=MachineAction,
                answer=Job,
                status=202,
                errors=[*unit, 409],
            ),
            Operation(
                "GET",
                "/v1/roots",
                handlers.roots,
                summary="Versions on this root file server",
                answer=Roots,
                errors=[*known, 404, 503],
            ),
            Operation("GET", "/v1/jobs", handlers.jobs, summary="Jobs", answer=Jobs, errors=known),
            Operation(
                "GET",
                "/v1/jobs/{id}",
                handlers.job,
                summary="A job",
                query=JobQuery,
                answer=Job,
                errors=[*known, 404],
            ),
            Operation(
                "DELETE",
                "/v1/jobs/{id}",
                handlers.cancel,
                summary="Cancel a job",
                answer=Job,
                status=202,
                errors=[*known, 400, 404],
            ),
            Operation(
                "GET",
                "/v1/events",
                handlers.events,
                summary="Events",
                query=EventsQuery,
                media_type="text/event-stream",
                errors=[*known, 409],
            ),
        ],
    )
    app.add_middleware(_Noting, activity=activity)
    return app


class _Activity:
    """When somebody last asked for something, and how many are being answered."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.open = 0


class _Noting:
    """Pure ASGI: notes that there is something to stay for."""

    def __init__(self, app: ASGIApp, activity: _Activity) -> None:
        self.app, self.activity = app, activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.activity.open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.activity.open -= 1
            self.activity.last = time.monotonic()


async def _leave_when_idle(supervisor: Supervisor, activity: _Activity, seconds: float) -> None:
    """End this process, as systemd would; the sockets stay open, and the next caller starts it again."""
    if seconds <= 0:
        return
    while True:
        idle = time.monotonic() - activity.last
        if supervisor.busy or activity.open:
            activity.last = time.monotonic()
        elif idle >= seconds:
            logger.info("nothing to do for %.0f s: leaving until somebody asks", seconds)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        await asyncio.sleep(min(seconds, max(0.05, seconds - idle)))


def _expected(request: Request, *, must: bool) -> int | None:
    """The number in If-Match (RFC 9110). Raises MatchError("generation.match"), UsageError("request.match")."""
    text = request.headers.get("if-match")
    if text is None:
        if must:
            hint = "send If-Match with the ETag of GET /v1/generations"
            raise MatchError(
                "generation.match", "a generation is based on another one, and If-Match says which", hint=hint
            )
        return None
    found = _ETAG.fullmatch(text)
    if found is None:
        raise UsageError(
            "request.match", f"If-Match is {text[:40]!r}", hint='write the newest number as in If-Match: "7"'
        )
    return int(found[1])


def _tagged(answer: object, number: int) -> Response:
    return Response(encode_json(answer), media_type="application/json", headers={"etag": f'"{number}"'})


def _name(caller: Caller) -> str:
    return caller.name if caller.origin == "local" else f"{caller.name} ({caller.origin})"
