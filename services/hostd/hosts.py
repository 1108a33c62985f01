"""The hosts of a hall: where they are, and whether they answer. A host that is silent is unknown, never taken for up.

Every host is asked at once, at its own address, so that one that hangs keeps nobody waiting longer than the deadline,
and neither gw nor DNS is needed.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec

from services.common import toml
from services.common.errors import BacklineError, MissingError, UsageError, nearest
from services.common.tls import HALL_CA, TlsSettings
from services.hall.schema import Hall
from services.hostd.client import AsyncHostd
from services.hostd.schema import Host
from services.hostd.supervisor_client import PORT, Supervisor
from services.hostd.supervisor_schema import InForce, Observed

READ_PORT = 20210
IN_FORCE = Path("/run/backline/hall/current/hall.toml")
CREDENTIALS = Path("/etc/credstore/backline.client.host")
"""Where `backline hall certificate HOST --scope host` says to put it."""


class HostState(msgspec.Struct, frozen=True):
    """One host. `up`: it answers and no unit has failed; `degraded`: one has; `unknown`: it is silent, and `why`."""

    name: str
    role: str
    address: str
    state: Literal["up", "degraded", "unknown"]
    version: str | None = None
    boot_id: str | None = None
    failed: list[str] = []
    why: str | None = None


class Hosts(msgspec.Struct, frozen=True):
    """The hosts of a hall by name, and when they were asked (seconds since the epoch)."""

    at: float
    hosts: list[HostState]


class Shown(msgspec.Struct, frozen=True):
    """What `backline host show --json` prints."""

    host: Host
    in_force: InForce
    observed: Observed
    failed: list[str]


def read_hall(path: Path | None) -> Hall:
    """`path`, else the hall.toml in force on this machine, else ./hall.toml. Raises InputError, MissingError."""
    for candidate in [path] if path is not None else [IN_FORCE, Path("hall.toml")]:
        if path is not None or candidate.exists():
            return toml.decode(toml.load(candidate, area="hall"), Hall)
    raise MissingError("hall.missing", "no hall.toml is here", hint="name one: --hall FILE")


def ask_all(hall: Hall, *, seconds: float) -> Hosts:
    """Ask every host what it is, for `seconds` at most."""
    return asyncio.run(_ask_all(hall, seconds=seconds))


async def _ask_all(hall: Hall, *, seconds: float) -> Hosts:
    places = {name: (host.role, str(host.address)) for name, host in hall.hosts.items()}
    answers = await asyncio.gather(
        *(_ask(name, role, address, seconds=seconds) for name, (role, address) in sorted(places.items()))
    )
    return Hosts(time.time(), list(answers))


async def _ask(name: str, role: str, address: str, *, seconds: float, port: int = READ_PORT) -> HostState:
    try:
        async with asyncio.timeout(seconds), AsyncHostd(f"http://{address}:{port}", seconds=seconds) as client:
            host, failed = await client.host(), await client.units(state=["failed"])
    except TimeoutError:
        return HostState(name, role, address, "unknown", why=f"no answer within {seconds:g} s")
    except BacklineError as error:
        return HostState(name, role, address, "unknown", why=error.message)
    if host.hostname != name:
        return HostState(name, role, address, "unknown", why=f"{host.hostname} answers at its address")
    names = [unit.name for unit in failed.units]
    state: Literal["up", "degraded"] = "degraded" if names else "up"
    return HostState(name, role, address, state, host.version, host.boot_id, names)


def supervisor(name: str, *, hall: Path | None, certificate: Path | None) -> Supervisor:
    """A client of the supervisor of a host, over TLS, at its address.

    Raises UsageError("host.unknown"), MissingError("host.certificate"), InputError("tls.files").
    """
    found = read_hall(hall)
    host = found.hosts.get(name)
    if host is None:
        raise UsageError("host.unknown", f"{name} is no host of hall.toml", hint=nearest(name, sorted(found.hosts)))
    return at(f"https://{host.address}:{PORT}", hall=hall, certificate=certificate)


def at(address: str, *, hall: Path | None, certificate: Path | None) -> Supervisor:
    """A client of the supervisor at an address, over TLS, which has to have a certificate of the hall's CA.

    Raises MissingError("host.certificate", "hall.missing"), InputError("tls.files").
    """
    ours = certificate or CREDENTIALS
    if not ours.exists():
        hint = (
            f"backline hall certificate THISHOST --scope host, or --certificate FILE; the usual place is {CREDENTIALS}"
        )
        raise MissingError(
            "host.certificate", f"other hosts want a certificate of scope host: there is no {ours}", hint=hint
        )
    if HALL_CA.exists():
        return Supervisor(address, tls=TlsSettings(ca=HALL_CA, certificate=ours))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as ca:
        ca.write(read_hall(hall).trust.ca)
        ca.flush()
        return Supervisor(address, tls=TlsSettings(ca=Path(ca.name), certificate=ours))
