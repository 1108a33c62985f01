"""Publishing: bring a version to the hall's depot, sign what is to be done with it, and see it through.

Promises: the administrator's key signs here, and stays here; what was cut off goes on where it was when the same is
asked again; a channel moves only when every receiver has confirmed the version, and when nobody else has moved it or
published on it meanwhile: of two administrators at once one wins, and the other is told. The other end is
`services.depot`.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from builder.store import Store
from netboot.client import Netboot
from netboot.schema import NewPointer
from services.common import manifest as manifests
from services.common import signing, statement
from services.common.errors import BacklineError, BusyError, IntegrityError, MissingError
from services.common.problem import RemoteError
from services.common.progress import Progress, Step
from services.common.signing import PublicKey
from services.common.statement import Statement
from services.common.versions import Ref, human
from services.depot import schema
from services.depot.client import Depot
from services.depot.schema import NewPublication, NewUpload, Publication, State, Version

PIECE = 16 * 1024 * 1024
WAIT_SECONDS = 20
LOOK_SECONDS = 5
"""How often receivers that say nothing are looked at, and whether somebody else has published."""
_AGAIN = {"depot.hash", "depot.offset", "depot.receiving"}
_ATTEMPTS = 3


@dataclass(frozen=True)
class Wanted:
    """What is to be published, and how."""

    ref: Ref
    channel: str
    to: Sequence[str] = ()
    why: str = ""
    allow_downgrade: bool = False
    switch: bool = True
    """Move the channel's pointer when every receiver has confirmed."""
    commit_within: int | None = None
    """The pointer moves back by itself unless it is committed within so many seconds."""


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver got: `bytes` were sent of the `full` size; `state` is null for one that was not heard."""

    host: str
    state: State | None
    bytes: int
    full: int
    detail: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    publication: int
    version: str
    channel: str
    sequence: int
    uploaded: int
    full: int
    receivers: list[Receiver]
    switched: bool


class Publisher:
    """Publishes from a store to the depot of a hall, signing with `key` (a file, or a .pub of an agent's)."""

    def __init__(
        self,
        store: Store,
        depot: Depot,
        netboot: Callable[[], Netboot],
        *,
        key: Path,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.depot = depot
        self.netboot = netboot
        self.key = key
        self.progress = progress
        self.clock = clock

    @property
    def signer(self) -> str:
        """What the key is called."""
        return self.key.name.removesuffix(".pub")

    def publish(self, wanted: Wanted, *, deadline: float) -> Outcome:
        """Do all of it; waits for receivers until `deadline` (of `clock`).

        Raises what the depot refuses (RemoteError), MissingError("publish.receivers") when not all have confirmed in
        time or one has failed, BusyError("publish.overtaken", "publish.moved") when somebody else has published on the
        channel or moved it meanwhile: the version is published then, and the channel is not moved by us.
        """
        generation = self._generation(wanted)
        whole, uploaded = self._upload(wanted.ref)
        self._wait_for_deltas(wanted.ref, whole)
        made = self._publish(wanted, whole)
        if set(whole.files) >= {"vmlinuz"} and made.receivers:
            made = self._watch(made, deadline)
            receivers = _receivers(made, whole.bytes)
            self._require_confirmed(made, receivers)
            if wanted.switch:
                self._switch(wanted, generation)
            switched = wanted.switch
        else:  # nobody boots it, or nobody is there to hold it: whoever runs such images asks for them
            receivers, switched = [], False
        said = statement.decode(made.statement)
        return Outcome(
            publication=made.id,
            version=str(wanted.ref),
            channel=said.channel,
            sequence=said.sequence,
            uploaded=uploaded,
            full=whole.bytes,
            receivers=receivers,
            switched=switched,
        )

    # The version

    def _upload(self, ref: Ref) -> tuple[Version, int]:
        """Bring what is missing. Returns the version as the depot has it, and how many bytes were sent."""
        folder = self.store.find(ref.role, ref.version)
        manifest = self.store.check(ref.role, ref.version)
        data = (folder / manifests.NAME).read_bytes()
        new = NewUpload(
            role=ref.role, version=ref.version, manifest=data.decode(), signatures=self._signatures(ref, data)
        )
        sent = 0
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                missing = self.depot.begin(new).missing
                total = sum(manifest.artefacts[name].size - here for name, here in missing.items())
                if total:
                    with self.progress.step(f"uploading {ref}", total=total, unit="B") as step:
                        for name, here in missing.items():
                            sent += self._send(ref, name, folder / name, here, step)
                return self.depot.complete(ref.role, ref.version), sent
            except RemoteError as error:
                if error.code not in _AGAIN or attempt == _ATTEMPTS:
                    raise
                self.progress.note(f"{ref}: {error.message}; once more")
        raise AssertionError("the last attempt returns or raises")

    def _signatures(self, ref: Ref, data: bytes) -> list[str]:
        """The signatures that the store has, and ours where it has none of our key."""
        own = signing.read_public(self.key)
        kept = list(self.store.signatures(ref.role, ref.version).values())
        if not any(_key_of(signature) == own.blob for signature in kept):
            kept.append(signing.sign(data, self.key, manifests.SIGNATURE_NAMESPACE))
        return [signature.decode() for signature in kept]

    def _send(self, ref: Ref, name: str, path: Path, here: int, step: Step) -> int:
        with path.open("rb") as file:
            file.seek(here)
            offset = here
            while piece := file.read(PIECE):
                offset = self.depot.put(ref.role, ref.version, name, offset, piece).bytes
                step.advance(len(piece))
        return offset - here

    def _wait_for_deltas(self, ref: Ref, whole: Version) -> None:
        """Receivers begin when the statement is out: deltas shall be there before it."""
        if whole.pending == 0:
            return
        with self.progress.step("deltas", total=whole.pending) as step:
            left = whole.pending
            while left:
                found = self.depot.version(ref.role, ref.version, wait=WAIT_SECONDS)
                step.advance(left - found.pending)
                left = found.pending

    # The statement

    def _publish(self, wanted: Wanted, whole: Version) -> Publication:
        """Sign the statement with the channel's next number, which somebody else may have taken meanwhile."""
        for attempt in range(1, _ATTEMPTS + 1):
            channel = self.depot.channel(wanted.channel)
            if (made := self._published(wanted, channel)) is not None:
                self.progress.note(
                    f"{wanted.ref} is what {wanted.channel} got last: going on with publication {made.id}"
                )
                return made
            said = Statement(
                channel=wanted.channel,
                sequence=channel.next_sequence,
                role=wanted.ref.role,
                version=wanted.ref.version,
                manifest_sha256=self._digest(wanted.ref, whole),
                published_at=statement.now(),
                by=self.signer,
                why=wanted.why,
                allow_downgrade=wanted.allow_downgrade,
                hall=channel.hall,
            )
            text = statement.encode(said)
            signature = signing.sign(text, self.key, statement.NAMESPACE).decode()
            new = NewPublication(statement=text.decode(), signatures=[signature], to=list(wanted.to))
            try:
                return self.depot.publish(new)
            except RemoteError as error:
                if error.code != "publish.sequence" or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _digest(self, ref: Ref, whole: Version) -> str:
        """The SHA-256 of our own manifest: what is signed is what is here, whatever the depot says that it has."""
        digest = hashlib.sha256((self.store.find(ref.role, ref.version) / manifests.NAME).read_bytes()).hexdigest()
        if digest != whole.manifest_sha256:
            raise IntegrityError("publish.manifest", f"the depot has another manifest of {ref}")
        return digest

    def _published(self, wanted: Wanted, channel: schema.Channel) -> Publication | None:
        """The channel's last publication of that role, when it is just what is wanted: a run that was cut off.

        Where a receiver has failed, it takes another publication to make it try again.
        """
        if channel.versions.get(wanted.ref.role) != wanted.ref.version:
            return None
        for made in self.depot.publications(wanted.channel).publications:
            said = statement.decode(made.statement)
            if said.role == wanted.ref.role:
                same = (said.version, made.to) == (wanted.ref.version, list(wanted.to))
                failed = any(word.state is State.FAILED for word in made.progress)
                return made if same and not failed else None
        return None

    def _overtaken(self, made: Publication) -> Publication:
        """The publication to watch: a newer one of the same version by somebody else does as well.

        Raises BusyError("publish.overtaken") when the channel has got another version: receivers take the newest.
        """
        own = statement.decode(made.statement)
        for each in self.depot.publications(own.channel).publications:
            said = statement.decode(each.statement)
            if said.role != own.role or said.sequence <= own.sequence:
                continue
            if (said.version, each.to) == (own.version, made.to):
                return each
            message = (
                f"{each.published_by} has published {said.role}/{said.version} as number {said.sequence} of channel"
            )
            message += f" {said.channel} meanwhile, after your {own.version} as number {own.sequence}"
            hint = "the channel boots theirs when it is there; publish yours again, if it is to come after it"
            raise BusyError("publish.overtaken", message, hint=hint)
        return made

    # The receivers

    def _watch(self, made: Publication, deadline: float) -> Publication:
        """Show each receiver's progress until all are through, or until the deadline."""
        with contextlib.ExitStack() as stack:
            bars = {host: _Bar(self.progress, host, stack) for host in made.receivers}
            while True:
                for word in made.progress:
                    if word.host in bars:  # hall.toml may have another receiver by now
                        bars[word.host].show(word)
                final = {word.host for word in made.progress if word.state.final}
                left = deadline - self.clock()
                if final >= set(made.receivers) or left <= 0:
                    return made
                newest = self._overtaken(made)
                wait = max(1, min(LOOK_SECONDS, int(left)))
                revision = made.revision if newest.id == made.id else None
                made = self.depot.publication(newest.id, revision=revision, wait=wait)

    def _require_confirmed(self, made: Publication, receivers: Sequence[Receiver]) -> None:
        late = [each for each in receivers if each.state is not State.CONFIRMED]
        if not late:
            return
        said = [f"{each.host}: {_trouble(each)}" for each in late]
        hint = f"the channel was not moved; `backline depot show {made.id}`, then the same command again"
        raise MissingError("publish.receivers", "; ".join(said), hint=hint)

    def _generation(self, wanted: Wanted) -> int:
        """Where the channel's pointer is before we begin: it is moved from there, or not at all."""
        if not wanted.switch or "vmlinuz" not in self.store.manifest(wanted.ref.role, wanted.ref.version).artefacts:
            return 0
        with self.netboot() as netboot:
            return next((each.generation for each in netboot.channels().channels if each.name == wanted.channel), 0)

    def _switch(self, wanted: Wanted, generation: int) -> None:
        version = wanted.ref.version
        new = NewPointer(version=version, why=wanted.why, commit_within=wanted.commit_within, generation=generation)
        with self.netboot() as netboot:
            try:
                netboot.switch_channel(wanted.channel, new)
            except RemoteError as error:
                if error.code != "conflict.generation":
                    raise
                channels = {each.name: each for each in netboot.channels().channels}
                if (found := channels.get(wanted.channel)) is None:
                    raise
                why = f" ({found.why})" if found.why else ""
                message = (
                    f"{found.changed_by} has moved channel {found.name} to {found.current or 'nothing'} meanwhile{why}"
                )
                hint = f"{version} is there and confirmed: `backline root switch {version} --channel {found.name}`, if"
                raise BusyError("publish.moved", message, hint=f"{hint} it is still to be booted") from error


class _Bar:
    """One receiver's step of the progress, from its first word to its last."""

    def __init__(self, progress: Progress, host: str, stack: contextlib.ExitStack) -> None:
        self.progress = progress
        self.host = host
        self.stack = stack
        self._shown = 0
        self._step: Step | None = None
        self._over = False

    def show(self, word: schema.Progress) -> None:
        """Show a word of the receiver's."""
        if self._over:
            return
        if self._step is None:
            self._step = self.stack.enter_context(self.progress.step(self.host, total=word.total, unit="B"))
        self._step.set_total(word.total)
        self._step.advance(max(0, word.bytes - self._shown))
        self._shown = max(self._shown, word.bytes)
        if word.state.final:
            self._over = True
            detail = f": {word.detail}" if word.detail else ""
            self.progress.note(f"{self.host}: {word.state.value}, {human(word.bytes)} of {human(word.full)}{detail}")


def _key_of(signature: bytes) -> str | None:
    try:
        key: PublicKey = signing.signed_by(signature)[0]
    except BacklineError:
        return None
    return key.blob


def _receivers(made: Publication, full: int) -> list[Receiver]:
    words = {word.host: word for word in made.progress}
    return [_receiver(host, words.get(host), full) for host in made.receivers]


def _receiver(host: str, word: schema.Progress | None, full: int) -> Receiver:
    if word is None:
        return Receiver(host=host, state=None, bytes=0, full=full, detail="")
    return Receiver(host=host, state=word.state, bytes=word.bytes, full=word.full, detail=word.detail)


def _trouble(receiver: Receiver) -> str:
    if receiver.state is None:
        return "not heard"
    return receiver.detail or receiver.state.value


def render(outcome: Outcome) -> str:
    """An outcome as text."""
    number = f"number {outcome.sequence} of channel {outcome.channel}"
    lines = [f"{outcome.version} is {number} (publication {outcome.publication})"]
    for each in outcome.receivers:
        lines.append(f"{each.host}: {human(each.bytes)} of {human(each.full)}")
    if outcome.switched:
        lines.append(f"machines of channel {outcome.channel} boot it from now on")
    elif outcome.receivers:
        lines.append("the channel was not moved: `backline netboot channel` or `backline rollout start` does it")
    return "\n".join(lines) + "\n"
