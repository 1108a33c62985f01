"""The service as a whole: mdb as a process, its feed, real Kea, and the HTTP face of the service between them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import httpx2
import msgspec
import pytest

from services.common import process
from services.common.app import Application
from services.common.codec import decode_json
from services.common.errors import Exit
from services.common.notify import Notifier
from services.common.problem import RemoteError
from services.common.process import Completed
from services.common.serve import UnixAddress, listening, serve_on
from services.dhcp.app import make_app
from services.dhcp.apply import Applier
from services.dhcp.client import AsyncDhcp
from services.dhcp.schema import Standing, State, Status
from services.dhcp.store import Store
from services.mdb.client import Mdb
from services.mdb.schema import Change, Edits, MachinePatch, MachineType, NewMachine, Removal
from tests.common.service_rig import ROOT, Service, base_environment
from tests.dhcp.client import DEBIAN_BIOS
from tests.dhcp.halls import ALIENS, HALL, mac, machine
from tests.dhcp.rig import Gateway
from tests.mdb.rig import serving as mdb_serving

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]


def new(number: int) -> NewMachine:
    return NewMachine(hostname=f"pc-{number}", mac=mac(number), type=MachineType.USER)


@pytest.fixture
def mdb(tmp_path: Path) -> Iterator[Service]:
    folder = tmp_path / "mdb"
    folder.mkdir()
    with mdb_serving(folder, f"sqlite:///{folder}/mdb.db") as service:
        yield service


class Running:
    """The service in the test's own loop, and a client of it."""

    def __init__(self, store: Store, app: Application, client: AsyncDhcp, socket: Path) -> None:
        self.store, self.app, self.client, self.socket = store, app, client, socket

    async def until(self, wanted: Callable[[Status], bool], *, seconds: float = 20.0) -> Status:
        """The first status that is as wanted."""
        deadline = time.monotonic() + seconds
        while not wanted(status := await self.client.status()):
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.01)
        return status

    async def health(self) -> tuple[int, str]:
        transport = httpx2.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx2.AsyncClient(transport=transport, base_url="http://dhcp", trust_env=False) as client:
            answer = await client.get("/healthz")
        return answer.status_code, answer.text

    def metric(self, name: str) -> float | None:
        return self.app.metrics.registry.get_sample_value(name)


@contextlib.asynccontextmanager
async def running(gw: Gateway, mdb: str, folder: Path) -> AsyncIterator[Running]:
    """The service while the block lasts."""
    settings = msgspec.structs.replace(gw.settings, mdb=mdb)
    current = gw.generations.current()
    store = Store(settings, Applier(settings, gw.control), current.inputs() if current else None)
    app, socket, stop = make_app(store), folder / "dhcp.sock", asyncio.Event()
    with listening([UnixAddress(socket)]) as listeners:
        task = asyncio.create_task(serve_on(app, listeners, Notifier({}), grace_seconds=1, stop=stop))
        try:
            async with AsyncDhcp(f"unix:{socket}") as client:
                yield Running(store, app, client, socket)
        finally:
            stop.set()
            await task


def scenario(run: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(run(), 60))


def reserved(count: int) -> Callable[[Status], bool]:
    return lambda status: status.state is State.LIVE and status.reserved == count


