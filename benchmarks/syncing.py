"""A seat that knows nothing follows udb's feed until every user is in force: a process of its own, told over stdout.

`python -m benchmarks.syncing ADDRESS FOLDER USERS` does what `backline identity serve` does when it starts: connect,
take the snapshot, make the files, switch the folder. It prints JSON: `seconds` from the first byte that is sent, and
`memory`, the megabytes that the process has for itself then; so it imports nothing that the service does not.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from pathlib import Path

from services.common.metrics import Metrics
from services.identity.accounts import Own
from services.identity.app import make_app
from services.identity.folder import Folder
from services.identity.schema import Settings
from services.identity.work import Worker, make_follower


async def sync(address: str, folder: Path, users: int) -> float:
    """Seconds until so many users are in force."""
    worker = Worker(Folder(folder), make_follower(Settings(udb=address), {}), own=Own)
    make_app(worker)  # as the service, whose memory is meant
    importlib.import_module("services.common.serve")
    began = time.perf_counter()
    async with worker.run(Metrics(service="identity", version="", role="", image="")):
        while worker.status().users != users or worker.status().state != "applied":
            await asyncio.sleep(0.001)
        return time.perf_counter() - began


def own_memory() -> float:
    """Megabytes that this process has for itself (proc_pid_smaps(5), Pss)."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) / 1000


def main() -> None:
    """See the module."""
    address, folder, users = sys.argv[1:]
    seconds = asyncio.run(sync(address, Path(folder), int(users)))
    print(json.dumps({"seconds": seconds, "memory": own_memory()}))


if __name__ == "__main__":
    main()
