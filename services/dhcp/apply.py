"""Bring machines into force: render, write down, let Kea test, point to it, let Kea take it.

Promises: Kea answers with the last configuration that it took until it takes a new one; whoever dies at whatever step
leaves files from which gw starts with one of the two; what Kea refuses does not keep the rest away: the records that
are guilty are found by halving, left out and named. The link `current` moves after the test and before Kea takes the
configuration: what was answered once is answered after a power cut.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from services.common.errors import BacklineError, MissingError
from services.dhcp import machines, render
from services.dhcp.generations import Generation, Generations, Inputs
from services.dhcp.kea import Checker, Kea, Refused, Running
from services.dhcp.machines import Choice, Machine
from services.dhcp.schema import LeftOut, Settings

logger = logging.getLogger(__name__)

TESTS_MAX = 200
SEARCH_SECONDS = 30.0
"""How long guilty records are looked for, before everything is left as it was."""
SAME_SECONDS = 3.0
"""Kea tells when it was given something in whole seconds."""
FEW = 32
"""Up to so many changed reservations, leases are asked for one by one."""

Step = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What is in force after `Applier.apply`."""

    generation: Generation
    choice: Choice
    changed: bool
    seconds: float


def usable(checker: Checker, settings: Settings, choice: Choice, cards: Mapping[int, str]) -> tuple[bytes, Choice]:
    """A configuration that `checker` accepts, with as many of the chosen machines as possible.

    Raises Refused("kea.refused") when it is not a machine's fault, or too many are guilty to be found in time.
    """
    configuration = render.render(settings, choice, cards)
    refusal = checker.test(configuration)
    if refusal is None:
        return configuration, choice
    logger.warning("Kea refuses the configuration, looking for the machines that it is about: %s", refusal)
    search = _Search(checker, settings, cards, refusal)
    kept, guilty = search.run(choice.machines)
    choice = replace(_of(settings, kept, choice), left_out=[*choice.left_out, *guilty])
    return render.render(settings, choice, cards), choice


def _unobserved(step: str) -> None:
    del step


class _Search:
    """Finds who is guilty: what is known to be good grows by halves that Kea accepts beside it."""

    def __init__(self, checker: Checker, settings: Settings, cards: Mapping[int, str], refusal: str) -> None:
        self.checker, self.settings, self.cards, self.refusal = checker, settings, cards, refusal
        self.deadline = time.monotonic() + SEARCH_SECONDS
        self.tests = 0

    def run(self, suspects: Sequence[Machine]) -> tuple[list[Machine], list[LeftOut]]:
        good: list[Machine] = []
        guilty: list[LeftOut] = []
        if (refusal := self.test([])) is not None:
            raise Refused("kea.refused", refusal, hint="it is not about a machine: look at hall.toml's networks")
        parts = [list(suspects)]
        while parts:
            part = parts.pop()
            refusal = self.test([*good, *part]) if part else None
            if refusal is None:
                good += part
            elif len(part) == 1:
                guilty.append(LeftOut(part[0].id, part[0].hostname, f"Kea refuses it: {refusal}"))
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
        return good, guilty

    def test(self, candidates: Sequence[Machine]) -> str | None:
        self.tests += 1
        if self.tests > TESTS_MAX or time.monotonic() > self.deadline:
            raise Refused("kea.refused", self.refusal, hint="too many records are guilty to find them all")
        choice = _of(self.settings, candidates, Choice({}))
        return self.checker.test(render.render(self.settings, choice, self.cards))


def _of(settings: Settings, kept: Sequence[Machine], whole: Choice) -> Choice:
    """A choice with these machines alone, in the networks that they belong to."""
    reserved: dict[str, list[Machine]] = {network.name: [] for network in settings.networks}
    for machine in sorted(kept, key=lambda machine: machine.ip):
        network = machines.network_of(settings.networks, machine.ip)
        assert network is not None, "what was chosen is in a network"
        reserved[network.name].append(machine)
    return replace(whole, reserved=reserved)


