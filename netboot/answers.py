"""What machines ask while they boot: scripts, hall.toml, registration, credentials, logs. Handlers.

Nobody here has shown who it is, so every answer is bounded: one address is answered so often and no more, and what is
written down has a size. Questions of this host itself are not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import Response

from netboot import scripts
from netboot.aliens import Strangers
from netboot.boots import Asked, Boots
from netboot.callers import machine_of, named, origin_of
from netboot.committer import Committer
from netboot.machines import Machines
from netboot.schema import BootlogQuery, Credentials, Outcome, RegisterQuery, Report, Settings
from netboot.scripts import Place
from services.common.access import LOCAL
from services.common.codec import convert
from services.common.edge import BODY_SECONDS, read_body, read_query
from services.common.errors import BacklineError, BusyError, HostError, MissingError, UsageError
from services.common.names import normal_mac
from services.common.rate import Rate
from services.common.tokens import Tokens
from services.mdb.client import AsyncMdb
from services.mdb.schema import Registration

logger = logging.getLogger(__name__)

TOKEN = "backline.boot-token"
TOKEN_SECONDS = 90 * 86400
"""Longer than any seat stays on: without it there are no heartbeats, and a lease ends. It is of one boot only."""
LOG_BYTES = 256 * 1024
RESTART_SECONDS = 5
EVERYBODY = "everybody"


class Answers:
    """The handlers, around the boot records and what mdb says."""

    def __init__(self, boots: Boots, settings: Settings, tokens: Tokens | None, registry: CollectorRegistry) -> None:
        self.boots = boots
        self.machines: Machines = boots.store.machines
        self.settings = settings
        self.tokens = tokens
        self.strangers = Strangers(boots.store.clock)
        self.committer = Committer(boots.answer)
        self._gateways = [(IPv4Network(net), gw) for net, _, gw in (t.partition("=") for t in settings.gateways)]
        self._first: dict[Place, tuple[int, str]] = {}
        self._boots = Rate(burst=20, per_minute=60)
        self._claims = Rate(burst=10, per_minute=30)
        self._logs = Rate(burst=5, per_minute=6)
        self._registrations = Rate(burst=5, per_minute=6)
        self._all_registrations = Rate(burst=60, per_minute=120)
        self._given = Counter("backline_netboot_answers", "Scripts by what they say", ["outcome"], registry=registry)
        self._limited = Counter("backline_netboot_limited", "Refused for asking too often", ["what"], registry=registry)
        self._refused_claims = Counter(
            "backline_netboot_refused_claims",
            "Refused claims of credentials: look who it was",
            ["why"],
            registry=registry,
        )
        for outcome in Outcome:
            self._given.labels(outcome=outcome.value)
        for why in ("boot.claimed", "boot.address", "boot.late"):
            self._refused_claims.labels(why=why)

    def place(self, address: str) -> Place:
        """The hall as the machine at `address` reaches it. Raises HostError("netboot.gateway")."""
        with contextlib.suppress(ValueError):
            for network, gateway in self._gateways:
                if IPv4Address(address) in network:
                    return Place(self.settings.hall, gateway)
        if not self._gateways:
            raise HostError("netboot.gateway", "no gateway is set", hint="setting netboot.gateways")
        return Place(self.settings.hall, self._gateways[0][1])

    # Scripts

    async def bootstrap(self, request: Request) -> Response:
        """The iPXE script that every machine begins with."""
        place, changes = self.place(origin_of(request)), self.machines.changes
        made, text = self._first.get(place, (-1, ""))
        if made != changes:
            text = scripts.bootstrap(place, self.machines.switches, sorted({*self.machines.rooms, "other"}))
            self._first[place] = changes, text
        return _script(text)

    async def boot(self, request: Request) -> Response:
        """The iPXE script of one machine: one version, or why there is none."""
        try:
            mac = normal_mac(request.path_params["mac"])
        except ValueError as error:
            raise UsageError("request.path", str(error)) from error
        origin = origin_of(request)
        machine = self.machines.by_mac(mac)
        if machine is None:
            return self._stranger(mac, origin)
        if not self._allows(self._boots, origin, "boot"):
            return _script(scripts.slow_down())
        answer = await self.committer.answer(Asked(machine, origin))
        machine, decision = answer.machine, answer.decision
        self._given.labels(outcome=decision.outcome.value).inc()
        if not decision.boots:
            return _script(
                scripts.refusal(decision.outcome, decision.detail, hostname=machine.hostname, more=decision.passed)
            )
        try:
            place, options = self.place(machine.ip), self.settings.options
            return _script(scripts.boot(machine, decision, answer.boot, place, options))
        except ValueError as error:  # what got past every check before: shown, never run
            logger.error("no script for %s: %s", machine.hostname, error)
            return _script(scripts.refusal(Outcome.BAD_RECORD, str(error), hostname=machine.hostname))

    def _stranger(self, mac: str, origin: str) -> Response:
        if not self.machines.ready:
            self._given.labels(outcome=Outcome.NOT_READY.value).inc()
            return _script(scripts.refusal(Outcome.NOT_READY, ""))
        self.strangers.seen(mac, origin)
        self._given.labels(outcome=Outcome.UNKNOWN.value).inc()
        return _script(scripts.unknown())

    async def hall_toml(self, request: Request) -> Response:  # noqa: ARG002
        """The hall.toml of this hall, which holds no secret."""
        try:
            content = await asyncio.to_thread(Path(self.settings.hall_toml).read_bytes)
        except OSError as error:
            raise MissingError("hall.missing", f"there is no hall.toml here: {error.strerror}") from error
        return Response(content, media_type="application/toml")

    # Registration

    async def register(self, request: Request) -> Response:
        """Register the machine that asks, as its menu was filled in; the answer is a script that says how it went."""
        origin = origin_of(request)
        everybody = EVERYBODY if origin != LOCAL else LOCAL
        if not (
            self._allows(self._registrations, origin, "register")
            and self._allows(self._all_registrations, everybody, "register")
        ):
            return _script(scripts.not_registered("too many registrations, wait a minute", None))
        try:
            registration = _registration(read_query(request, RegisterQuery), origin)
            async with AsyncMdb(self.settings.mdb) as mdb:
                machine = await mdb.register(registration)
        except BacklineError as error:
            logger.info("%s was not registered: %s", request.query_params.get("mac"), error.message)
            return _script(scripts.not_registered(error.message, error.hint))
        logger.info("%s registered itself as %s", machine.mac, machine.hostname)
        return _script(scripts.registered(machine.hostname, str(machine.ip), seconds=RESTART_SECONDS))

    # A boot's credentials, and what becomes of it

    async def claim(self, request: Request) -> Credentials:
        """The credentials of a boot: once, soon, and to its own address."""
        origin, id = origin_of(request), named(request, "id")
        if not self._allows(self._claims, origin, "credentials"):
            raise BusyError("rate.address", "too many claims from this address")
        if self.tokens is None:
            raise HostError("auth.key", "netboot has no key to make credentials with")
        try:
            boot = await asyncio.to_thread(self.boots.claim, id, origin)
        except BacklineError as error:
            if error.code in ("boot.claimed", "boot.address", "boot.late"):
                self._refused_claims.labels(why=error.code).inc()
                level = logging.WARNING if error.code == "boot.late" else logging.ERROR
                logger.log(level, "%s claimed the credentials of boot %s: %s", origin, id, error.message)
            raise
        token = self.tokens.for_machine(boot.hostname, machine=boot.machine, boot=boot.id, seconds=TOKEN_SECONDS)
        return Credentials(credentials={TOKEN: token})

    async def report(self, request: Request) -> None:
        """How far a boot is, and its ssh host key; with the boot's own token."""
        id = named(request, "id")
        machine_of(request, id)
        report = await read_body(request, Report)
        boot = await asyncio.to_thread(self.boots.report, id, report)
        logger.info("%s: %s %s", boot.hostname, report.stage.value, report.detail)

    async def bootlog(self, request: Request) -> None:
        """What a failing initrd has to say: the reason in the first line, then the end of its journal."""
        asked, origin = read_query(request, BootlogQuery), origin_of(request)
        if not self._allows(self._logs, origin, "bootlog"):
            raise BusyError("rate.address", "too many logs from this address")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                content = await request.body()
        except TimeoutError as error:
            raise UsageError("request.late", f"the body took longer than {BODY_SECONDS:.0f} s") from error
        boot = await asyncio.to_thread(self.boots.log, asked.boot, origin, content)
        logger.warning("%s could not boot %s: %s", boot.hostname, boot.version, boot.stage_detail)

    def _allows(self, limit: Rate, key: str, what: str) -> bool:
        allowed = key == LOCAL or limit.allow(key)
        if not allowed:
            self._limited.labels(what=what).inc()
        return allowed


def _registration(asked: RegisterQuery, origin: str) -> Registration:
    """Raises UsageError("register.value") for what cannot be one, before mdb is asked."""
    values = {name: value for name in RegisterQuery.__struct_fields__ if (value := getattr(asked, name).strip())}
    with contextlib.suppress(ValueError):
        values["address"] = str(IPv4Address(origin))
    try:
        return convert(values, Registration, strict=False)
    except msgspec.ValidationError as error:
        message = str(error).replace("`$.", "`")
        raise UsageError("register.value", f"{message[:1].lower()}{message[1:]}") from error


def _script(text: str) -> Response:
    return Response(text, media_type=scripts.TYPE, headers={"cache-control": "no-store"})
