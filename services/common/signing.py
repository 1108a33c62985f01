"""Ed25519 signatures by `ssh-keygen -Y` (ssh-keygen(1)): keys, signers, sign, verify.

Promises: a signature counts only for its bytes, its namespace, and a signer whose key is valid at that moment; what it
is not good for is said by name. Keys are ordinary OpenSSH keys, so agents and FIDO tokens sign too. Nothing here writes
a temporary file to verify, so it works on a full disk. No passphrase ever passes through this program.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from services.common import process
from services.common.errors import HostError, InputError, IntegrityError, MissingError, UsageError

KEY_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_ARMOUR = re.compile(rb"\s*-----BEGIN SSH SIGNATURE-----\s(.+?)-----END SSH SIGNATURE-----\s*", re.DOTALL)
_OPTION = re.compile(r'([A-Za-z-]+)(?:="([^"]*)")?(?:,|$)')
_OPTIONS = re.compile(r'((?:[A-Za-z-]+(?:="[^"]*")?)(?:,[A-Za-z-]+(?:="[^"]*")?)*)\s+(.*)')
_TIMES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_PRIVATE_MAGIC = b"openssh-key-v1\0"
_SIGNATURE_MAGIC = b"SSHSIG"


def valid_name(name: str) -> bool:
    """Whether `name` can name a signer or a key: 1 to 64 of letters, digits, `.` `_` `@` `-`, none of these first."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, *, what: str) -> str:
    """`name` itself; raises UsageError("name.invalid") when it cannot name a signer or a key."""
    if not valid_name(name):
        raise UsageError(
            "name.invalid",
            f"{name!r} cannot name a {what}",
            hint="use 1 to 64 letters, digits and . _ @ -, beginning with a letter or digit",
        )
    return name


def _strings(blob: bytes) -> Iterator[bytes]:
    """The fields of an SSH wire format blob (RFC 4251 section 5, string); ValueError when it is cut off."""
    at = 0
    while at < len(blob):
        if len(blob) < at + 4:
            raise ValueError("a length is cut off")
        (length,) = struct.unpack_from(">I", blob, at)
        at += 4
        if len(blob) < at + length:
            raise ValueError("a field is cut off")
        yield blob[at : at + length]
        at += length


