"""How other terminals reach a lab that runs: a small HTTP service on a unix socket, in the process that owns the lab.

`backline lan cut` and its like are clients of it. Only root gets through: the socket's mode says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from e2e import registry
from e2e.administrator import Administrator
from e2e.forward import Forwarder
from e2e.journal import Entry, Parser, encode, entry_of
from e2e.lab import Lab
from services.common.app import Application, create_app
from services.common.client import Call, Client, path_of
from services.common.edge import Operation, read_body, read_query
from services.common.errors import BacklineError, MissingError
from services.common.notify import Notifier
from services.common.serve import UnixAddress, listening, serve_on

SECONDS = 120.0
EMULATED_SECONDS = 900.0
"""How long an emulated machine may take to boot: its own limit is shorter (`e2e.lab`)."""
T = TypeVar("T", bound=msgspec.Struct)


class NodeStatus(msgspec.Struct, frozen=True):
    """A node in short: `seconds` from power on to its default target, `memory` in bytes, `cpu` in seconds."""

    name: str
    state: str
    role: str
    version: str
    addresses: list[str]
    segments: list[str]
    seat: bool
    starts: int
    seconds: float | None = None
    memory: int = 0
    cpu: float = 0.0


class LabStatus(msgspec.Struct, frozen=True):
    """A lab in short; `faults` are what is wrong by edge, `edges` every cable and trunk."""

    name: str
    topology: str
    nodes: list[NodeStatus]
    edges: list[str]
    faults: dict[str, str]
    forwards: list[str]
    journal: str
    keeper: int


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fault of the network: percent of frames, bit/s, seconds."""

    kind: Literal["cut", "heal", "lose", "slow", "partition"]
    edge: str = ""
    percent: float = 0.0
    rate: int = 0
    delay: float = 0.0
    one: list[str] = []
    two: list[str] = []


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done to a node's power; `wait` is whether the answer comes when the node is up."""

    action: Literal["start", "stop", "crash", "freeze", "thaw", "reboot"]
    version: str = ""
    wait: bool = True


class Enter(msgspec.Struct, frozen=True):
    """The host's command line that runs a program in a node."""

    argv: list[str]


class EnterQuery(msgspec.Struct, frozen=True):
    """The program, word by word."""

    word: list[str]


class ForwardRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make a port or a service of a node reachable from the host; `listen` 0 lets the kernel choose."""

    node: str
    door: int | str
    listen: int = 0


class Forwarded(msgspec.Struct, frozen=True):
    """Where it is reachable."""

    address: str


class Addition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A seat that joins the lab."""

    name: str
    qemu: bool = False
    segment: str = ""
    version: str = ""


class Control:
    """The handlers, around one lab. Blocking verbs run in threads."""

    def __init__(self, lab: Lab, administrator: Administrator) -> None:
        self.lab = lab
        self.administrator = administrator
        self.forwarders: list[Forwarder] = []

    def status(self) -> LabStatus:
        """The lab in short."""
        nodes = []
        for row in self.lab.status():
            node = self.lab[str(row["name"])]
            extra = {"memory": node.memory(), "cpu": node.cpu()} if node.running else {}
            nodes.append(msgspec.convert({**row, **extra}, NodeStatus))
        return LabStatus(
            name=self.lab.name,
            topology=self.lab.topology.name,
            nodes=nodes,
            edges=list(self.lab.network.edges()),
            faults=self.lab.network.wrong(),
            forwards=[str(each) for each in self.forwarders],
            journal=str(self.lab.keep_journal_path()),
            keeper=self.lab.sandbox.pid,
        )

    def fault(self, wanted: Fault) -> LabStatus:
        """Do it."""
        match wanted.kind:
            case "cut":
                self.lab.cut(wanted.edge)
            case "heal":
                self.lab.heal(wanted.edge or None)
            case "lose":
                self.lab.lose(wanted.edge, wanted.percent)
            case "slow":
                self.lab.slow(wanted.edge, rate=wanted.rate, delay=wanted.delay)
            case "partition":
                self.lab.partition(wanted.one, wanted.two)
        return self.status()

    def power(self, name: str, wanted: Power) -> LabStatus:
        """Do it."""
        node = self.lab[name]
        match wanted.action:
            case "start":
                if wanted.version:
                    node.choose(wanted.version)
                    node.version = wanted.version
                node.start()
                if wanted.wait:
                    node.wait_ready()
            case "stop":
                node.stop()
            case "crash":
                node.crash()
            case "freeze":
                node.freeze()
            case "thaw":
                node.thaw()
            case "reboot":
                node.reboot(wanted.version or None)
        return self.status()

    def forward(self, wanted: ForwardRequest) -> Forwarded:
        """Open a door. Raises WaitFailed when there is no such service."""
        node = self.lab[wanted.node]
        if isinstance(wanted.door, str):
            node.service(wanted.door, seconds=5)
        forwarder = self.lab.reactor.call(Forwarder.open(node, wanted.door, listen=wanted.listen))
        self.forwarders.append(forwarder)
        return Forwarded(forwarder.address)

    async def stream(self) -> AsyncIterator[bytes]:
        """New entries of the journal as they come, in export format."""
        mark = self.lab.journal.mark()
        while not self.lab.closing:
            entry = await asyncio.to_thread(self.next_entry, mark)
            if entry is not None:
                mark = entry.number + 1
                yield encode(entry.fields)

    def next_entry(self, mark: int) -> Entry | None:
        """The next entry from `mark` on, or None after a second without one."""
        import time

        return self.lab.journal.wait(lambda _: True, since=mark, deadline=time.monotonic() + 1)


