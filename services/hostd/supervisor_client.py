"""The typed client of the supervisor; the calls are described once."""

from __future__ import annotations

import time

from services.common.client import Call, Client, path_of
from services.hostd.desired import Desired
from services.hostd.machines_seen import MachineDetail, Machines
from services.hostd.schema import Host, Journal, UnitDetail, Units
from services.hostd.supervisor_schema import (
    Action,
    GenerationDetail,
    Generations,
    InForce,
    Job,
    Jobs,
    MachineAction,
    Observed,
    Planned,
    Proposal,
    Rollback,
    Transient,
    Wanted,
)
from services.roots.client import Roots

SOCKET = "unix:/run/backline/supervisor.sock"
PORT = 20211
WAIT = 20


class Supervisor(Client):
    """The supervisor, blocking. Errors are those of `services.common.client`."""

    def host(self) -> Host:
        """The host's name, boot, role and version."""
        return self.send(Call("GET", "/v1/host", Host))

    def units(self, *, state: list[str] | None = None, match: list[str] | None = None) -> Units:
        """Loaded units in one of the states that fit one of the shell patterns."""
        return self.send(Call("GET", "/v1/units", Units, query={"state": state or [], "match": match or []}))

    def unit(self, name: str) -> UnitDetail:
        """One unit."""
        return self.send(Call("GET", path_of("v1", "units", name), UnitDetail))

    def journal(self, name: str, *, lines: int | None = None) -> Journal:
        """The newest entries of a unit's journal."""
        return self.send(Call("GET", path_of("v1", "units", name, "journal"), Journal, query={"lines": lines}))

    def act(self, name: str, action: Action) -> Job:
        """Begin an action on a unit."""
        return self.send(Call("POST", path_of("v1", "units", name, "jobs"), Job, body=action))

    def machines(self) -> Machines:
        """The machines of an iron."""
        return self.send(Call("GET", "/v1/machines", Machines))

    def machine(self, name: str) -> MachineDetail:
        """One machine."""
        return self.send(Call("GET", path_of("v1", "machines", name), MachineDetail))

    def change(self, name: str, action: MachineAction) -> Job:
        """Begin to start, stop, upgrade or revert a machine."""
        return self.send(Call("POST", path_of("v1", "machines", name, "jobs"), Job, body=action))

    def roots(self) -> Roots:
        """The versions on a root file server."""
        return self.send(Call("GET", "/v1/roots", Roots))

    def transient(self, wanted: Transient) -> Job:
        """Begin a transient service."""
        return self.send(Call("POST", "/v1/transients", Job, body=wanted))

    def generations(self) -> Generations:
        """Generations, newest first."""
        return self.send(Call("GET", "/v1/generations", Generations))

    def generation(self, number: int) -> GenerationDetail:
        """A generation with its document and its journal."""
        return self.send(Call("GET", path_of("v1", "generations", str(number)), GenerationDetail))

    def desired(self) -> InForce:
        """The document in force."""
        return self.send(Call("GET", "/v1/desired", InForce))

    def observed(self) -> Observed:
        """The units of the document in force as they are."""
        return self.send(Call("GET", "/v1/observed", Observed))

    def plan(self, desired: Desired) -> Planned:
        """What applying a document would do."""
        return self.send(Call("POST", "/v1/plans", Planned, body=Proposal(desired)))

    def apply(self, desired: Desired, *, why: str, expected: int) -> Job:
        """Begin to bring a document into force; `expected` is the newest generation."""
        headers = {"if-match": f'"{expected}"'}
        return self.send(Call("POST", "/v1/generations", Job, body=Wanted(desired, why), headers=headers))

    def rollback(self, *, why: str, to: int | None = None) -> Job:
        """Begin to bring back what was in force before, or generation `to`."""
        return self.send(Call("POST", "/v1/rollback", Job, body=Rollback(why, to)))

    def again(self) -> Jobs:
        """Begin to set right what has drifted; no job when nothing has."""
        return self.send(Call("POST", "/v1/again", Jobs))

    def jobs(self) -> Jobs:
        """Jobs, newest first."""
        return self.send(Call("GET", "/v1/jobs", Jobs))

    def job(self, name: str, *, wait: int = 0) -> Job:
        """A job; with `wait`, at its end or after so many seconds."""
        return self.send(Call("GET", path_of("v1", "jobs", name), Job, query={"wait": wait or None}))

    def cancel(self, name: str) -> Job:
        """Ask a job to end."""
        return self.send(Call("DELETE", path_of("v1", "jobs", name), Job))

    def wait(self, name: str, *, deadline: float) -> Job:
        """A job at its end, or as it is at the deadline (`time.monotonic()`)."""
        while True:
            left = deadline - time.monotonic()
            job = self.job(name, wait=max(0, min(WAIT, int(left) + 1)))
            if job.state != "running" or left <= 0:
                return job
