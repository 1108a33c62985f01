"""mdb as a process, as systemd starts it: two activated sockets, a database of its own, the pools of a small hall."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.common.service_rig import Service, activated

MDB = [sys.executable, "-m", "services.common.main", "mdb", "serve"]
CONFIGURATION = """
database = "{database}"
reserved = ["192.168.1.254=gw"]

[pools.user]
range = "192.168.0.1-192.168.0.200"
network = "192.168.0.0/23"

[pools.service]
range = "192.168.1.1-192.168.1.254"
network = "192.168.0.0/23"
"""


@contextlib.contextmanager
def serving(folder: Path, database: str) -> Iterator[Service]:
    """mdb over a database, ready to answer."""
    file = folder / "mdb.toml"
    file.write_text(CONFIGURATION.format(database=database))
    (folder / "service.sock").unlink(missing_ok=True)
    (folder / "notify").unlink(missing_ok=True)
    with activated(folder, [*MDB, "--config", str(file)]) as service:
        yield service