def test_what_mdb_is_told_kea_answers(gw: Gateway, mdb: Service, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(gw, mdb.unix, tmp_path) as dhcp:
            with Mdb(mdb.unix) as client:
                made = await asyncio.to_thread(client.create, new(7))
                first = await dhcp.until(reserved(1))
                given = await asyncio.to_thread(gw.wire.lease, mac(7), DEBIAN_BIOS)
                assert (given.address, given.text(12)) == (made.ip, "pc-7")
                offer = await dhcp.client.offer(mac(7).upper())
                assert (offer.standing, offer.ip, offer.hostname) == (Standing.KNOWN, made.ip, "pc-7")
                assert offer.boot is not None
                assert given.file == offer.boot.ipxe
                assert offer.lease is not None
                assert offer.lease.ip == made.ip
                (lease,) = (await dhcp.client.leases()).leases
                assert (lease.mac, lease.known, lease.network) == (mac(7), True, "hall")
                edits = Edits(update=[Change(id=made.id, patch=MachinePatch(mac=mac(70)))])
                await asyncio.to_thread(client.edit, edits)
                await dhcp.until(lambda status: status.applies > first.applies)
                given = await asyncio.to_thread(gw.wire.lease, mac(70))
                assert given.address == made.ip
                await asyncio.to_thread(client.edit, Edits(delete=[Removal(id=made.id)]))
                await dhcp.until(reserved(0))
                assert (await dhcp.client.offer(mac(70))).standing is Standing.UNKNOWN

    scenario(run)


def test_a_change_that_dhcp_does_not_care_about_applies_nothing(gw: Gateway, mdb: Service, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(gw, mdb.unix, tmp_path) as dhcp:
            with Mdb(mdb.unix) as client:
                made = await asyncio.to_thread(client.create, new(7))
                before = await dhcp.until(reserved(1))
                patch = MachinePatch(faulty=True, faulty_reason="smoke")
                await asyncio.to_thread(client.edit, Edits(update=[Change(id=made.id, patch=patch)]))
                await asyncio.to_thread(client.create, new(8))
                after = await dhcp.until(reserved(2))
                assert after.applies == before.applies + 1

    scenario(run)


def test_an_import_of_many_is_one_apply(gw: Gateway, mdb: Service, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(gw, mdb.unix, tmp_path) as dhcp:
            before = await dhcp.until(lambda status: status.state is State.LIVE)
            with Mdb(mdb.unix) as client:
                many = Edits(create=[new(number) for number in range(1, 190)])
                await asyncio.to_thread(client.edit, many)
            after = await dhcp.until(reserved(189))
            assert after.applies == before.applies + 1
            assert dhcp.metric("backline_dhcp_reserved") == 189

    scenario(run)


def test_until_mdb_is_heard_kea_answers_as_it_did_last(gw: Gateway, tmp_path: Path) -> None:
    gw.apply(machine(7))

    async def run() -> None:
        async with running(gw, f"unix:{tmp_path}/nobody.sock", tmp_path) as dhcp:
            status = await dhcp.until(lambda status: status.generation is not None)
            assert (status.state, status.reserved) == (State.WAITING, 1)
            found = await asyncio.to_thread(gw.wire.discover, mac(7))
            assert found is not None
            assert str(found.address) == "192.168.0.7"
            code, text = await dhcp.health()
            assert code == 503
            assert "mdb: nothing from" in text

    scenario(run)


def test_kea_is_missed_and_found_again(gw: Gateway, mdb: Service, tmp_path: Path) -> None:
    """gw's Kea gets another socket with each start here, which the applier is told of."""

    async def run() -> None:
        async with running(gw, mdb.unix, tmp_path) as dhcp:
            with Mdb(mdb.unix) as client:
                await asyncio.to_thread(client.create, new(7))
                await dhcp.until(reserved(1))
                assert (await dhcp.health())[0] == 200
                await asyncio.to_thread(gw.off)
                await asyncio.to_thread(client.create, new(8))
                down = await dhcp.until(lambda status: status.state is State.DOWN)
                assert down.problem is not None
                assert dhcp.metric("backline_dhcp_kea_up") == 0
                code, text = await dhcp.health()
                assert (code, "Kea does not answer" in text) == (503, True)
                with pytest.raises(RemoteError) as caught:
                    await dhcp.client.leases()
                assert caught.value.code == "kea.down"
                await asyncio.to_thread(gw.on)
                dhcp.store.applier.kea.path = gw.control.path
                await dhcp.until(reserved(2))
                assert (await dhcp.health())[0] == 200

    scenario(run)


def test_a_machine_that_is_left_out_is_named_with_its_reason(gw: Gateway, mdb: Service, tmp_path: Path) -> None:
    """mdb here knows an address that this hall does not have any more."""
    small = msgspec.structs.replace(HALL, cidr=IPv4Network("192.168.1.0/24"))
    gw.settings = msgspec.structs.replace(gw.settings, networks=[small, ALIENS])

    async def run() -> None:
        async with running(gw, mdb.unix, tmp_path) as dhcp:
            with Mdb(mdb.unix) as client:
                made = await asyncio.to_thread(client.create, new(7))
            status = await dhcp.until(lambda status: bool(status.left_out))
            (left,) = status.left_out
            assert (left.id, left.name) == (made.id, "pc-7")
            assert "no network of the hall" in left.reason
            offer = await dhcp.client.offer(mac(7))
            assert (offer.standing, offer.reason, offer.network) == (Standing.LEFT_OUT, left.reason, "aliens")
            assert dhcp.metric("backline_dhcp_left_out") == 1
            assert (await dhcp.health())[0] == 200

    try:
        scenario(run)
    finally:
        gw.settings = msgspec.structs.replace(gw.settings, networks=[HALL, ALIENS])


def test_the_command_tells_people_and_scripts(gw: Gateway, mdb: Service, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(gw, mdb.unix, tmp_path) as dhcp:

            async def backline(*words: str) -> Completed:
                argv = [
                    sys.executable,
                    "-m",
                    "services.common.main",
                    "dhcp",
                    *words,
                    "--address",
                    f"unix:{dhcp.socket}",
                ]
                return await asyncio.to_thread(process.run, argv, cwd=ROOT, env=base_environment(), check=False)

            with Mdb(mdb.unix) as client:
                await asyncio.to_thread(client.create, new(7))
                await dhcp.until(reserved(1))
                await asyncio.to_thread(gw.wire.lease, mac(7))
                assert (await backline("show")).stdout.startswith(
                    "live: 1 machines have an address of their own, since "
                )
                shown = (await backline("show", mac(7))).stdout
                assert re.search(r"^standing +known$", shown, re.MULTILINE)
                assert re.search(r"^address +192\.168\.0\.1$", shown, re.MULTILINE)
                assert re.search(r"^UEFI HTTP +http://192\.168\.1\.254/ipxe/snponly\.efi$", shown, re.MULTILINE)
                assert re.search(r"^has +192\.168\.0\.1 until ", shown, re.MULTILINE)
                line = (await backline("leases")).stdout
                assert re.fullmatch(rf"192\.168\.0\.1 +{mac(7)}  until .* pc-7 \(hall\)\n", line)
                good = await backline("check")
                assert (good.returncode, good.stdout) == (0, "1 machines are in force\n")
                await asyncio.to_thread(gw.off)
                await asyncio.to_thread(client.create, new(8))
                await dhcp.until(lambda status: status.state is State.DOWN)
                bad = await backline("check", "--json")
                assert bad.returncode == Exit.DIFFERENT
                assert decode_json(bad.stdout.encode(), Status).state is State.DOWN
                gone = await backline("leases")
                assert (gone.returncode, "Kea does not answer" in gone.stderr) == (Exit.MISSING, True)

    scenario(run)


def test_what_is_no_mac_address_is_refused(gw: Gateway, mdb: Service, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(gw, mdb.unix, tmp_path) as dhcp:
            for call in (dhcp.client.offer, dhcp.client.leases):
                with pytest.raises(RemoteError) as caught:
                    await call("twelve")
                assert (caught.value.code, caught.value.problem.status) == ("dhcp.mac", 400)

    scenario(run)
