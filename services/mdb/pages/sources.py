"""The services that know more of a machine than mdb: netboot, over its unix socket."""

from __future__ import annotations

from collections.abc import Sequence

from netboot.client import AsyncNetboot
from netboot.schema import Boot, Outcome, Stage
from services.mdb.pages.facts import SECONDS, Fact, Source
from services.mdb.schema import Machine

BOOTS = 5
_STAGES = {
    None: "no word from it since",
    Stage.INITRD: "got as far as its initrd",
    Stage.SYSTEM: "is up",
    Stage.FAILED: "failed",
}


class NetbootSource:
    """What a machine was answered when it booted, by which rule, and how far it came."""

    name = "netboot"
    title = "Boots"

    def __init__(self, address: str) -> None:
        self.address = address

    async def of(self, machine: Machine) -> Sequence[Fact]:
        """The last few boots, the newest first."""
        async with AsyncNetboot(self.address, seconds=SECONDS) as netboot:
            found = await netboot.boots(str(machine.id), limit=BOOTS)
        return [_boot(boot) for boot in found.boots]


def _boot(boot: Boot) -> Fact:
    if boot.outcome is not Outcome.BOOT:
        return Fact("Refused", f"{boot.detail or boot.outcome.value} ({boot.rule})", boot.at, trouble=True)
    stage = _STAGES[boot.stage] + (f": {boot.stage_detail}" if boot.stage_detail else "")
    text = f"{boot.version} from rfs {boot.rfs} ({boot.rule}); {stage}"
    if boot.refused_claims:
        text += f"; somebody asked {boot.refused_claims} times more for its credentials"
    return Fact("Booted", text, boot.at, trouble=boot.stage is Stage.FAILED or boot.refused_claims > 0)


def sources(*, netboot: str) -> list[Source]:
    """Those whose address is set."""
    return [*([NetbootSource(netboot)] if netboot else [])]
