"""What a root file server does all the time: check what it holds, follow the depot, pull, confirm, let go.

One worker thread does one piece of work at a time (check, pull); requests to remove and collect run beside it, so they
work while a pull waits for room. netboot offers a version from here only while it has our word for it, so the word
comes last when a version is taken, and goes first when one is removed:

    remove: who uses it? -> take back our word -> who uses it now? -> rename away -> delete

Whoever dies in between is wholly before (the next start gives the word again) or wholly after.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from services.common import statement as statements
from services.common.collecting import GcAnswer, GcRequest, Kept
from services.common.errors import BacklineError, BusyError, HostError, IntegrityError, MissingError
from services.common.signing import Signer, read_signers
from services.common.statement import Publication, Statement
from services.common.versions import Ref
from services.roots import plan as plans
from services.roots.held import Folder
from services.roots.plan import Plan, Wanted
from services.roots.pull import Moving, Pull
from services.roots.remote import Depot, Netboot, NewProgress
from services.roots.schema import Holds, Root, Roots, Settings, State

logger = logging.getLogger(__name__)

AGE_SECONDS = 60.0
"""How old netboot's word on who uses a version may be when the version is removed."""
PROGRESS_SECONDS = 1.0

Clock = Callable[[], float]


class Keeper:
    """One root file server. Its public methods may be called from several threads, and block."""

    def __init__(self, settings: Settings, folder: Folder, *, clock: Clock = time.monotonic) -> None:
        self.settings = settings
        self.folder = folder
        self.clock = clock
        self.memory = folder.recall()
        self.checked = False
        """Whether everything that was on disk at the start has been looked at."""
        self.problems: dict[str, str] = {}
        """What keeps us from our work, by what it is about."""
        self.publications: list[Publication] = []
        self._roots: dict[Ref, Root] = {}
        self._plan: Plan | None = None
        """What the depot asks for; None until it was heard."""
        self._leaving: set[Ref] = set()
        self._told: dict[int, tuple[str, float]] = {}
        self._state = threading.RLock()
        self._disk = threading.Lock()
        self._working = threading.Lock()
        self._remembering = threading.Lock()

    # What there is

    def status(self) -> Roots:
        """This server and its versions, the newest first."""
        with self._state:
            found = sorted(self._roots.items(), key=lambda each: each[0].version, reverse=True)
            return Roots(
                host=self.settings.host,
                numbers=list(self.settings.numbers),
                roots=[root for _, root in found],
                free=self.folder.free(),
                problems=[f"{about}: {why}" for about, why in sorted(self.problems.items())],
                holds=list(self.memory.holds),
            )

    def count(self, state: State) -> int:
        """How many versions are in a state."""
        with self._state:
            return sum(root.state is state for root in self._roots.values())

    def root(self, ref: Ref) -> Root:
        """One version. Raises MissingError("roots.unknown")."""
        with self._state:
            if ref not in self._roots:
                raise MissingError("roots.unknown", f"{self.settings.host or 'this server'} does not hold {ref}")
            return self._roots[ref]

    def held(self) -> list[Ref]:
        """Verified versions, the newest first."""
        with self._state:
            return [ref for ref in self.folder.refs() if self._is(ref, State.HELD)]

    def _is(self, ref: Ref, state: State) -> bool:
        root = self._roots.get(ref)
        return root is not None and root.state is state

    def _set(self, ref: Ref, state: State, **fields: object) -> None:
        with self._state:
            before = self._roots.get(ref, Root(role=ref.role, version=ref.version, state=state))
            if before.state is not state:
                before = msgspec.structs.replace(before, detail="")
            self._roots[ref] = msgspec.structs.replace(before, state=state, **fields)

    @contextlib.contextmanager
    def _about(self, what: str) -> Iterator[None]:
        """Note a failure of a block as a problem, and its success as none; the failure does not go on."""
        try:
            yield
        except BacklineError as error:
            if self.problems.get(what) != error.message:
                logger.warning("%s: %s", what, error)
            self.problems[what] = error.message
        else:
            self.problems.pop(what, None)

    # Checking

    def check(self) -> None:
        """Read and verify every version that is on disk; what is damaged is not offered."""
        with self._working:
            self.folder.prepare()
            refs = self.folder.refs()
            for ref in refs:
                self._set(ref, State.CHECKING, size=self.folder.size(ref))
            signers = self.signers()
            for ref in refs:
                try:
                    self.folder.verify(ref, signers)
                except (IntegrityError, MissingError) as error:
                    logger.error("%s is not what was signed: %s", ref, error)
                    self._set(ref, State.DAMAGED, detail=str(error))
                else:
                    self._set(ref, State.HELD)
                    logger.info("%s is whole", ref)
            self.checked = True

    def signers(self) -> list[Signer]:
        """Whose signatures count now. Raises InputError("signers.*")."""
        return read_signers(self.settings.signers)

    # netboot's view of us

    def confirm(self) -> None:
        """Have netboot know what we hold, and nothing else. A version that it does not know yet is told later."""
        with self._about("netboot"), self._netboot() as netboot:
            noted = {(each.rfs, each.version) for each in netboot.holdings() if each.rfs in self.settings.numbers}
            unknown = []
            for ref in self.held():
                with self._disk:
                    if not self.folder.have(ref) or ref in self._leaving:
                        continue
                    try:
                        for number in self.settings.numbers:
                            if (number, ref.version) not in noted:
                                netboot.hold(number, ref.version)
                                logger.info("confirmed %s as rfs%s", ref, number)
                        self._set(ref, State.HELD, confirmed=True)
                    except BacklineError as error:
                        if error.code != "version.unknown":
                            raise
                        unknown.append(ref.version)
                        self._set(ref, State.HELD, confirmed=False)
            if self.checked:
                ours = {ref.version for ref in self.held()}
                for number, version in sorted(noted):
                    if version not in ours:
                        netboot.release(number, version)
                        logger.info("took back that rfs%s holds %s", number, version)
            for ref in self._damaged():
                self._set(ref, State.DAMAGED, confirmed=False)

    def _damaged(self) -> list[Ref]:
        with self._state:
            return [ref for ref, root in self._roots.items() if root.state is State.DAMAGED]

    # Taking

    def take(self, publications: Sequence[Publication], *, fresh: Collection[int] = ()) -> None:
        """Do what the depot's publications ask for; `fresh` are ids that have just come.

        What fails is noted, and done again by the next call.
        """
        if not self.settings.numbers:
            self.problems["hall.toml"] = "this host has no alias rfsN: no machine boots from it, and nothing is taken"
            return
        with self._working:
            self.publications = list(publications)
            pointers: dict[str, list[str]] | None = None
            with self._about("netboot"), self._netboot() as netboot:
                pointers = netboot.pointers()
            plan = plans.make(
                publications,
                self.memory,
                host=self.settings.host,
                pointers=pointers or {},
                verify=self._verify,
                fresh=fresh,
                holds=self.memory.holds,
            )
            with self._state:
                self._plan = plan
            with self._remembering:
                memory = msgspec.structs.replace(plan.memory, holds=self.memory.holds)
                if memory != self.memory:
                    self.memory = memory
                    with self._about("memory"):
                        self.folder.remember(memory)
            for refused in plan.refused:
                self._refuse(refused)
            wanted = list({each.ref: each for each in plan.wanted}.values())
            if pointers is not None:
                self.folder.sweep({each.ref for each in wanted})
            for each in wanted:
                if self._is(each.ref, State.HELD):
                    self._tell_held(each)
                    continue
                with self._about(str(each.ref)):
                    self._pull(each)

    def hold(self, holds: Holds) -> Holds:
        """Hold these versions beside what channels and pins want. Raises HostError("roots.full", "roots.disk")."""
        with self._remembering:
            memory = msgspec.structs.replace(self.memory, holds=sorted(set(holds.roots)))
            if memory != self.memory:
                self.folder.remember(memory)
                self.memory = memory
        return Holds(roots=list(self.memory.holds))

    def stage(self, ref: Ref) -> Root:
        """Pull a published version now, whatever channel it is on. Raises what the pull raises."""
        with self._working:
            if self._is(ref, State.HELD):
                return self.root(ref)
            for publication in reversed(self.publications):
                with contextlib.suppress(IntegrityError):
                    statement = self._verify(publication, 0)
                    if (statement.role, statement.version) == (ref.role, ref.version):
                        self._pull(Wanted(ref, publication, "asked for"))
                        break
            else:
                raise MissingError("roots.unpublished", f"{ref} was not published", hint=f"backline publish {ref}")
        self.confirm()
        return self.root(ref)

    def _verify(self, publication: Publication, last: int) -> Statement:
        return statements.verify(publication, self.signers(), last_sequence=last, hall=self.settings.hall or None)

    def _refuse(self, refused: plans.Refused) -> None:
        logger.error("publication %s is refused: %s", refused.publication.id, refused.error)
        self.problems[f"publication {refused.publication.id}"] = f"refused: {refused.error.message}"
        if refused.ref is not None and refused.ref not in self._roots:
            self._set(refused.ref, State.REFUSED, detail=refused.error.message)
        self._tell(refused.publication, "failed", detail=f"{refused.error.code}: {refused.error.message}")

    def _pull(self, wanted: Wanted) -> None:
        ref = wanted.ref
        logger.info("pulling %s: %s", ref, wanted.why)
        self._set(ref, State.PULLING, confirmed=False)
        bases = self.held()
        try:
            with self._depot() as depot:
                if bases:
                    depot.settled(ref)
                pull = Pull(
                    self.folder,
                    depot,
                    wanted.publication,
                    signers=self.signers(),
                    bases=bases,
                    reserve=self.settings.reserve_bytes,
                    delta_bytes=self.settings.delta_bytes,
                    tell=lambda moving: self._moving(wanted, moving),
                    lock=self._disk,
                )
                try:
                    pull.run()
                except HostError as error:
                    if error.code != "roots.full" or not self._make_room():
                        raise
                    pull.run()
        except BacklineError as error:
            refused = isinstance(error, IntegrityError)
            self._set(ref, State.REFUSED if refused else State.FAILED, detail=str(error))
            if not refused and self.folder.have(ref):
                self._set(ref, State.DAMAGED)
            self._tell(wanted.publication, "failed", detail=f"{error.code}: {error.message}")
            raise
        self._set(ref, State.HELD, size=self.folder.size(ref))
        self.problems.pop(f"publication {wanted.publication.id}", None)
        logger.info("%s is here: %s of %s bytes were moved", ref, pull.moving.moved, pull.moving.full)
        self._tell(wanted.publication, "staging", moving=pull.moving)
        self.confirm()
        if self.root(ref).confirmed:
            self._tell(wanted.publication, "confirmed", moving=pull.moving)

    def _make_room(self) -> bool:
        """Collect, and say whether anything came of it."""
        try:
            return bool(self.collect(GcRequest()).removed)
        except BacklineError as error:
            logger.warning("no room, and nothing can be collected: %s", error)
            return False

    def _moving(self, wanted: Wanted, moving: Moving) -> None:
        self._set(wanted.ref, State.PULLING, moved=moving.moved, total=moving.total, size=moving.full)
        self._tell(wanted.publication, moving.state, moving=moving)

    def _tell_held(self, wanted: Wanted) -> None:
        """Tell the depot of a version that is here already, unless it knows: its figures of the pull would be lost."""
        id, root = wanted.publication.id, self.root(wanted.ref)
        if not root.confirmed or self._told.get(id, ("", 0.0))[0] == "confirmed ":
            return
        with contextlib.suppress(BacklineError), self._depot() as depot:
            if id not in self._told and depot.told(id, self.settings.host) == "confirmed":
                self._told[id] = ("confirmed ", self.clock())
                return
        self._tell(wanted.publication, "confirmed", moving=Moving(full=root.size))

    def _tell(self, publication: Publication, state: str, *, moving: Moving | None = None, detail: str = "") -> None:
        """Tell the depot how far we are: each state once, and what moves once a second. It may be away."""
        before, at = self._told.get(publication.id, ("", 0.0))
        moves = state == "pulling" and moving is not None and self.clock() - at >= PROGRESS_SECONDS
        if before == f"{state} {detail}" and not moves:
            return
        moving = moving or Moving()
        new = NewProgress(bytes=moving.moved, total=moving.total, full=moving.full, state=state, detail=detail[:500])
        self._told[publication.id] = (f"{state} {detail}", self.clock())
        try:
            with self._depot() as depot:
                depot.progress(publication.id, self.settings.host, new)
        except BacklineError as error:
            logger.debug("the depot does not take our progress: %s", error)
            if state != "pulling":
                self._told.pop(publication.id, None)

    # Letting go

    def remove(self, ref: Ref) -> None:
        """Remove a version that nobody uses or wants.

        Raises MissingError("roots.unknown"), BusyError("conflict.in-use") with everybody who does, and what netboot
        raises: without its word nothing is removed.
        """
        if not self.folder.have(ref):
            with self._state:
                pulled = self._is(ref, State.PULLING)
            if pulled:
                raise BusyError("conflict.in-use", f"{ref} is in use: it is being pulled")
            self._forget(ref)
            return
        with self._netboot() as netboot:
            if why := self._reasons(netboot, ref):
                raise BusyError("conflict.in-use", f"{ref} is in use: {'; '.join(why)}")
            self._let_go(netboot, ref)

    def collect(self, request: GcRequest) -> GcAnswer:
        """Remove every version that nobody uses or wants and that is not among the newest of its role.

        Raises what netboot raises when it cannot be asked about the first; what cannot be removed is kept and named.
        """
        keep = self.settings.keep if request.keep is None else request.keep
        removed: list[str] = []
        freed = 0
        kept: list[Kept] = []
        count: dict[str, int] = {}
        with self._netboot() as netboot:
            netboot.holdings()  # without netboot nothing is collected, and that is said once
            for ref in self.folder.refs():
                why = self._reasons(netboot, ref)
                if self._is(ref, State.HELD):
                    count[ref.role] = count.get(ref.role, 0) + 1
                    if count[ref.role] <= keep:
                        why.append(f"one of the {keep} newest of {ref.role}")
                size = self.folder.size(ref)
                if not why and not request.plan:
                    try:
                        self._let_go(netboot, ref)
                    except BusyError as error:
                        why = [error.message]
                if why:
                    kept.append(Kept(role=ref.role, version=ref.version, why=why))
                else:
                    removed.append(str(ref))
                    freed += size
        return GcAnswer(removed=removed, bytes=freed, kept=kept)

    def _reasons(self, netboot: Netboot, ref: Ref) -> list[str]:
        """Everything that speaks against removing a version now.

        Raises what netboot raises, and BusyError("conflict.stale") when what it knows of leases is old.
        """
        if (age := netboot.age()) > AGE_SECONDS:
            hint = "see `systemctl status backline-netboot` on gw"
            raise BusyError("conflict.stale", f"netboot's leases are {age:.0f} s old: nothing is removed", hint=hint)
        why = netboot.users(ref.version)
        if str(ref) in self.memory.holds:
            why.append("this host's document has it held")
        with self._state:
            if self._plan is None:
                why.append("what is published is not known: the depot was not heard since the start")
            else:
                why += self._plan.reasons(ref)
            if self._is(ref, State.CHECKING):
                why.append("it is being checked")
        if self.folder.is_open(ref):
            why.append("a client has a file of it open")
        return list(dict.fromkeys(why))

    def _let_go(self, netboot: Netboot, ref: Ref) -> None:
        """Remove a version of which nobody is known to use it, unless somebody began to. Raises BusyError."""
        began = self.clock()
        with self._disk:
            self._leaving.add(ref)
        try:
            self._leave(netboot, ref, began)
        finally:
            with self._disk:
                self._leaving.discard(ref)
        self._forget(ref)
        logger.info("removed %s", ref)

    def _leave(self, netboot: Netboot, ref: Ref, began: float) -> None:
        self.folder.hook("release")
        for number in self.settings.numbers:
            netboot.release(number, ref.version)
        self.folder.hook("released")
        try:
            if why := self._reasons(netboot, ref):
                raise BusyError("conflict.in-use", f"{ref} is in use: {'; '.join(why)}")
            with self._disk:
                if self.clock() - began > AGE_SECONDS:
                    raise BusyError("conflict.in-use", f"who uses {ref} was asked more than {AGE_SECONDS:.0f} s ago")
                self.folder.remove(ref)
        except BacklineError:
            if self.folder.have(ref) and self._is(ref, State.HELD):
                with contextlib.suppress(BacklineError):
                    for number in self.settings.numbers:
                        netboot.hold(number, ref.version)
            raise

    def _forget(self, ref: Ref) -> None:
        with self._state:
            if self._roots.pop(ref, None) is None:
                raise MissingError("roots.unknown", f"{self.settings.host or 'this server'} does not hold {ref}")

    # Others

    def _netboot(self) -> Netboot:
        return Netboot(self.settings.netboot, tls=self.settings.tls)

    def _depot(self) -> Depot:
        return Depot(self.settings.depot, tls=self.settings.tls)
