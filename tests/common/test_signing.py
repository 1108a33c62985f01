"""Signatures against the real ssh-keygen and ssh-agent."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import signing
from services.common.errors import BacklineError, HostError, InputError, IntegrityError, MissingError, UsageError
from services.common.process import run, running, spawn
from services.common.signing import PublicKey, Signer, sign, verify

NAMESPACE = "backline-image"
DATA = b'{"version": "20260101.0123456789ab"}\n'
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("anna", "ben"):
        signing.new_key(folder / name, comment=name)
    return {name: folder / name for name in ("anna", "ben")}


@pytest.fixture
def anna(keys: dict[str, Path]) -> Signer:
    return Signer("anna", signing.read_public(keys["anna"]))


def code_of(function: object, *arguments: object, **options: object) -> str:
    with pytest.raises(BacklineError) as caught:
        function(*arguments, **options)  # type: ignore[operator]
    return caught.value.code


def test_a_new_key_is_private_and_has_a_public_half(tmp_path: Path) -> None:
    public = signing.new_key(tmp_path / "made" / "key", comment="anna at the desk")
    assert stat.S_IMODE((tmp_path / "made" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["key", "key.pub"]
    assert signing.read_public(tmp_path / "made" / "key") == public
    assert public.comment == "anna at the desk"
    assert not signing.encrypted(tmp_path / "made" / "key")


def test_fingerprints_are_those_of_ssh_keygen(keys: dict[str, Path]) -> None:
    listed = run(["ssh-keygen", "-l", "-f", keys["anna"]]).stdout
    assert signing.read_public(keys["anna"]).fingerprint() == listed.split()[1]


@pytest.mark.parametrize("present", ["key", "key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("precious")
    with pytest.raises(UsageError, match="there is a key already"):
        signing.new_key(tmp_path / "key", comment="x")
    assert [file.name for file in tmp_path.iterdir()] == [present]
    assert (tmp_path / present).read_text() == "precious"


def test_a_passphrase_comes_from_ssh_askpass_and_protects_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho correct horse\n")
    ask.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(ask))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    public = signing.new_key(tmp_path / "key", comment="x", ask_passphrase=True)
    assert signing.encrypted(tmp_path / "key")
    assert verify(DATA, sign(DATA, tmp_path / "key", NAMESPACE), [Signer("x", public)], NAMESPACE) == "x"
    ask.write_text("#!/bin/sh\necho wrong\n")
    with pytest.raises(HostError, match="cannot sign") as caught:
        sign(DATA, tmp_path / "key", NAMESPACE)
    assert caught.value.code == "key.unusable"


def test_an_empty_passphrase_is_refused_where_one_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_ASKPASS", "/bin/true")
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    with pytest.raises(UsageError, match="no passphrase was given"):
        signing.new_key(tmp_path / "key", comment="x", ask_passphrase=True)
    assert list(tmp_path.iterdir()) == []


def test_a_signature_verifies_and_names_its_signer(keys: dict[str, Path], anna: Signer) -> None:
    signature = sign(DATA, keys["anna"], NAMESPACE)
    assert signature.startswith(b"-----BEGIN SSH SIGNATURE-----")
    ben = Signer("ben", signing.read_public(keys["ben"]))
    assert verify(DATA, signature, [ben, anna], NAMESPACE) == "anna"


def test_no_bytes_are_a_missing_signature(anna: Signer) -> None:
    assert code_of(verify, DATA, b"", [anna], NAMESPACE) == "signature.missing"


def test_another_key_is_untrusted_and_shown(keys: dict[str, Path], anna: Signer) -> None:
    with pytest.raises(IntegrityError) as caught:
        verify(DATA, sign(DATA, keys["ben"], NAMESPACE), [anna], NAMESPACE, where="x.sig")
    assert caught.value.code == "signature.untrusted"
    assert signing.read_public(keys["ben"]).fingerprint() in str(caught.value)
    assert str(caught.value).startswith("x.sig: ")
    assert caught.value.hint == "trusted: anna"


def test_nobody_trusted_trusts_nobody(keys: dict[str, Path]) -> None:
    assert code_of(verify, DATA, sign(DATA, keys["ben"], NAMESPACE), [], NAMESPACE) == "signature.untrusted"


def test_other_bytes_are_bad(keys: dict[str, Path], anna: Signer) -> None:
    signature = sign(DATA, keys["anna"], NAMESPACE)
    assert code_of(verify, DATA + b" ", signature, [anna], NAMESPACE) == "signature.bad"


def test_another_namespace_is_bad_and_both_are_named(keys: dict[str, Path], anna: Signer) -> None:
    with pytest.raises(IntegrityError, match=r"'backline-hall', not 'backline-image'") as caught:
        verify(DATA, sign(DATA, keys["anna"], "backline-hall"), [anna], NAMESPACE)
    assert caught.value.code == "signature.bad"


def test_a_claimed_namespace_alone_does_not_verify(keys: dict[str, Path], anna: Signer) -> None:
    """The namespace in the envelope is also what was signed: rewriting it there breaks the signature."""
    head, body, tail = sign(DATA, keys["anna"], "backline-imagf").partition(b"-----\n")
    blob = base64.b64decode(tail.split(b"-----END")[0]).replace(b"backline-imagf", b"backline-image")
    forged = head + body + base64.encodebytes(blob) + b"-----END SSH SIGNATURE-----\n"
    assert code_of(verify, DATA, forged, [anna], NAMESPACE) == "signature.bad"


def test_a_borrowed_public_key_does_not_verify(keys: dict[str, Path], anna: Signer) -> None:
    """A signature by Ben that claims to be by Anna's key."""
    lines = sign(DATA, keys["ben"], NAMESPACE).splitlines()
    mine, his = (base64.b64decode(signing.read_public(keys[name]).blob) for name in ("anna", "ben"))
    blob = base64.b64decode(b"".join(lines[1:-1])).replace(his, mine)
    forged = lines[0] + b"\n" + base64.encodebytes(blob) + lines[-1] + b"\n"
    assert code_of(verify, DATA, forged, [anna], NAMESPACE) == "signature.bad"