class PublicKey(msgspec.Struct, frozen=True):
    """A public key: its type, its wire format blob in base64, and a comment that means nothing."""

    type: str
    blob: str
    comment: str = ""

    @classmethod
    def parse(cls, line: str, *, where: str | None = None) -> PublicKey:
        """Read a line of a .pub file. Raises InputError("key.broken") on anything but an Ed25519 key."""
        words = line.strip().split(None, 2)
        if len(words) < 2 or words[0] not in KEY_TYPES:
            hint = (
                "only Ed25519 keys sign here: ssh-keygen -t ed25519"
                if words and words[0].startswith(("ssh-", "ecdsa-"))
                else None
            )
            raise InputError("key.broken", "not an Ed25519 public key", hint=hint, where=where)
        try:
            blob = base64.b64decode(words[1], validate=True)
            fields = list(_strings(blob))
        except (binascii.Error, ValueError) as error:
            raise InputError("key.broken", f"not a public key: {error}", where=where) from error
        expected = 2 if words[0] == "ssh-ed25519" else 3
        if len(fields) != expected or fields[0] != words[0].encode() or len(fields[1]) != 32:
            raise InputError("key.broken", f"not a public key of type {words[0]}", where=where)
        return cls(words[0], base64.b64encode(blob).decode(), words[2] if len(words) > 2 else "")

    def format(self) -> str:
        """The line of a .pub file, without its newline."""
        return " ".join(part for part in (self.type, self.blob, self.comment) if part)

    def fingerprint(self) -> str:
        """`SHA256:...`, as ssh-keygen -l prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).rstrip(b"=").decode()


class Signer(msgspec.Struct, frozen=True):
    """Whom a signature may come from: a name, a key, and when it is trusted (`valid_after` ≤ t < `valid_before`).

    `namespaces` limits what the key may sign; empty means anything. Times have a time zone.
    """

    name: str
    key: PublicKey
    valid_after: datetime | None = None
    valid_before: datetime | None = None
    namespaces: tuple[str, ...] = ()

    def format(self) -> str:
        """The line of an allowed_signers file, without its newline."""
        options = []
        if self.namespaces:
            options.append(f'namespaces="{",".join(self.namespaces)}"')
        if self.valid_after is not None:
            options.append(f'valid-after="{_format_time(self.valid_after)}"')
        if self.valid_before is not None:
            options.append(f'valid-before="{_format_time(self.valid_before)}"')
        return " ".join(part for part in (self.name, ",".join(options), self.key.format()) if part)

    def refusal(self, namespace: str, at: datetime) -> str | None:
        """Why this signer does not count for `namespace` at that time, or None when it does."""
        if self.namespaces and namespace not in self.namespaces:
            return f"{self.name} may sign {', '.join(self.namespaces)}, not {namespace}"
        if self.valid_after is not None and at < self.valid_after:
            return f"{self.name} is trusted only from {self.valid_after:%Y-%m-%d %H:%M %Z} on"
        if self.valid_before is not None and at >= self.valid_before:
            return f"{self.name} is no longer trusted since {self.valid_before:%Y-%m-%d %H:%M %Z}"
        return None


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y%m%d%H%M%SZ")


def _parse_time(text: str) -> datetime:
    """A time of allowed_signers (ssh-keygen(1)): YYYYMMDD[HHMM[SS]][Z]; without Z it is local."""
    digits = text.removesuffix("Z")
    if not digits.isascii() or not digits.isdigit() or len(digits) not in _TIMES:
        raise ValueError(f"{text!r} is no time, expected YYYYMMDD[HHMM[SS]][Z]")
    time = datetime.strptime(digits, _TIMES[len(digits)])
    return time.replace(tzinfo=UTC) if text.endswith("Z") else time.astimezone().astimezone(UTC)


def parse_signer(line: str, *, where: str | None = None) -> Signer:
    """Read a line of an allowed_signers file: one plain name, options, an Ed25519 key.

    Raises InputError("signers.broken") on anything else: patterns, several names, certificate authorities and options
    that we do not know would each trust more or less than they seem to.
    """

    def broken(message: str) -> InputError:
        return InputError("signers.broken", message, where=where, hint='a line is: NAME [valid-before="..."] KEY')

    words = line.strip().split(None, 1)
    if len(words) != 2:
        raise broken("a line needs a name and a key")
    name, rest = words
    if not valid_name(name):
        raise broken(f"{name!r} is not one plain name")
    after = before = None
    namespaces: tuple[str, ...] = ()
    if rest.split(None, 1)[0] not in KEY_TYPES and (match := _OPTIONS.fullmatch(rest)):
        rest = match[2]
        for option, value in _OPTION.findall(match[1]):
            try:
                match option.lower():
                    case "valid-after":
                        after = _parse_time(value)
                    case "valid-before":
                        before = _parse_time(value)
                    case "namespaces":
                        namespaces = tuple(value.split(","))
                        if not all(valid_name(namespace) for namespace in namespaces):
                            raise broken(f"namespaces {value!r} are not plain names")
                    case _:
                        raise broken(f"option {option} is not supported")
            except ValueError as error:
                raise broken(str(error)) from error
    return Signer(name, PublicKey.parse(rest, where=where), after, before, namespaces)


def parse_signers(text: str, *, where: str) -> list[Signer]:
    """Read an allowed_signers file's text; empty lines and `#` comments are skipped.

    Raises InputError "signers.broken", or "signers.duplicate" when two names have one key: such a key would count twice
    where two signatures are asked for.
    """
    signers = [
        parse_signer(line, where=f"{where}:{number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    owners: dict[str, str] = {}
    for signer in signers:
        if owners.setdefault(signer.key.blob, signer.name) != signer.name:
            names = f"{owners[signer.key.blob]} and {signer.name}"
            raise InputError("signers.duplicate", f"{names} have the same key", where=where, hint="remove one line")
    return signers


def read_signers(path: Path) -> list[Signer]:
    """Read an allowed_signers file; one that does not exist trusts nobody."""
    try:
        return parse_signers(path.read_text(), where=str(path))
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise InputError("signers.broken", f"not a text file: {error}", where=str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Replace a small file of the administrator's in one step, 0644, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        Path(aside).rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(aside).unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def format_signers(signers: Sequence[Signer]) -> str:
    """The text of an allowed_signers file, one line a signer, in the order given."""
    return "".join(f"{signer.format()}\n" for signer in signers)


def write_signers(path: Path, signers: Sequence[Signer]) -> None:
    """Write an allowed_signers file in one step. Comments that were in it are gone."""
    write_text(path, format_signers(signers))


def encrypted(key: Path) -> bool:
    """Whether a private key file has a passphrase (PROTOCOL.key of OpenSSH: cipher other than `none`)."""
    body = "".join(line for line in key.read_text().splitlines() if not line.startswith("-----"))
    try:
        cipher = next(_strings(base64.b64decode(body).removeprefix(_PRIVATE_MAGIC)))
    except (binascii.Error, ValueError, StopIteration) as error:
        raise InputError("key.broken", "not an OpenSSH private key", where=str(key)) from error
    return cipher != b"none"


def new_key(path: Path, *, comment: str, ask_passphrase: bool = False) -> PublicKey:
    """Make a key: `path` (0600) and `path`.pub. With `ask_passphrase`, ssh-keygen asks on the terminal, or SSH_ASKPASS.

    Never overwrites: raises UsageError("key.exists"). Raises UsageError("key.passphrase") when none was given. Made
    aside and linked into place, so a key is there as a whole or not at all.
    """
    public_path = path.with_name(f"{path.name}.pub")
    for file in (path, public_path):
        if os.path.lexists(file):
            raise UsageError("key.exists", "there is a key already", where=str(file), hint="keys are never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        aside = Path(folder, "key")
        passphrase = [] if ask_passphrase else ["-N", ""]
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-C", comment, *passphrase, "-f", aside])
        if ask_passphrase and not encrypted(aside):
            raise UsageError("key.passphrase", "no passphrase was given", hint="run it on a terminal, or without one")
        public = read_public(aside)
        for made, file in ((aside, path), (aside.with_name("key.pub"), public_path)):
            with made.open("rb") as opened:
                os.fsync(opened.fileno())
            try:
                os.link(made, file)
            except FileExistsError as error:
                raise UsageError("key.exists", "there is a key already", where=str(file)) from error
    _sync_folder(path.parent)
    return public


def read_public(key: Path) -> PublicKey:
    """The public half of `key`, which is a private key's path or a .pub file.

    Without a .pub beside it the private key is asked, which may ask for its passphrase. Raises
    MissingError("key.missing") when there is neither.
    """
    beside = key if key.name.endswith(".pub") else key.with_name(f"{key.name}.pub")
    if beside.exists():
        return PublicKey.parse(beside.read_text(), where=str(beside))
    if not key.exists():
        raise MissingError("key.missing", "no such key", where=str(key))
    try:
        return PublicKey.parse(process.run(["ssh-keygen", "-y", "-f", key]).stdout, where=str(key))
    except process.ProcessFailed as error:
        raise _unusable(key, error) from error


def _unusable(key: Path, error: process.ProcessFailed) -> HostError:
    stderr = error.completed.stderr
    hint = "unlock it, or add it to your agent with ssh-add"
    if "UNPROTECTED" in stderr:
        hint = f"chmod 600 {key}"
    elif key.name.endswith(".pub") or not key.exists():
        hint = "only the public half is here: its private half must be in your agent (ssh-add -l)"
    lines = [line for line in stderr.strip().splitlines() if line.strip("@ ")]
    return HostError("key.unusable", f"cannot sign: {lines[-1] if lines else error}", hint=hint, where=str(key))


def sign(data: bytes, key: Path, namespace: str) -> bytes:
    """An armoured signature over `data`.

    `key` is a private key, or a .pub whose private half is in ssh-agent (or whose .pub alone is here). A passphrase is
    asked on the terminal by ssh-keygen. Raises MissingError("key.missing") and HostError("key.unusable").
    """
    check_name(namespace, what="namespace")
    public = read_public(key)
    used = key if key.exists() else key.with_name(f"{key.name}.pub")
    try:
        # A token waits for a touch, and says so on stderr.
        stderr = None if public.type.startswith("sk-") else subprocess.PIPE
        done = process.run(["ssh-keygen", "-Y", "sign", "-f", used, "-n", namespace], stdin=data, stderr=stderr)
    except process.ProcessFailed as error:
        raise _unusable(used, error) from error
    return done.stdout.encode()


def signed_by(signature: bytes, *, where: str | None = None) -> tuple[PublicKey, str]:
    """The key and namespace that an armoured signature claims (PROTOCOL.sshsig of OpenSSH); proves nothing.

    Raises IntegrityError: "signature.missing" when there are no bytes, "signature.bad" when they are no signature.
    """
    if not signature.strip():
        raise IntegrityError("signature.missing", "there is no signature", where=where)
    match = _ARMOUR.fullmatch(signature)
    try:
        if match is None:
            raise ValueError("no armour")
        blob = base64.b64decode(match[1])
        if not blob.startswith(_SIGNATURE_MAGIC + b"\0\0\0\1"):
            raise ValueError("another format")
        key, namespace = list(_strings(blob[len(_SIGNATURE_MAGIC) + 4 :]))[:2]
        kind = next(_strings(key)).decode()
        public = PublicKey.parse(f"{kind} {base64.b64encode(key).decode()}")
        return public, namespace.decode()
    except (binascii.Error, ValueError, StopIteration, InputError) as error:
        raise IntegrityError("signature.bad", f"not an Ed25519 SSH signature: {error}", where=where) from error


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("backline", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def verify(
    data: bytes,
    signature: bytes,
    signers: Sequence[Signer],
    namespace: str,
    *,
    at: datetime | None = None,
    where: str | None = None,
) -> str:
    """The name of the signer whose valid signature over `data` this is, for `namespace`, at time `at` (now).

    Raises IntegrityError: "signature.missing" (no bytes), "signature.untrusted" (a key of none of `signers`, or of one
    who is not trusted at that time or for that namespace), "signature.bad" (damaged, made over other bytes, or made for
    another namespace). HostError "signature.program" when ssh-keygen does not run. `where` names the signature.
    """
    key, claimed = signed_by(signature, where=where)
    if claimed != namespace:
        raise IntegrityError(
            "signature.bad",
            f"the signature was made for namespace {claimed!r}, not {namespace!r}",
            where=where,
            hint="a signature of one kind of document is not good for another",
        )
    known = [signer for signer in signers if signer.key.blob == key.blob]
    if not known:
        raise IntegrityError(
            "signature.untrusted",
            f"signed with {key.fingerprint()}, which is no trusted key",
            where=where,
            hint=f"trusted: {', '.join(sorted({signer.name for signer in signers})) or 'nobody'}",
        )
    moment = datetime.now(UTC) if at is None else at
    refusals = [signer.refusal(namespace, moment) for signer in known]
    if None not in refusals:
        raise IntegrityError(
            "signature.untrusted", str(refusals[0]), where=where, hint="sign again with a key that is trusted now"
        )
    signer = known[refusals.index(None)]
    # /proc/self/fd of a memfd opens it anew, from its beginning, as often as ssh-keygen likes.
    with _in_memory(f"{signer.name} {signer.key.format()}\n".encode()) as trusted, _in_memory(signature) as armoured:
        argv = ["ssh-keygen", "-Y", "verify", "-f", f"/proc/self/fd/{trusted}", "-I", signer.name]
        argv += ["-n", namespace, "-s", f"/proc/self/fd/{armoured}"]
        done = process.run(argv, stdin=data, check=False, pass_fds=(trusted, armoured))
    if done.returncode not in (0, 255):  # 255 is its no; anything else is something that kept it from looking
        raise HostError("signature.program", f"ssh-keygen could not verify: {done.stderr.strip()}", where=where)
    if done.returncode != 0:
        raise IntegrityError(
            "signature.bad",
            f"the signature of {signer.name} is not over these bytes",
            where=where,
            hint="they were changed after signing, or the signature belongs to another file",
        )
    return signer.name
