"""Normalising: what differs between builds goes, secrets and a machine's own state are refused by name."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from builder import normalise, tree
from services.common.errors import BacklineError, HostError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of an image's files need root")
EPOCH = 1_769_817_600
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAAB" * 3 + b"\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree as a build leaves it."""
    top = tmp_path / "root"
    write(top, "etc/passwd", "web:x:998:998::/:/bin/sh\nroot:x:0:0:root:/root:/bin/bash\n")
    write(top, "etc/group", "web:x:998:\nshadow:x:42:\nroot:x:0:\n")
    write(top, "etc/shadow", "root::19000:0:99999:7:::\n")
    return top


def write(top: Path, name: str, data: str | bytes = "") -> Path:
    path = top / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def sample(pattern: str) -> str:
    """A path that a pattern of the table means."""
    return re.sub(r"\[0-9\]", "3", pattern).replace("*", "x")


# What is removed


@pytest.mark.parametrize("pattern", normalise.REMOVED)
def test_everything_in_the_table_is_removed(root: Path, pattern: str) -> None:
    path = write(root, sample(pattern), "x")
    normalise.normalise(root, epoch=EPOCH)
    assert not path.exists()


def rows(*, only: str = "") -> list[ParameterSet]:
    """The table's patterns that end in `only`."""
    return [pytest.param(pattern) for pattern in normalise.REMOVED if pattern.endswith(only)]


@pytest.mark.parametrize("pattern", rows(only="/*"))
def test_an_emptied_folder_stays(root: Path, pattern: str) -> None:
    folder = write(root, sample(pattern), "x").parent
    normalise.normalise(root, epoch=EPOCH)
    assert folder.is_dir()


@pytest.mark.parametrize("pattern", rows())
def test_what_is_removed_is_reported_with_its_reason(root: Path, pattern: str) -> None:
    write(root, sample(pattern), "x")
    report = normalise.normalise(root, epoch=EPOCH)
    assert sample(pattern) in report.removed[normalise.REMOVED[pattern]]


@pytest.mark.parametrize("name", ["var/log/nginx", "var/cache/bind", "var/lib/apt/periodic"])
def test_a_daemons_own_folder_stays_with_its_owner(root: Path, name: str) -> None:
    folder = write(root, f"{name}/deep/file", "x").parent
    os.chown(folder, 33, 4)
    folder.chmod(0o750)
    normalise.normalise(root, epoch=EPOCH)
    assert (sorted(folder.iterdir()), folder.stat().st_uid, folder.stat().st_mode & 0o777) == ([], 33, 0o750)


@pytest.mark.parametrize(
    "name",
    [
        "etc/ssh/sshd_config",
        "etc/ssl/certs/ca-certificates.crt",
        "etc/bind/named.conf",
        "var/lib/dpkg/status",
        "var/lib/dbus/other",
        "root/.bashrc",
        "etc/apt/apt.conf.d/50x",
    ],
)
def test_what_is_beside_it_stays(root: Path, name: str) -> None:
    path = write(root, name, "x")
    normalise.normalise(root, epoch=EPOCH)
    assert path.read_text() == "x"


def test_a_folder_that_is_removed_goes_with_all_it_holds(root: Path) -> None:
    folder = write(root, "tmp/build/deep/file").parents[1]
    normalise.normalise(root, epoch=EPOCH)
    assert not folder.exists()


def test_what_depmod_makes_is_readable_whatever_the_umask(root: Path) -> None:
    path = write(root, "usr/lib/modules/6.12/modules.dep", "x")
    path.chmod(0o600)
    normalise.normalise(root, epoch=EPOCH)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_is_removed_and_not_its_target(root: Path) -> None:
    target = write(root, "srv/keep/file", "x")
    (root / "var/tmp").mkdir(parents=True)
    (root / "var/tmp/link").symlink_to(target.parent)
    normalise.normalise(root, epoch=EPOCH)
    assert (target.exists(), (root / "var/tmp/link").is_symlink()) == (True, False)


@pytest.mark.parametrize("name", ["var/tmp", "var/log", "etc/ssh"])
def test_a_link_out_of_the_tree_is_not_followed(root: Path, tmp_path: Path, name: str) -> None:
    outside = write(tmp_path, "outside/ssh_host_x", "x")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(outside.parent)
    normalise.normalise(root, epoch=EPOCH)
    assert outside.exists()


def test_a_tree_is_normal_after_one_time(root: Path) -> None:
    for pattern in normalise.REMOVED:
        write(root, sample(pattern), "x")
    normalise.normalise(root, epoch=EPOCH)
    once = list(tree.scan(root))
    assert (normalise.normalise(root, epoch=EPOCH).removed, list(tree.scan(root))) == ({}, once)


# Times