def application(control: Control) -> Application:
    """The HTTP face."""

    async def status(_: Request) -> LabStatus:
        return await asyncio.to_thread(control.status)

    async def fault(request: Request) -> LabStatus:
        body = await read_body(request, Fault)
        return await asyncio.to_thread(control.fault, body)

    async def power(request: Request) -> LabStatus:
        body = await read_body(request, Power)
        return await asyncio.to_thread(control.power, request.path_params["name"], body)

    async def enter(request: Request) -> Enter:
        node = control.lab[request.path_params["name"]]
        query = read_query(request, EnterQuery)
        return Enter(node.argv(query.word))

    async def administer(request: Request) -> Enter:
        query = read_query(request, EnterQuery)
        return Enter(control.administrator.argv(query.word))

    async def forward(request: Request) -> Forwarded:
        body = await read_body(request, ForwardRequest)
        return await asyncio.to_thread(control.forward, body)

    async def add(request: Request) -> LabStatus:
        body = await read_body(request, Addition)
        add_seat = control.lab.add_seat
        await asyncio.to_thread(lambda: add_seat(body.name, qemu=body.qemu, segment=body.segment, version=body.version))
        return await asyncio.to_thread(control.status)

    async def journal(_: Request) -> Response:
        return StreamingResponse(control.stream(), media_type="application/vnd.fdo.journal")

    routes = [
        Operation("GET", "/v1/lab", status, summary="The lab in short", answer=LabStatus),
        Operation("POST", "/v1/faults", fault, summary="A fault of the network", body=Fault, answer=LabStatus),
        Operation("POST", "/v1/nodes/{name}/power", power, summary="A node's power", body=Power, answer=LabStatus),
        Operation("GET", "/v1/nodes/{name}/enter", enter, summary="Run in a node", query=EnterQuery, answer=Enter),
        Operation(
            "GET", "/v1/administrator", administer, summary="Run as its administrator", query=EnterQuery, answer=Enter
        ),
        Operation("POST", "/v1/forwards", forward, summary="Reach a port", body=ForwardRequest, answer=Forwarded),
        Operation("POST", "/v1/seats", add, summary="Add a seat", body=Addition, answer=LabStatus),
        Operation("GET", "/v1/journal", journal, summary="New entries", media_type="application/vnd.fdo.journal"),
    ]
    return create_app(service="lan", routes=routes)


@contextlib.contextmanager
def serving(lab: Lab, administrator: Administrator) -> Iterator[Control]:
    """Answer on the lab's socket for a block."""
    control = Control(lab, administrator)
    path = registry.labs()[lab.name].socket

    stop = asyncio.Event()

    async def serve() -> None:
        with listening([UnixAddress(path)], mode=0o600) as listeners:
            await serve_on(application(control), listeners, Notifier({}), grace_seconds=1, stop=stop)

    done = asyncio.run_coroutine_threadsafe(serve(), lab.reactor.loop)
    try:
        yield control
    finally:
        lab.closing = True  # streams of the journal end
        lab.reactor.loop.call_soon_threadsafe(stop.set)
        done.result(timeout=10)


# The client's side: what `backline lan` sends.


def status_call() -> Call[LabStatus]:
    """The lab in short."""
    return Call("GET", "/v1/lab", LabStatus)


def fault_call(wanted: Fault) -> Call[LabStatus]:
    """A fault."""
    return Call("POST", "/v1/faults", LabStatus, body=wanted)


def power_call(node: str, wanted: Power) -> Call[LabStatus]:
    """A node's power."""
    return Call("POST", path_of("v1", "nodes", node, "power"), LabStatus, body=wanted)


def enter_call(node: str, argv: list[str]) -> Call[Enter]:
    """The command line that runs `argv` in a node."""
    return Call("GET", path_of("v1", "nodes", node, "enter"), Enter, query={"word": argv})


def administer_call(argv: list[str]) -> Call[Enter]:
    """The command line that runs `argv` as the hall's administrator."""
    return Call("GET", "/v1/administrator", Enter, query={"word": argv})


def forward_call(wanted: ForwardRequest) -> Call[Forwarded]:
    """Reach a port."""
    return Call("POST", "/v1/forwards", Forwarded, body=wanted)


def add_call(wanted: Addition) -> Call[LabStatus]:
    """Add a seat."""
    return Call("POST", "/v1/seats", LabStatus, body=wanted)


def follow(record: registry.Record) -> Iterator[Entry]:
    """New entries of a lab's journal, as they come, until the lab ends."""
    import httpx2

    transport = httpx2.HTTPTransport(uds=str(record.socket))
    parser, number = Parser(), 0
    with (
        httpx2.Client(base_url="http://localhost", transport=transport, timeout=None, trust_env=False) as http,
        contextlib.suppress(httpx2.RemoteProtocolError, httpx2.ReadError),
        http.stream("GET", "/v1/journal") as answer,
    ):
        for data in answer.iter_raw():
            for fields in parser.feed(data):
                yield entry_of(number, fields)
                number += 1


class LabClient(Client):
    """A client whose errors name the lab, and not its socket."""

    def __init__(self, record: registry.Record, *, seconds: float = SECONDS) -> None:
        super().__init__(f"unix:{record.socket}", seconds=seconds)
        self.lab = record.name

    def send(self, call: Call[T]) -> T:
        """As Client's."""
        try:
            return super().send(call)
        except BacklineError as error:
            if error.where is not None:
                error.where = f"lab {self.lab}"
            raise


def client(record: registry.Record, *, seconds: float = SECONDS) -> LabClient:
    """A client of a lab's control socket. Raises MissingError("lan.control") for a lab of a test, which has none."""
    if not record.socket.exists():
        message = (
            f"the lab {record.name} takes no commands: process {record.owner} drives it (a test?) or still starts it"
        )
        raise MissingError("lan.control", message, hint="those of `backline lan up` do")
    return LabClient(record, seconds=seconds)