@given(st.binary(min_size=1, max_size=200))
def test_junk_is_a_bad_signature_never_a_crash(junk: bytes) -> None:
    wrapped = b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(b"SSHSIG\0\0\0\1" + junk)
    for signature in (junk, wrapped + b"\n-----END SSH SIGNATURE-----\n"):
        assert code_of(verify, DATA, signature, [], NAMESPACE) in ("signature.bad", "signature.missing")


def test_every_truncation_is_bad(keys: dict[str, Path], anna: Signer) -> None:
    lines = sign(DATA, keys["anna"], NAMESPACE).splitlines(keepends=True)
    for cut in range(1, len(lines)):
        assert code_of(verify, DATA, b"".join(lines[:cut]), [anna], NAMESPACE) == "signature.bad"


@pytest.mark.parametrize(
    ("after", "before", "at", "trusted"),
    [
        (None, None, NOON, True),
        (NOON, None, NOON, True),
        (NOON, None, NOON - timedelta(seconds=1), False),
        (None, NOON, NOON - timedelta(seconds=1), True),
        (None, NOON, NOON, False),
    ],
)
def test_a_signer_is_trusted_from_and_until(
    keys: dict[str, Path], after: datetime | None, before: datetime | None, at: datetime, trusted: bool
) -> None:
    signer = Signer("anna", signing.read_public(keys["anna"]), after, before)
    signature = sign(DATA, keys["anna"], NAMESPACE)
    if trusted:
        assert verify(DATA, signature, [signer], NAMESPACE, at=at) == "anna"
    else:
        assert code_of(verify, DATA, signature, [signer], NAMESPACE, at=at) == "signature.untrusted"


def test_an_expired_line_does_not_hide_a_valid_one(keys: dict[str, Path], anna: Signer) -> None:
    old = Signer("anna", anna.key, valid_before=NOON)
    signature = sign(DATA, keys["anna"], NAMESPACE)
    assert verify(DATA, signature, [old, anna], NAMESPACE, at=NOON + timedelta(days=1)) == "anna"


def test_a_key_limited_to_other_namespaces_is_untrusted(keys: dict[str, Path], anna: Signer) -> None:
    limited = Signer("anna", anna.key, namespaces=("git",))
    assert code_of(verify, DATA, sign(DATA, keys["anna"], NAMESPACE), [limited], NAMESPACE) == "signature.untrusted"


def test_ssh_keygen_reads_our_signers_file(keys: dict[str, Path], tmp_path: Path, anna: Signer) -> None:
    file = tmp_path / "allowed_signers"
    signer = Signer("anna", anna.key, NOON, NOON + timedelta(days=1), (NAMESPACE,))
    signing.write_signers(file, [signer])
    assert signing.read_signers(file) == [signer]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    (tmp_path / "sig").write_bytes(sign(DATA, keys["anna"], NAMESPACE))
    argv: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        file,
        "-I",
        "anna",
        "-n",
        NAMESPACE,
        "-s",
        tmp_path / "sig",
    ]
    assert run([*argv, "-Overify-time=20260601130000Z"], stdin=DATA).returncode == 0
    assert run([*argv, "-Overify-time=20260603000000Z"], stdin=DATA, check=False).returncode != 0


