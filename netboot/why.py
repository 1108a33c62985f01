"""What a machine boots, and why: one walk from its record in mdb to its last boot.

Each step says what it found, and whether that is in order, a problem, or not known because somebody could not be asked.
The walk decides with the same code as a boot (`netboot.decide`), and names the rule that won and those that lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from netboot.aliens import Strangers
from netboot.boots import Boots
from netboot.decide import Decision, Rule
from netboot.leases import LEASE_SECONDS
from netboot.machines import Known
from netboot.schema import Boot, Outcome
from netboot.why_schema import Finding, RuleAnswer, Step, WhyAnswer
from services.common.errors import BacklineError, MissingError
from services.common.feed.client import STALE_SECONDS, Follower
from services.common.names import normal_mac
from services.dhcp.client import AsyncDhcp
from services.dhcp.schema import Offer, Standing

DHCP_SECONDS = 3.0


class Why:
    """Explains machines, around the boot records, what mdb says, and the DHCP service."""

    def __init__(self, boots: Boots, strangers: Strangers, follower: Follower, *, dhcp: str) -> None:
        self.boots = boots
        self.strangers = strangers
        self.follower = follower
        self.dhcp = dhcp

    async def explain(self, name: str) -> WhyAnswer:
        """Raises MissingError("machine.unknown") for a name that is neither a machine's nor a MAC address."""
        machine = self.boots.store.machines.find(name)
        if machine is None:
            return await self._stranger(name)
        rules, decision = await asyncio.to_thread(self.boots.why, machine)
        last = await asyncio.to_thread(self.boots.recent, machine=machine.id, limit=1)
        now = self.boots.store.clock()
        steps = [
            self._record(machine),
            await self._lease(machine.mac, machine.ip, now),
            _asked(last, machine, now),
            _version(rules, decision),
            _server(machine, decision),
            _last(last, decision, now, self.boots.claim_seconds),
        ]
        return WhyAnswer(
            host=machine.hostname,
            machine=machine.id,
            outcome=decision.outcome,
            version=decision.version.version if decision.boots and decision.version else None,
            rule=decision.rule,
            verdict=_verdict(decision),
            steps=steps,
        )

    async def _stranger(self, name: str) -> WhyAnswer:
        try:
            mac = normal_mac(name)
        except ValueError as error:
            raise MissingError(
                "machine.unknown", f"mdb has told netboot of no machine {name}", hint="backline mdb list"
            ) from error
        ready = self.boots.store.machines.ready
        told = f"mdb knows no machine with the MAC address {mac}" if ready else "mdb has not been heard yet"
        seen = next((each for each in self.strangers.all() if each.mac == mac), None)
        asked = "it has not asked since netboot's start"
        if seen is not None:
            ago = _ago(self.boots.store.clock() - seen.last)
            asked = f"it asked {seen.times} times, the last time {ago} ago from {seen.asked_from}"
        steps = [
            Step(step="mdb", finding=Finding.PROBLEM if ready else Finding.UNKNOWN, text=told),
            await self._lease(mac, None, self.boots.store.clock()),
            Step(step="iPXE", finding=Finding.GOOD if seen else Finding.UNKNOWN, text=asked),
        ]
        outcome = Outcome.UNKNOWN if ready else Outcome.NOT_READY
        return WhyAnswer(
            host=mac,
            machine=None,
            outcome=outcome,
            version=None,
            rule="unknown",
            verdict=f"nothing: {told}",
            steps=steps,
        )

    def _record(self, machine: Known) -> Step:
        parts = [
            f"machine {machine.id}, {machine.hostname}",
            machine.mac or "no MAC address",
            machine.ip,
            f"rfs {machine.rfs}, room {machine.room}, type {machine.type}, channel {machine.channel}",
        ]
        text, finding = ", ".join(parts), Finding.GOOD
        if machine.faulty:
            text, finding = f"{text}; faulty: {machine.faulty_reason or 'no reason was given'}", Finding.PROBLEM
        elif machine.mac is None:
            text, finding = f"{text}; without one it never finds its record", Finding.PROBLEM
        more = []
        if not self.boots.store.machines.heard or self.follower.staleness > STALE_SECONDS:
            finding = Finding.UNKNOWN if finding is Finding.GOOD else finding
            more = [f"mdb has not been heard for {_ago(self.follower.staleness)}: this is what it said last"]
        return Step(step="mdb", finding=finding, text=text, more=more)

    async def _lease(self, mac: str | None, address: str | None, now: float) -> Step:
        if mac is None:
            return Step(step="DHCP", finding=Finding.UNKNOWN, text="it cannot be asked about without a MAC address")
        try:
            async with AsyncDhcp(self.dhcp, seconds=DHCP_SECONDS) as dhcp:
                offer = await dhcp.offer(mac)
        except BacklineError as error:
            return Step(step="DHCP", finding=Finding.UNKNOWN, text=f"it could not be asked: {error.message}")
        return _offered(offer, address, now)


