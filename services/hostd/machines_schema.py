"""What there is to say of a machine on iron: what it is, what it runs, what is being changed, what was kept.

`Record` is the one truth, a file on disk (`services.hostd.machines_records`); everything that systemd and
systemd-nspawn read is made from it (`services.hostd.machines_render`). A switch is one replacement of that file.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="a host name")]
Role = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$", description="the image that it runs")]
Version = Annotated[str, Meta(pattern=r"^[0-9]{8}\.[0-9a-f]{12}$", description="a version of that image")]
Interface = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$", description="an interface of the iron")]
Mac = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", description="a MAC address")]
Inside = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9_.-]+)+$", max_length=200, description="a path in the machine")]
Outside = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9_.-]+)+$", max_length=400, description="a path on the iron")]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Part of a record: unknown keys are mistakes."""


class Card(Table, frozen=True, kw_only=True):
    """One network card of a machine: `host0` for the first, `host1`..."""

    kind: Annotated[Literal["bridge", "macvlan"], Meta(description="how it hangs on the iron's interface")]
    on: Interface
    mac: Mac | None = None


class Resources(Table, frozen=True, kw_only=True):
    """What a machine may use at most; what is absent is not limited."""

    memory: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,6}[MGT]$", description="as in 2G")] | None = None
    cpus: Annotated[float, Meta(gt=0, le=1024, description="processors, as in 1.5")] | None = None
    tasks: Annotated[int, Meta(ge=64, le=4194304, description="processes and threads")] | None = None


class Machine(Table, frozen=True, kw_only=True):
    """What stays the same over upgrades."""

    name: Name
    role: Role
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$", description="its machine-id(5)")]
    network: Annotated[list[Card], Meta(max_length=8)] = []
    resources: Resources = Resources()
    folders: Annotated[dict[Inside, Outside], Meta(description="persistent folders beside /var")] = {}


class Running(Table, frozen=True, kw_only=True):
    """What a switch changes, in one step: the version, and the folder that is its /var."""

    version: Version
    var: Annotated[str, Meta(pattern=r"^var-[0-9]{1,9}$")]


class Step(Enum):
    """How far an upgrade is. Each is on disk before what comes after it begins."""

    PLANNED = "planned"
    """Nothing has been done yet."""
    STOPPED = "stopped"
    """The machine is off."""
    COPIED = "copied"
    """The new version's /var is whole and on disk."""
    TRIED = "tried"
    """The new version is, or is being, started; its gate runs."""
    FAILED = "failed"
    """The new version is not wanted: back to the old one."""


class Change(Table, frozen=True, kw_only=True):
    """An upgrade under way."""

    to: Running
    step: Step = Step.PLANNED
    boot: Annotated[str, Meta(description="the iron's boot id: found in another boot, the change is taken back")]
    gate_seconds: float
    settle_seconds: float
    deadline: Annotated[float, Meta(description="CLOCK_BOOTTIME until which the gate waits; 0 until it runs")] = 0
    why: str = ""
    failure: str = ""


class Kept(Table, frozen=True, kw_only=True):
    """A /var that no version runs on, and nobody throws away but an administrator."""

    var: str
    version: Annotated[str, Meta(description="the version that wrote it")]
    since: Annotated[str, Meta(description="when it was set aside, RFC 3339")]
    why: str


class Outcome(Table, frozen=True, kw_only=True):
    """How a change ended."""

    at: str
    kind: Literal["created", "upgraded", "reverted"]
    version: Annotated[str, Meta(description="the version that runs since")]
    before: str = ""
    detail: str = ""
    """Why it was taken back, or what the administrator said."""
    kept: str = ""
    """The /var that was set aside."""


class Record(Table, frozen=True, kw_only=True):
    """All that is known of a machine."""

    machine: Machine
    current: Running
    previous: Running | None = None
    """What `revert` goes back to."""
    wanted: Literal["running", "stopped"] = "running"
    change: Change | None = None
    kept: list[Kept] = []
    history: list[Outcome] = []
    """Oldest first, the newest 50."""

    @property
    def running(self) -> Running:
        """What has to run now: the new version once it is tried, the old one before and after."""
        if self.change is not None and self.change.step is Step.TRIED:
            return self.change.to
        return self.current

    def vars(self) -> set[str]:
        """Folders that may not be removed."""
        found = {self.current.var, *(kept.var for kept in self.kept)}
        found |= {self.previous.var} if self.previous else set()
        return found | ({self.change.to.var} if self.change else set())


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an image says of its state, in /usr/lib/backline/state.toml: the form that it leaves /var in, and the forms
    that it runs on. Without that file, a version runs on nothing but what it wrote itself."""

    writes: str
    runs_on: list[str] = []


class Status(Table, frozen=True, kw_only=True):
    """A machine as `backline machine list` shows it."""

    name: str
    role: str
    version: str
    state: Annotated[str, Meta(description="systemd's word: active, inactive, activating, failed, unknown")]
    wanted: str
    previous: str = ""
    change: str = ""
    leader: int | None = None
    failed_units: list[str] = []
