"""The services that know more of a machine than mdb: DHCP and netboot, over their unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from netboot.client import AsyncNetboot
from netboot.schema import Boot, Outcome, Stage
from services.common.errors import MissingError
from services.dhcp.client import AsyncDhcp
from services.dhcp.schema import Offer, Standing
from services.mdb.pages.facts import SECONDS, Fact, Known, Mark, Source
from services.mdb.schema import Machine

BOOTS = 4
_STAGES = {None: "no word from it since", Stage.INITRD: "in its initrd", Stage.SYSTEM: "up", Stage.FAILED: "failed"}


class WhySource:
    """netboot's walk: what the machine boots if it starts now, and every step on the way there."""

    name = "netboot"
    title = "What it boots, and why"

    def __init__(self, address: str) -> None:
        self.address = address

    async def of(self, machine: Machine) -> Known:
        """Each step of `backline why`, then the last few boots."""
        async with AsyncNetboot(self.address, seconds=SECONDS) as netboot:
            why, boots = await asyncio.gather(netboot.why(str(machine.id)), netboot.boots(str(machine.id), limit=BOOTS))
        if why.machine != machine.id:
            raise MissingError("machine.unknown", "netboot has not heard of this machine yet")
        facts = [
            Fact(
                step.step,
                step.text,
                mark=Mark(step.finding.value),
                more=[
                    *(f"{rule.rule}: {rule.because}" for rule in step.rules if not rule.won),
                    *step.more,
                ],
            )
            for step in why.steps
            if step.step != "mdb"  # that is the page itself
        ]
        return Known([*facts, *map(boot_fact, boots.boots)], why.verdict)


class LeaseSource:
    """What the DHCP service gives the machine, and the lease that it has."""

    name = "dhcp"
    title = "Lease"

    def __init__(self, address: str) -> None:
        self.address = address

    async def of(self, machine: Machine) -> Known:
        """The offer that its MAC address would get."""
        if machine.mac is None:
            return Known([Fact("DHCP", "does not know it: it has no MAC address", mark=Mark.UNKNOWN)])
        async with AsyncDhcp(self.address, seconds=SECONDS) as dhcp:
            return Known(offer_facts(await dhcp.offer(machine.mac), machine))


def offer_facts(offer: Offer, machine: Machine) -> Sequence[Fact]:
    """What is offered to a machine, and whether that is what its record says. Pure."""
    match offer.standing:
        case Standing.KNOWN if offer.ip == machine.ip:
            first = Fact("offer", f"{offer.ip}, its own address", mark=Mark.GOOD)
        case Standing.KNOWN:
            first = Fact("offer", f"{offer.ip}: DHCP has not followed the record yet", mark=Mark.PROBLEM)
        case Standing.LEFT_OUT:
            first = Fact("offer", f"left out: {offer.reason or 'no reason is given'}", mark=Mark.PROBLEM)
        case Standing.UNKNOWN:
            first = Fact("offer", f"an address of {offer.pool or 'no pool'}: not known there yet", mark=Mark.PROBLEM)
    lease = offer.lease
    if lease is None:
        return [first, Fact("lease", "none, or DHCP does not say")]
    odd = "" if lease.ip == machine.ip else ": not the address of its record, until it asks again"
    mark = Mark.PROBLEM if odd else Mark.GOOD
    return [first, Fact("lease", f"{lease.ip}{odd}", mark, until=lease.expires)]


def boot_fact(boot: Boot) -> Fact:
    """One boot in a line. Pure."""
    if boot.outcome is not Outcome.BOOT:
        return Fact("refused", boot.detail or boot.outcome.value, Mark.PROBLEM, at=boot.at)
    text = f"{boot.version} from rfs{boot.rfs}, {_STAGES[boot.stage]}"
    more = [boot.stage_detail] if boot.stage_detail else []
    if boot.refused_claims:
        more.append(f"{boot.refused_claims} claims of its credentials were refused")
    bad = boot.stage is Stage.FAILED or boot.refused_claims > 0
    return Fact("booted", text, Mark.PROBLEM if bad else Mark.PLAIN, more, at=boot.at)


def sources(*, dhcp: str, netboot: str) -> list[Source]:
    """Those whose address is set."""
    found: list[Source] = []
    if dhcp:
        found.append(LeaseSource(dhcp))
    if netboot:
        found.append(WhySource(netboot))
    return found
