"""The administrator's signing keys and whom they trust: the folder $XDG_CONFIG_HOME/backline.

keys/<name> and keys/<name>.pub are the keys (a .pub alone means an agent's), `allowed_signers` says whose signatures
count, `default-key` names the key that signs. Promises: a key is never overwritten or deleted; a rotation trusts old
and new for a while, so that nothing that was signed is lost; each step is one rename, and calling it again finishes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from builder.locking import exclusive
from services.common import signing
from services.common.errors import InputError, MissingError, UsageError, nearest
from services.common.signing import PublicKey, Signer

OVERLAP = timedelta(days=30)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key of ours.

    `private` is its private half: "file", "encrypted" (a file with a passphrase) or "agent"; `trusted` says whether its
    signatures count now, `valid_before` until when.
    """

    name: str
    path: str
    fingerprint: str
    comment: str
    private: str
    default: bool
    trusted: bool
    valid_before: datetime | None = None


class Rotation(msgspec.Struct, frozen=True):
    """What a rotation did: both count until `until`, then only the new one."""

    old: str
    new: Key
    until: datetime


class Keys(msgspec.Struct, frozen=True):
    """Our keys, and all signers that we trust or trusted, ours and others'."""

    own: list[Key]
    signers: list[Signer]


def config_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The administrator's configuration folder (XDG Base Directory Specification: only an absolute path counts)."""
    base = environment.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "backline"


class Keyring:
    """The keys in `folder`; made (0700) on the first write."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = config_folder() if folder is None else folder
        self.keys = self.folder / "keys"
        self.signers_file = self.folder / "allowed_signers"
        self.default_file = self.folder / "default-key"

    # Reading

    def names(self) -> list[str]:
        """The names of our keys, sorted."""
        with contextlib.suppress(FileNotFoundError):
            found = {path.name.removesuffix(".pub") for path in self.keys.iterdir() if path.is_file()}
            return sorted(name for name in found if signing.valid_name(name))
        return []

    def path(self, name: str) -> Path:
        """What to give to `signing.sign` for a key of ours. Raises MissingError("key.missing") with near names."""
        key = self.keys / _check(name)
        for path in (key, key.with_name(f"{name}.pub")):
            if path.is_file():
                return path
        hint = nearest(name, self.names()) or "`build keys list` shows yours"
        raise MissingError("key.missing", f"no key {name}", where=str(self.keys), hint=hint)

    def signers(self) -> list[Signer]:
        """Whose signatures count."""
        return signing.read_signers(self.signers_file)

    def default_name(self) -> str:
        """The key that signs unless told otherwise: the one of `default-key`, or the only one.

        Raises MissingError("key.none") and UsageError("key.ambiguous").
        """
        names = self.names()
        with contextlib.suppress(FileNotFoundError):
            chosen = self.default_file.read_text().strip()
            if chosen not in names:
                hint = "`build keys default NAME` chooses another"
                raise MissingError("key.missing", f"no key {chosen}", where=str(self.default_file), hint=hint)
            return chosen
        if not names:
            hint = "`build keys new NAME` makes one"
            raise MissingError("key.none", "you have no signing key", where=str(self.keys), hint=hint)
        if len(names) > 1:
            message = f"which of your keys signs: {', '.join(names)}?"
            raise UsageError("key.ambiguous", message, hint="`build keys default NAME` chooses one")
        return names[0]

    def default(self) -> Path:
        """The path of the key that signs unless told otherwise; raises as `default_name`."""
        return self.path(self.default_name())

    def listing(self, *, now: datetime | None = None) -> Keys:
        """Our keys, sorted by name, and all signers."""
        signers = self.signers()
        default = None
        with contextlib.suppress(MissingError, UsageError):
            default = self.default_name()
        moment = datetime.now(UTC) if now is None else now
        return Keys([self._key(name, signers, default, moment) for name in self.names()], signers)

    def _key(self, name: str, signers: list[Signer], default: str | None, now: datetime) -> Key:
        path = self.path(name)
        public = signing.read_public(path)
        lines = [signer for signer in signers if signer.key.blob == public.blob]
        private = "agent" if path.name.endswith(".pub") else "encrypted" if signing.encrypted(path) else "file"
        return Key(
            name=name,
            path=str(path),
            fingerprint=public.fingerprint(),
            comment=public.comment,
            private=private,
            default=name == default,
            trusted=any(_counts(signer, now) for signer in lines),
            valid_before=None if any(one.valid_before is None for one in lines) else _latest(lines),
        )

    # Writing

    def new(self, name: str, *, comment: str | None = None, ask_passphrase: bool = False) -> Key:
        """Make a key and trust it; your first key stays the default until you choose another.

        Raises UsageError("key.exists") when there is such a key, or another signer has this name.
        """
        with self._changing():
            before = self.names()
            if len(before) == 1 and name not in before and not self.default_file.exists():
                signing.write_text(self.default_file, f"{before[0]}\n")
            self._make(name, comment, ask_passphrase=ask_passphrase)
            self._trust(name, self._public(name))
        return self._one(name)

    def trust(self, name: str) -> Key:
        """Trust a key of ours that came another way: an agent's .pub put into keys/, or a `new` that was cut off."""
        with self._changing():
            self._trust(name, self._public(name))
        return self._one(name)

    def set_default(self, name: str) -> Key:
        """Choose the key that signs."""
        self.path(name)
        with self._changing():
            signing.write_text(self.default_file, f"{name}\n")
        return self._one(name)

    def rotate(
        self,
        old: str,
        new: str,
        *,
        overlap: timedelta = OVERLAP,
        comment: str | None = None,
        ask_passphrase: bool = False,
        now: datetime | None = None,
    ) -> Rotation:
        """Replace the signer `old` by our key `new`: both count for `overlap`, then `new` alone.

        The new key is made unless it is there, and becomes the default where the old one was. An end that the old one
        has already stays when it is sooner, so calling this again after it was cut off finishes it. Raises
        MissingError("key.missing") when nobody trusts `old`.
        """
        moment = (datetime.now(UTC) if now is None else now).replace(microsecond=0)
        _check(new)
        if old == new:
            raise UsageError("key.same", "a key cannot replace itself", hint="give the new key another name")
        with self._changing():
            signers = self.signers()
            if old not in {signer.name for signer in signers}:
                hint = nearest(old, [signer.name for signer in signers]) or "`build keys list` shows whom you trust"
                raise MissingError("key.missing", f"no trusted signer {old}", where=str(self.signers_file), hint=hint)
            was_default = old in self.names() and self._is_default(old, new)
            if new not in self.names():
                self._make(new, comment, ask_passphrase=ask_passphrase)
            public = self._public(new)
            ends = [one.valid_before for one in signers if one.name == old and one.valid_before is not None]
            until = min([moment + overlap, *ends])
            self._trust(new, public, ending=old, until=until)
            if was_default:
                signing.write_text(self.default_file, f"{new}\n")
        return Rotation(old, self._one(new), until)

    def _is_default(self, old: str, new: str) -> bool:
        try:
            return self.default_name() == old
        except UsageError:  # no choice was made: ours was the only one before a rotation that was cut off
            return self.names() == sorted([old, new])

    def _make(self, name: str, comment: str | None, *, ask_passphrase: bool) -> None:
        _check(name)
        if name in {signer.name for signer in self.signers()}:
            message = f"there is a trusted signer {name} already"
            raise UsageError("key.exists", message, where=str(self.signers_file), hint="take another name, or rotate")
        signing.new_key(self.keys / name, comment=name if comment is None else comment, ask_passphrase=ask_passphrase)

    def _public(self, name: str) -> PublicKey:
        return signing.read_public(self.path(name))

    def _one(self, name: str) -> Key:
        return next(key for key in self.listing().own if key.name == name)

    def _trust(self, name: str, key: PublicKey, *, ending: str | None = None, until: datetime | None = None) -> None:
        """Add a line for `name`, and end the lines of `ending`, in one rename; other lines stay as they are."""
        try:
            text = self.signers_file.read_text()
        except FileNotFoundError:
            text = ""
        lines = []
        present = False
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                signer = signing.parse_signer(line, where=f"{self.signers_file}:{number}")
                if signer.key.blob == key.blob and signer.name != name:
                    raise InputError("signers.duplicate", f"{signer.name} has this key already", where=f"line {number}")
                present = present or (signer.name == name and signer.key.blob == key.blob)
                if signer.name == ending and (
                    signer.valid_before is None or until is None or signer.valid_before > until
                ):
                    line = msgspec.structs.replace(signer, valid_before=until).format()
            lines.append(line)
        if not present:
            lines.append(Signer(name, key).format())
        changed = "".join(f"{line}\n" for line in lines)
        signing.parse_signers(changed, where=str(self.signers_file))
        if changed != text:
            signing.write_text(self.signers_file, changed)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.folder, self.keys):
            folder.chmod(0o700)
        with exclusive(self.folder / ".lock", what="a change of keys"):
            yield