def test_no_entry_is_younger_than_the_lock(root: Path) -> None:
    (root / "etc/link").symlink_to("passwd")
    normalise.normalise(root, epoch=EPOCH)
    assert max(entry.mtime for entry in tree.scan(root)) == EPOCH


def test_what_a_package_dates_earlier_stays_as_it_is(root: Path) -> None:
    path = write(root, "usr/bin/bash", "x")
    os.utime(path, (EPOCH - 5, EPOCH - 5))
    normalise.normalise(root, epoch=EPOCH)
    assert path.stat().st_mtime == EPOCH - 5


def test_times_are_whole_seconds(root: Path) -> None:
    path = write(root, "usr/bin/bash", "x")
    os.utime(path, ns=(0, (EPOCH - 5) * 10**9 + 999_999_999))
    normalise.normalise(root, epoch=EPOCH)
    assert path.stat().st_mtime_ns == (EPOCH - 5) * 10**9


def test_a_clock_behind_the_lock_is_the_hosts_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: EPOCH - 1.0)
    with pytest.raises(HostError) as caught:
        normalise.normalise(root, epoch=EPOCH)
    assert caught.value.code == "host.clock"


# Accounts and identity


@pytest.mark.parametrize(("name", "order"), [("passwd", ["root", "web"]), ("group", ["root", "shadow", "web"])])
def test_accounts_are_sorted_by_id(root: Path, name: str, order: list[str]) -> None:
    normalise.normalise(root, epoch=EPOCH)
    assert [line.split(":")[0] for line in (root / "etc" / name).read_text().splitlines()] == order


def test_no_account_has_a_password(root: Path) -> None:
    normalise.normalise(root, epoch=EPOCH)
    day = EPOCH // 86400
    assert (root / "etc/shadow").read_text() == f"root:*:{day}:0:99999:7:::\nweb:*:{day}:0:99999:7:::\n"


@pytest.mark.parametrize("name", ["shadow", "gshadow"])
def test_the_shadow_files_are_their_groups_alone(root: Path, name: str) -> None:
    normalise.normalise(root, epoch=EPOCH)
    info = (root / "etc" / name).stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (0, 42, 0o640)


def test_a_system_boots_for_the_first_time(root: Path) -> None:
    write(root, "usr/lib/systemd/systemd")
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    normalise.normalise(root, epoch=EPOCH)
    assert (root / "etc/machine-id").read_text() == "uninitialized\n"


# Secrets


def suspects(top: Path) -> list[bytes]:
    scanner = normalise.SecretScanner()
    list(tree.scan(top, inspect=scanner.inspect))
    return sorted(scanner.suspects)


def checked(top: Path) -> None:
    scanner = normalise.SecretScanner()
    list(tree.scan(top, inspect=scanner.inspect))
    scanner.check(top)


@pytest.mark.parametrize(
    "data",
    [
        KEY,
        KEY.replace(b"OPENSSH ", b"RSA "),
        KEY.replace(b"OPENSSH ", b""),
        b"before\n" + KEY,
        KEY.replace(b"\n", b"\r\n"),
        b'key "rndc-key" {\n\talgorithm hmac-sha256;\n\tsecret "cGFzc3dvcmQgb2YgYSBuYW1lc2VydmVy";\n};\n',
    ],
)
def test_a_secret_in_a_generated_file_is_refused_by_name(root: Path, data: bytes) -> None:
    write(root, "etc/app/secret.conf", data)
    with pytest.raises(BacklineError) as caught:
        checked(root)
    assert caught.value.code == "image.secret"
    assert "etc/app/secret.conf" in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        KEY.replace(b"PRIVATE", b"PUBLIC"),
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * 60,
        b"grep -q -- '-----BEGIN RSA PRIVATE KEY-----' \"$1\"\n",
        b'secret "example";\n',
        b'# the secret "cGFzc3dvcmQgb2YgYSBuYW1lc2VydmVy" is not here\n',
    ],
)
def test_what_only_speaks_of_secrets_is_accepted(root: Path, data: bytes) -> None:
    write(root, "etc/app/secret.conf", data)
    checked(root)


@pytest.mark.parametrize("before", [0, 1, 20, 36, 37, 60, 100])
def test_a_key_across_the_border_of_two_chunks_is_found(root: Path, before: int) -> None:
    write(root, "var/lib/app/blob", b"." * ((1 << 20) - before - 1) + b"\n" + KEY)
    assert suspects(root) == [b"var/lib/app/blob"]


def md5sums(top: Path, name: str, data: bytes, *, package: str = "app") -> None:
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    write(top, f"var/lib/dpkg/info/{package}.md5sums", f"{digest}  {name}\n")


def test_a_key_that_a_package_ships_is_public(root: Path) -> None:
    write(root, "usr/share/app/test.key", KEY)
    md5sums(root, "usr/share/app/test.key", KEY)
    checked(root)


