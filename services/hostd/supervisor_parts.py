"""The supervisor put together from its settings, as it runs on a host."""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from pathlib import Path

from services.common import toml
from services.common.bus.manager import SystemdManager
from services.common.bus.signals import SystemdEvents
from services.common.errors import BacklineError
from services.common.identity import ImageIdentity
from services.common.tls import server_context
from services.hall.schema import Hall
from services.hostd.hands import SystemHands
from services.hostd.history import History
from services.hostd.journal import JournalReader
from services.hostd.machines_asking import ASKS, Asks
from services.hostd.machines_images import Images
from services.hostd.machines_records import Records
from services.hostd.machines_seen import Viewer
from services.hostd.roots_seen import RootServer
from services.hostd.store import BOOT_ID, Store
from services.hostd.supervisor import Supervisor
from services.hostd.supervisor_schema import Settings
from services.hostd.unit_files import UnitFiles

logger = logging.getLogger(__name__)

CREDENTIAL = "backline.tls"
"""The certificate that this host serves with, and its key: the one that nginx on gw has."""
HALL = Path("/etc/credstore/backline.hall")
"""hall.toml where `backline host init` puts it."""
IRON = "iron"
"""The role that `backline host init` gives a host: the one that runs machines."""
GENERATIONS = Path("/usr/lib/backline-iron")
"""Where it puts hostd: a container that became iron is told another role by whoever starts it."""
JOURNAL_BYTES = 1024 * 1024


def make_store(settings: Settings, identity: ImageIdentity) -> Store:
    """What hostd shows, for those who may change."""
    journal = JournalReader(seconds=settings.journal_seconds, size=JOURNAL_BYTES)
    return Store(manager=SystemdManager(settings.bus), journal=journal, identity=identity)


def make_supervisor(settings: Settings, identity: ImageIdentity) -> Supervisor:
    """The supervisor of the systemd behind `settings.bus`; of machines too, on iron."""
    manager = SystemdManager(settings.bus)
    hands = SystemHands(
        manager,
        SystemdEvents(settings.bus),
        UnitFiles(settings.units),
        JournalReader(seconds=settings.journal_seconds, size=JOURNAL_BYTES),
        job_seconds=settings.job_seconds,
        asks=Asks(settings.state / ASKS.name),
        roots=RootServer(settings.roots),
    )
    viewer = None
    if identity.role == IRON or GENERATIONS.is_dir():
        viewer = Viewer(manager, Records(settings.machines), Images(settings.machines / "images"))
    return Supervisor(
        history=History(settings.state),
        hands=hands,
        boot=BOOT_ID.read_text().strip(),
        settle_seconds=settings.settle_seconds,
        viewer=viewer,
    )


def tls_of_this_host(ca: Path, *, hall: Path = HALL) -> ssl.SSLContext | None:
    """What it serves TLS with; None where it has no certificate or no hall, or where they are no good.

    Iron has no service that takes hall.toml apart: there, the CA is read from `hall`.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    certificate = Path(folder, CREDENTIAL) if folder else None
    if certificate is None or not certificate.exists():
        return None
    try:
        if ca.exists():
            return server_context(certificate, ca)
        if not hall.exists():
            return None
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(toml.decode(toml.load(hall, area="hall"), Hall).trust.ca)
            file.flush()
            return server_context(certificate, Path(file.name))
    except (BacklineError, OSError) as error:
        logger.warning("there is no TLS: %s", error)
        return None
