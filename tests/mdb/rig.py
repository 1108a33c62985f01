"""mdb as a process, as systemd starts it: two activated sockets, a database of its own, the pools of a small hall."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.common import main
from tests.common.service_rig import Service, activated

MDB = [sys.executable, "-m", "services.common.main", "mdb", "serve"]
WITHOUT_POOLS = """
database = "{database}"
reserved = ["192.168.1.254=gw"]
"""
CONFIGURATION = f"""{WITHOUT_POOLS}
[pools.user]
range = "192.168.0.1-192.168.0.200"
network = "192.168.0.0/23"

[pools.service]
range = "192.168.1.1-192.168.1.254"
network = "192.168.0.0/23"
"""


@contextlib.contextmanager
def serving(
    folder: Path, database: str, *, pools: bool = True, env: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """mdb over a database, ready to answer; without `pools` every address is written down."""
    file = folder / "mdb.toml"
    file.write_text((CONFIGURATION if pools else WITHOUT_POOLS).format(database=database))
    (folder / "service.sock").unlink(missing_ok=True)
    (folder / "notify").unlink(missing_ok=True)
    with activated(folder, [*MDB, "--config", str(file)], env=env) as service:
        yield service


def command(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `backline mdb`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.backline(["mdb", *words])
    return code, out.getvalue(), err.getvalue()