def test_a_key_that_a_package_ships_below_lib_is_public(root: Path) -> None:
    write(root, "usr/lib/app/test.key", KEY)
    md5sums(root, "lib/app/test.key", KEY)
    checked(root)


def test_a_shipped_key_that_a_script_changed_is_refused(root: Path) -> None:
    write(root, "usr/share/app/test.key", KEY)
    md5sums(root, "usr/share/app/test.key", KEY + b"other")
    with pytest.raises(BacklineError):
        checked(root)


def test_a_shipped_key_in_another_place_is_refused(root: Path) -> None:
    write(root, "etc/app/copy.key", KEY)
    md5sums(root, "usr/share/app/test.key", KEY)
    with pytest.raises(BacklineError):
        checked(root)


def test_a_key_inside_of_a_wheel_is_public(root: Path) -> None:
    write(root, "usr/lib/backline/site/trustme/test.pem", KEY)
    checked(root)


# State of one machine


def state(top: Path) -> str:
    with pytest.raises(BacklineError) as caught:
        normalise.assert_clean(top)
    assert caught.value.code == "image.state"
    return caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "etc/ssh/ssh_host_ed25519_key",
        "var/lib/systemd/random-seed",
        "var/lib/systemd/credential.secret",
        "var/lib/dbus/machine-id",
        "var/log/apt/history.log",
        "var/log/journal/0123/system.journal",
        "var/lib/postgresql/17/main/PG_VERSION",
        "etc/backline/hall.toml",
    ],
)
def test_what_one_machine_may_have_is_refused_by_name(root: Path, name: str) -> None:
    normalise.normalise(root, epoch=EPOCH)
    write(root, name, "x")
    assert name in state(root)


def test_a_machine_id_is_refused(root: Path) -> None:
    normalise.normalise(root, epoch=EPOCH)
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    assert "etc/machine-id" in state(root)


@pytest.mark.parametrize("password", ["", "$y$j9T$abc", "!$y$j9T$abc"])
def test_a_password_is_refused_with_its_account(root: Path, password: str) -> None:
    normalise.normalise(root, epoch=EPOCH)
    write(root, "etc/shadow", f"daemon:*:1:0:99999:7:::\nroot:{password}:1:0:99999:7:::\n")
    assert "a password for root" in state(root)


def test_a_normal_tree_is_clean(root: Path) -> None:
    for pattern in normalise.REMOVED:
        write(root, sample(pattern), "x")
    normalise.normalise(root, epoch=EPOCH)
    normalise.assert_clean(root)


# What is dated alike


def keystore(entries: list[tuple[str, int, bytes]], *, tag: int = 2) -> bytes:
    """A Java key store of certificates: alias, time in milliseconds, DER; as the JDK writes it."""
    body = struct.pack(">III", 0xFEEDFEED, 2, len(entries))
    for alias, when, der in entries:
        body += struct.pack(">IH", tag, len(alias)) + alias.encode() + struct.pack(">Q", when)
        body += struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der
    password = "changeit".encode("utf-16-be")
    return body + hashlib.sha1(password + b"Mighty Aphrodite" + body, usedforsecurity=False).digest()


def test_a_keystore_differs_by_its_certificates_alone(root: Path) -> None:
    made = []
    for now, entries in ((1_790_000_000_123, ["one", "two"]), (1_790_000_777_456, ["two", "one"])):
        path = write(root, "etc/ssl/certs/java/cacerts", "")
        path.write_bytes(keystore([(alias, now, alias.encode() * 400) for alias in entries]))
        normalise.normalise(root, epoch=EPOCH)
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert made[0] == keystore([(alias, EPOCH * 1000, alias.encode() * 400) for alias in ("one", "two")])


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 some other format",
        keystore([("a", 1, b"x")], tag=1),
        keystore([("a", 1, b"x")]) + b"more",
        b"short",
    ],
    ids=["format", "private key", "tail", "short"],
)
def test_a_keystore_of_another_kind_is_refused(root: Path, content: bytes) -> None:
    write(root, "etc/ssl/certs/java/cacerts", "").write_bytes(content)
    with pytest.raises(BacklineError) as caught:
        normalise.normalise(root, epoch=EPOCH)
    assert caught.value.code == "image.keystore"


def test_links_of_alternatives_are_dated_alike_and_others_keep_their_time(root: Path) -> None:
    links = {"etc/alternatives/editor": "/bin/nano", "usr/bin/editor": "/etc/alternatives/editor", "usr/bin/sh": "dash"}
    for name, target in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
        os.utime(root / name, (EPOCH - 500, EPOCH - 500), follow_symlinks=False)
    normalise.normalise(root, epoch=EPOCH)
    assert [int((root / name).lstat().st_mtime) for name in links] == [EPOCH, EPOCH, EPOCH - 500]