def _offered(offer: Offer, address: str | None, now: float) -> Step:
    more = []
    if offer.lease is not None:
        until = offer.lease.expires - now
        more.append(f"it has a lease of {offer.lease.ip}, for {_ago(until)}" if until > 0 else "its lease has ended")
    if offer.boot is not None:
        files = f"BIOS {offer.boot.bios}, UEFI {offer.boot.uefi}, UEFI HTTP {offer.boot.uefi_http}"
        more.append(f"firmware loads: {files}; then iPXE loads {offer.boot.ipxe}")
    finding = Finding.PROBLEM
    if offer.standing is Standing.KNOWN and str(offer.ip) == address:
        text, finding = f"offers {offer.ip}, its own address", Finding.GOOD
    elif offer.standing is Standing.KNOWN:
        text = f"offers {offer.ip}, and mdb says {address}: DHCP has not followed yet"
    elif offer.standing is Standing.UNKNOWN:
        text = f"knows no such machine: an address of {offer.pool or 'no pool'}"
        finding = Finding.GOOD if address is None else Finding.PROBLEM
    else:
        text = f"leaves it out: {offer.reason or 'no reason was given'}"
    return Step(step="DHCP", finding=finding, text=text, more=more)


def _asked(last: Sequence[Boot], machine: Known, now: float) -> Step:
    if not last:
        return Step(step="iPXE", finding=Finding.UNKNOWN, text="it has never asked netboot for a script")
    (boot,) = last
    text = f"it asked {_ago(now - boot.at)} ago, from {boot.asked_from}, and was answered: {boot.outcome.value}"
    strange = boot.asked_from not in (machine.ip, boot.address, "local")
    more = ["that is not its own address: it is not given credentials there"] if strange else []
    return Step(step="iPXE", finding=Finding.PROBLEM if strange else Finding.GOOD, text=text, more=more)


def _version(rules: Sequence[Rule], decision: Decision) -> Step:
    answers = [RuleAnswer(rule=each.name, version=each.version, won=each.won, because=each.because) for each in rules]
    winner = next((each for each in rules if each.won), None)
    if winner is None:
        return Step(step="version", finding=Finding.PROBLEM, text="no rule names a version", rules=answers)
    if decision.outcome is Outcome.NO_VERSION:
        return Step(step="version", finding=Finding.PROBLEM, text=decision.detail, rules=answers)
    return Step(step="version", finding=Finding.GOOD, text=f"{winner.version}, by the {winner.name}", rules=answers)


def _server(machine: Known, decision: Decision) -> Step:
    more = list(decision.passed)
    if decision.servers:
        first, *others = (f"rfs{each.rfs} ({each.hostname}, {each.address})" for each in decision.servers)
        text = f"{first}, then {', then '.join(others)}" if others else f"{first}, and no other holds it"
        return Step(step="root server", finding=Finding.GOOD, text=text, more=more)
    if decision.outcome in (Outcome.NOT_HELD, Outcome.NO_SERVER):
        return Step(step="root server", finding=Finding.PROBLEM, text=decision.detail, more=more)
    return Step(
        step="root server", finding=Finding.UNKNOWN, text=f"rfs{machine.rfs}, but it boots nothing now", more=more
    )


def _last(last: Sequence[Boot], decision: Decision, now: float, claim_seconds: float) -> Step:
    boot = next((each for each in last if each.version is not None), None)
    if boot is None:
        return Step(step="last boot", finding=Finding.UNKNOWN, text="none is on record")
    stage = f"{boot.stage.value}, {_ago(now - (boot.stage_at or now))} ago" if boot.stage else "it has not reported"
    text = f"{boot.version} from {boot.servers[0]}, by the {boot.rule}; {stage}"
    more = [boot.stage_detail] if boot.stage_detail else []
    more.append(f"credentials: {_claimed(boot, now, claim_seconds)}")
    left = LEASE_SECONDS - (now - max(boot.at, boot.stage_at or 0.0, boot.seen or 0.0))
    more.append(f"its lease keeps {boot.version} for another {_ago(left)}" if left > 0 else "its lease has ended")
    wanted = decision.version.version if decision.version else None
    if decision.boots and wanted != boot.version:
        more.append(f"at its next start it boots {wanted}")
    failed = boot.stage is not None and boot.stage.value == "failed"
    bad = failed or boot.refused_claims > 0
    return Step(step="last boot", finding=Finding.PROBLEM if bad else Finding.GOOD, text=text, more=more)


def _claimed(boot: Boot, now: float, claim_seconds: float) -> str:
    refused = f", and {boot.refused_claims} claims were refused" if boot.refused_claims else ""
    if boot.claimed_at is not None:
        return f"given {boot.claimed_at - boot.at:.0f} s after the answer{refused}"
    return f"{'not claimed yet' if now < boot.at + claim_seconds else 'never claimed'}{refused}"


def _verdict(decision: Decision) -> str:
    if decision.boots:
        assert decision.version is not None
        first = decision.servers[0]
        what = f"{decision.version.role} {decision.version.version} from rfs{first.rfs} ({first.hostname})"
        return f"{what}, by the {decision.rule}: {decision.detail}"
    return f"nothing ({decision.outcome.value}): {decision.detail}"


def _ago(seconds: float) -> str:
    """A span of time in its largest unit."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
