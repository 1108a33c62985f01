"""Which versions the depot lets go, and why it keeps the others.

A version stays while it is what a channel got last, while netboot says that somebody uses it (channels that point to it
or did before, pins, leases), while a receiver pulls it, while a delta to or from it is being made, while it is new and
unpublished, and when it is one of the newest of its role: what the next version is made from. netboot is asked only of
versions with a kernel, as it is told of no others. Without its word nothing of those goes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from netboot.client import Netboot
from services.common.collecting import GcAnswer, GcRequest, Kept
from services.common.errors import BacklineError, MissingError
from services.common.versions import Ref
from services.depot.files import Files, Whole
from services.depot.store import Store

logger = logging.getLogger(__name__)

AGE_SECONDS = 60.0
"""How old netboot's word on leases may be when a version is deleted."""
NEW_SECONDS = 3600.0
"""So long a version that came here waits for its publication."""
PULL_SECONDS = 3600.0
"""A receiver that has said nothing for so long has given up what it was pulling; it asks again for what it needs."""

Clock = Callable[[], float]


class Collector:
    """Deletes what nobody needs. `busy` names the versions that deltas are being made of."""

    def __init__(
        self,
        store: Store,
        *,
        netboot: str,
        keep: int,
        busy: Callable[[], Collection[Ref]],
        clock: Clock = time.time,
    ) -> None:
        self.store = store
        self.files: Files = store.files
        self.netboot = netboot
        self.keep = keep
        self.busy = busy
        self.clock = clock

    def collect(self, request: GcRequest) -> GcAnswer:
        """Delete what nothing speaks for; a plan only says what would go. Blocks, and reads no file of a version."""
        keep = self.keep if request.keep is None else request.keep
        answer = GcAnswer(removed=[], bytes=0, kept=[])
        freed = 0
        count: dict[str, int] = {}
        for whole in self.files.versions():
            number = count[whole.ref.role] = count.get(whole.ref.role, 0) + 1
            # Nobody publishes it between the question and the deletion.
            with self.store.no_publishing():
                why = self._reasons(whole)
                if number <= keep:
                    why.append(f"one of the {keep} newest of {whole.ref.role}")
                if not why and not request.plan:
                    try:
                        self.files.remove(whole.ref)
                    except MissingError:  # somebody else was quicker
                        continue
                    logger.info("%s was deleted: nobody needs it", whole.ref)
            if why:
                answer.kept.append(Kept(role=whole.ref.role, version=whole.ref.version, why=why))
            else:
                answer.removed.append(str(whole.ref))
                freed += whole.size
        return GcAnswer(removed=answer.removed, bytes=freed, kept=answer.kept)

    def _reasons(self, whole: Whole) -> list[str]:
        """Everything that speaks against deleting a version now."""
        ref = whole.ref
        why = [f"what channel {name} got last" for name in self.store.published(ref)]
        why += self._users(whole)
        why += [f"{host} is pulling it" for host in self.store.pulling(ref, since=self.clock() - PULL_SECONDS)]
        if ref in self.busy():
            why.append("a delta of it is being made")
        if self.clock() - whole.added < NEW_SECONDS and not self.store.was_published(ref):
            why.append("it has just come, and is not published yet")
        return why

    def _users(self, whole: Whole) -> list[str]:
        if "vmlinuz" not in whole.files:
            return []
        try:
            with Netboot(self.netboot) as netboot:
                if (age := netboot.leases().age) > AGE_SECONDS:
                    return [f"netboot's leases are {age:.0f} s old"]
                return netboot.users(whole.ref.version).users
        except BacklineError as error:
            if error.code == "version.unknown":
                return []
            return [f"netboot does not say who uses it: {error.message}"]
