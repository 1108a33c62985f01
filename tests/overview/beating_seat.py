"""A seat's heartbeat, as a process that is well: python -m tests.overview.beating_seat ADDRESS BOOT TOKEN VERSION.

By netboot's socket: over the network, a heartbeat counts from its machine's own address alone.
"""

from __future__ import annotations

import sys
import time

from netboot.client import Netboot
from netboot.schema import Health, Heartbeat
from services.common.errors import BacklineError


def main() -> int:
    address, boot, token, version = sys.argv[1:]
    with Netboot(address) as netboot:
        while True:
            try:
                netboot.heartbeat(boot, token, Heartbeat(version=version, health=Health(state="running")))
            except BacklineError as error:
                print(error, file=sys.stderr)
            time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
