"""A gw as folders below a root: its three databases' real schemas, files as its services leave them, and no systemd."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from netboot.store import MIGRATIONS as NETBOOT
from services.common.database import Database
from services.common.identity import ImageIdentity
from services.depot.store import MIGRATIONS as DEPOT
from services.mdb.store import MIGRATIONS as MDB
from services.state import save
from services.state.parts import PARTS
from services.state.restore import REPLACED, Restore
from services.state.schema import Save, Settings
from services.state.seal import Key
from services.udb.store import MIGRATIONS as UDB

KEY = Key.parse("5a" * 32)
OTHER_KEY = Key.parse("00" * 32)
IDENTITY = ImageIdentity(role="gw", version="20260131.0123456789ab")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
_DATABASES = {"mdb": MDB, "udb": UDB, "netboot": NETBOOT, "depot": DEPOT}


class Units:
    """A systemd that notes what it was asked. Implements `restore.Units`."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def stop(self, units: Sequence[str]) -> None:
        self.asked.append("stop")

    def start(self, units: Sequence[str]) -> None:
        self.asked.append("start")


def settings(root: Path, **changed: object) -> Settings:
    return Settings(hall="lab", domain="prolo", host="gw", folder=root / "var/lib/backline-state", **changed)  # type: ignore[arg-type]


def database(root: Path, name: str) -> Path:
    return root / f"var/lib/backline-{name}/{name}.db"


def gw(root: Path, word: str) -> Path:
    """A gw whose every part holds `word`."""
    for part in PARTS:
        (root / part.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name, migrations in _DATABASES.items():
        with Database(f"sqlite:///{database(root, name)}") as opened:
            opened.migrate(migrations)
        with contextlib.closing(sqlite3.connect(database(root, name))) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS words (word TEXT)")
            connection.execute("INSERT INTO words VALUES (?)", [word])
            connection.execute("INSERT INTO feed_counter VALUES ('feed', '0123456789abcdef', 7)")
            connection.execute("INSERT INTO feed_changes VALUES (7, 't', 'k', 'created', 1.0, '{}')")
            connection.commit()
    here = root / "var/lib"
    (here / "backline-rollout/1.json").write_text(word)
    (here / "backline-netboot/mdb.json").write_text(word)
    (here / "backline-dhcp/generations/1").mkdir(parents=True)
    (here / "backline-dhcp/generations/1/kea-dhcp4.json").write_text(word)
    for link in ("current", "proved"):
        (here / f"backline-dhcp/{link}").symlink_to("generations/1")
    (here / "backline-firewall/switch.json").write_text(word)
    (here / "backline-dns/zones/hall").mkdir(parents=True)
    (here / "backline-dns/zones/hall/prolo.zone").write_text(word)
    (here / "backline-dns/named.conf").write_text(word)
    (here / "backline-dns/lock").write_text("nobody's")
    (here / "kea/kea-leases4.csv").write_text(f"address\n{word}\nhalf a li")
    (here / "backline/access.key").write_bytes(hashlib.sha256(word.encode()).digest())
    (here / "backline/access.key").chmod(0o600)
    (here / "backline/udb.key").write_text(word)
    (root / "etc/ssh/ssh_host_ed25519_key").write_text(word)
    (root / "etc/ssh/sshd_config").write_text("the image's")
    return root


def words(root: Path) -> dict[str, str]:
    """What every part says; what a part does not say is not in it."""
    found = {}
    for name in _DATABASES:
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(database(root, name))) as connection,
        ):
            found[name] = " ".join(word for (word,) in connection.execute("SELECT word FROM words"))
    here = root / "var/lib"
    for path in (
        here / "backline-rollout/1.json",
        here / "backline-netboot/mdb.json",
        here / "backline-dhcp/current/kea-dhcp4.json",
        here / "backline-dns/zones/hall/prolo.zone",
        here / "backline-firewall/switch.json",
        here / "kea/kea-leases4.csv",
        here / "backline/udb.key",
        root / "etc/ssh/ssh_host_ed25519_key",
    ):
        with contextlib.suppress(FileNotFoundError):
            found[str(path.relative_to(root))] = path.read_text().split("\n")[-2 if path.suffix == ".csv" else 0]
    with contextlib.suppress(FileNotFoundError):
        found["key"] = hashlib.sha256((here / "backline/access.key").read_bytes()).hexdigest()
    return found


def saved(root: Path, *, key: Key | None = KEY, at: float = NOW.timestamp(), **changed: object) -> Save:
    return save.save(
        settings(root, **changed),
        why="a test",
        key=key,
        identity=IDENTITY,
        root=root,
        clock=lambda: at,
        hall_toml="[site]\n",
    )


def restore_of(root: Path, units: Units | None = None, *, step: save.Step = save.nothing) -> Restore:
    return Restore(settings(root), units or Units(), root=root, step=step, now=lambda: NOW)


def tree(root: Path) -> dict[str, str]:
    """Everything below a root, but for what saves, restores and SQLite leave beside it."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            short = str(path.relative_to(root))
            if "backline-state/" in short or REPLACED in short or short.endswith(("-wal", "-shm")):
                continue
            found[short] = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def numbers(root: Path) -> dict[str, int]:
    path = root / "var/lib/backline-depot/sequences.json"
    found: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    return found