def _check(name: str) -> str:
    """A key's name, which is also a file's: no `.pub` at its end."""
    signing.check_name(name, what="key")
    if name.endswith(".pub"):
        raise UsageError("name.invalid", f"{name!r} cannot name a key", hint="leave out .pub")
    return name


def _counts(signer: Signer, now: datetime) -> bool:
    after = signer.valid_after is None or signer.valid_after <= now
    return after and (signer.valid_before is None or now < signer.valid_before)


def _latest(signers: list[Signer]) -> datetime | None:
    return max((signer.valid_before for signer in signers if signer.valid_before is not None), default=None)


def render(keys: Keys, *, now: datetime | None = None) -> str:
    """The list as text: our keys, `*` before the default one, then the others whom we trust."""
    if not keys.own and not keys.signers:
        return "no keys; `build keys new NAME` makes one\n"
    moment = datetime.now(UTC) if now is None else now
    lines = []
    for key in keys.own:
        state = "trusted" if key.trusted else "not trusted"
        if key.trusted and key.valid_before is not None:
            state = f"trusted until {key.valid_before:%Y-%m-%d}"
        lines.append(f"{'*' if key.default else ' '} {key.name}  {key.fingerprint}  {state}, {key.private}")
    own = {key.fingerprint for key in keys.own}
    for signer in keys.signers:
        if signer.key.fingerprint() not in own:
            state = "trusted" if _counts(signer, moment) else "not trusted now"
            lines.append(f"  {signer.name}  {signer.key.fingerprint()}  {state}, of another administrator")
    return "\n".join(lines) + "\n"


def render_rotation(rotation: Rotation) -> str:
    """A rotation as text, with what is left to do."""
    return (
        f"{rotation.new.name}  {rotation.new.fingerprint}  signs from now on\n"
        f"{rotation.old} is trusted until {rotation.until:%Y-%m-%d %H:%M} UTC; until then:\n"
        f"- give the line of {rotation.new.name} to everyone who trusts {rotation.old} (allowed_signers, hall.toml)\n"
        f"- sign versions that you keep longer with {rotation.new.name} too\n"
    )