def test_signers_files_may_have_comments_and_local_times(keys: dict[str, Path], anna: Signer) -> None:
    text = f'# the team\n\n anna valid-before="20260601Z",namespaces="a,b" {anna.key.format()}\n'
    (signer,) = signing.parse_signers(text, where="f")
    assert signer == Signer("anna", anna.key, None, datetime(2026, 6, 1, tzinfo=UTC), ("a", "b"))
    (local,) = signing.parse_signers(f'anna valid-before="202606011200" {anna.key.format()}', where="f")
    assert local.valid_before == datetime(2026, 6, 1, 12).astimezone()


@pytest.mark.parametrize(
    "line",
    [
        "anna",
        "* KEY",
        "anna,ben KEY",
        "anna cert-authority KEY",
        'anna valid-before="soon" KEY',
        'anna valid-before="20269901Z" KEY',
        'anna namespaces="*" KEY',
        "anna ssh-rsa AAAA",
        "anna ssh-ed25519 AAAA",
        "anna ssh-ed25519 ????",
    ],
)
def test_signers_lines_that_trust_more_than_they_seem_are_refused(line: str, anna: Signer) -> None:
    with pytest.raises(InputError) as caught:
        signing.parse_signers("\n" + line.replace("KEY", anna.key.format()), where="allowed_signers")
    assert caught.value.where == "allowed_signers:2"


def test_one_key_under_two_names_is_refused(anna: Signer) -> None:
    text = signing.format_signers([anna, Signer("other", anna.key)])
    assert code_of(signing.parse_signers, text, where="f") == "signers.duplicate"


def test_a_missing_signers_file_trusts_nobody(tmp_path: Path) -> None:
    assert signing.read_signers(tmp_path / "none") == []


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True)
times = st.none() | st.datetimes(
    datetime(1970, 1, 2), datetime(2105, 1, 1), timezones=st.just(UTC), allow_imaginary=False
).map(lambda time: time.replace(microsecond=0))


@given(
    names, st.binary(min_size=32, max_size=32), times, times, st.lists(names, max_size=3).map(tuple), st.text("ab  c")
)
def test_signers_survive_writing_and_reading(
    name: str, key: bytes, after: datetime | None, before: datetime | None, spaces: tuple[str, ...], comment: str
) -> None:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0 " + key
    public = PublicKey("ssh-ed25519", base64.b64encode(blob).decode(), comment.strip())
    assert PublicKey.parse(public.format()) == public
    signer = Signer(name, public, after, before, spaces)
    assert signing.parse_signers(signing.format_signers([signer]), where="f") == [signer]


@given(st.text())
def test_any_text_is_signers_or_an_input_error(text: str) -> None:
    try:
        signing.parse_signers(text, where="f")
    except InputError:
        return


def test_a_missing_key_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        sign(DATA, tmp_path / "none", NAMESPACE)
    assert caught.value.code == "key.missing"


def test_a_readable_private_key_is_refused_with_the_cure(tmp_path: Path) -> None:
    signing.new_key(tmp_path / "key", comment="x")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(HostError) as caught:
        sign(DATA, tmp_path / "key", NAMESPACE)
    assert caught.value.hint == f"chmod 600 {tmp_path / 'key'}"


def test_without_a_pub_file_the_private_key_is_asked(tmp_path: Path) -> None:
    public = signing.new_key(tmp_path / "key", comment="x")
    (tmp_path / "key.pub").unlink()
    assert signing.read_public(tmp_path / "key") == public


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    socket = tmp_path / "agent"
    with running(spawn(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it prints its socket once it listens
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield
        process.terminate()
        process.stdout.close()


@pytest.mark.usefixtures("agent")
def test_an_agent_key_signs_with_its_public_half_alone(tmp_path: Path) -> None:
    public = signing.new_key(tmp_path / "key", comment="x")
    run(["ssh-add", "-q", tmp_path / "key"])
    (tmp_path / "key").unlink()
    for path in ("key", "key.pub"):
        assert verify(DATA, sign(DATA, tmp_path / path, NAMESPACE), [Signer("x", public)], NAMESPACE) == "x"


def test_a_public_half_without_an_agent_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    signing.new_key(tmp_path / "key", comment="x")
    (tmp_path / "key").unlink()
    with pytest.raises(HostError) as caught:
        sign(DATA, tmp_path / "key", NAMESPACE)
    assert caught.value.hint is not None
    assert "agent" in caught.value.hint


def test_verifying_leaves_no_descriptor_open(keys: dict[str, Path], anna: Signer) -> None:
    signature = sign(DATA, keys["anna"], NAMESPACE)
    verify(DATA, signature, [anna], NAMESPACE)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    verify(DATA, signature, [anna], NAMESPACE)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