class Applier:
    """Keeps one Kea in line with machines. Not for two threads at once.

    `step` is told of each step that is done, for tests that end the process just there.
    """

    def __init__(self, settings: Settings, kea: Kea, *, step: Step | None = None) -> None:
        self.settings = settings
        self.kea = kea
        self.cards: dict[int, str] = {}
        self.generations = Generations(settings.state)
        self.step = step or _unobserved
        self._known: Generation | None = None
        self._hash = ""
        self._running: Running | None = None
        self._macs: dict[IPv4Address, str | None] | None = None
        self._refused: dict[Machine, LeftOut] = {}

    def apply(self, told: Sequence[Machine | LeftOut], *, position: str | None = None) -> Outcome:
        """Bring these machines into force.

        Raises Refused, MissingError("kea.down" or "dhcp.unprepared"), HostError("dhcp.files").

        Whatever is raised, Kea has the configuration that it had, or starts with one that it accepted.
        """
        with self.generations.lock():
            return self._apply(told, position)

    def _apply(self, told: Sequence[Machine | LeftOut], position: str | None) -> Outcome:
        began = time.monotonic()
        choice = self._choose(told)
        before = self._current()
        configuration = render.render(self.settings, choice, self.cards)
        if before.configuration() == configuration:
            took = self._keep(before, configuration)
            self._end_foreign_leases(choice.machines)
            return Outcome(before, choice, took, time.monotonic() - began)
        tested, accepted = usable(self.kea, self.settings, choice, self.cards)
        self._remember_refused(choice, accepted)
        self.step("tested")
        inputs = Inputs(
            cards=self.cards,
            machines=accepted.machines,
            left_out=list(accepted.left_out),
            position=position,
            made=time.time(),
        )
        staged = self.generations.stage(tested, inputs)
        self.step("staged")
        generation = self.generations.adopt(staged)
        self.step("adopted")
        self.generations.point(generation)
        self.step("pointed")
        self._set(generation, tested, before)
        self._known = generation
        self.generations.prove(generation)
        self.step("proved")
        self.generations.tidy()
        self.step("tidied")
        self._end_foreign_leases(accepted.machines)
        self.step("leases")
        return Outcome(generation, accepted, changed=True, seconds=time.monotonic() - began)

    def astray(self) -> bool:
        """Whether Kea has, or may have, another configuration than it was given last. Raises MissingError.

        The hash of thousands of reservations costs Kea time, so it is asked for once after each change, and then only
        when Kea is another process, or has been given something, since.
        """
        running = self.kea.running()
        known = self._running
        if known is not None and known.pid == running.pid and abs(known.reloaded - running.reloaded) < SAME_SECONDS:
            return False
        if self.kea.hash() != self._hash:
            return True
        self._running = running
        return False

    def _choose(self, told: Sequence[Machine | LeftOut]) -> Choice:
        """What the rules say, without those that Kea itself refused before and that are still the same."""
        choice = machines.choose(self.settings, told)
        chosen = choice.machines
        self._refused = {machine: why for machine, why in self._refused.items() if machine in set(chosen)}
        if not self._refused:
            return choice
        kept = [machine for machine in chosen if machine not in self._refused]
        left_out = [*choice.left_out, *self._refused.values()]
        return replace(_of(self.settings, kept, choice), left_out=left_out)

    def _remember_refused(self, chosen: Choice, accepted: Choice) -> None:
        gone = set(chosen.machines) - set(accepted.machines)
        why = {(each.id, each.name): each for each in accepted.left_out}
        self._refused |= {machine: why[machine.id, machine.hostname] for machine in gone}

    def _current(self) -> Generation:
        """What Kea is to have now, and its cards: at each start of Kea they are looked at anew."""
        current = self.generations.current()
        if current is None:
            raise MissingError(
                "dhcp.unprepared",
                "Kea has not got its first configuration yet",
                hint="systemctl status backline-dhcp-prepare",
            )
        if current != self._known:
            inputs = current.inputs()
            self.cards = dict(inputs.cards) if inputs else self.cards
            self._known = current
        return current

    def _keep(self, generation: Generation, configuration: bytes) -> bool:
        """Nothing has changed; but see to it that Kea has it. True when Kea had to be given it."""
        if self._hash and not self.astray():
            return False
        self._set(generation, configuration)
        self.generations.prove(generation)
        return True

    def _set(self, generation: Generation, configuration: bytes, before: Generation | None = None) -> None:
        """Let Kea take it. What it refuses after all is not what it is to start with."""
        try:
            self._running = None
            self._hash = self.kea.set(configuration)
        except Refused:
            self._hash = ""
            if before is not None:
                self.generations.point(before)
                self.generations.drop(generation)
                self._restore(before)
            raise
        self.step("set")

    def _restore(self, before: Generation) -> None:
        """Kea goes back by itself; where it did not get that far, it is given what it had."""
        try:
            self._hash = self.kea.set(before.configuration())
        except (BacklineError, OSError) as error:
            logger.error("Kea does not take back what it had: %s", error)

    def _end_foreign_leases(self, reserved: Sequence[Machine]) -> None:
        """End leases of addresses that are another machine's now: Kea would not give it its own until they end.

        So a machine with a new card, or one that swaps its address with another's, need not wait for hours.
        """
        wanted = {machine.ip: machine.mac for machine in reserved}
        before = self._macs
        changed = wanted if before is None else {ip: mac for ip, mac in wanted.items() if before.get(ip) != mac}
        if len(changed) > FEW:
            leases = self.kea.leases()
        else:
            leases = [lease for ip in changed if (lease := self.kea.lease(ip)) is not None]
        for lease in leases:
            mac = changed.get(lease.ip_address)
            if mac is not None and lease.hw_address != mac:
                self.kea.end_lease(lease.ip_address)
                logger.info("%s is %s's now: the lease of %s is ended", lease.ip_address, mac, lease.hw_address)
        self._macs = dict(wanted)
