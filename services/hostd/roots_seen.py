"""A root file server as the supervisor sees it, and what it has it do: the roots service's API, and ganesha's on D-Bus.

Only a host whose roots service has its socket is a root file server.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from services.common.errors import BacklineError, HostError, MissingError
from services.common.process import ProcessFailed, run
from services.hostd.roots_planner import RootsSeen
from services.roots.client import SOCKET, STAGE_SECONDS, Holds, Roots, RootsClient

SECONDS = 5.0
HOLD_SECONDS = 120.0
"""It may be starting, with the host."""
READY_SECONDS = 60.0
"""How long after its start ganesha may take to serve what its configuration has."""
GANESHA = Path("/etc/ganesha/ganesha.conf")
_CALL = ("busctl", "--json=short", "--timeout=20", "call", "org.ganesha.nfsd", "/org/ganesha/nfsd/ExportMgr")
_EXPORTS = "org.ganesha.nfsd.exportmgr"


class RootServer:
    """What serves roots on this host. Blocks."""

    def __init__(self, address: str = SOCKET, *, ganesha: Path = GANESHA) -> None:
        self.address, self.ganesha = address, ganesha

    @property
    def here(self) -> bool:
        """Whether this host is a root file server."""
        return Path(self.address.removeprefix("unix:")).exists()

    def seen(self, *, exports: bool) -> RootsSeen | None:
        """What it holds, and with `exports` what is exported; None where this is none. Raises nothing: it is silent."""
        if not self.here:
            return None
        try:
            with RootsClient(self.address, seconds=SECONDS) as client:
                found = client.roots()
        except BacklineError:
            return RootsSeen(silent=True, exports=self._served() if exports else None)
        held = [f"{root.role}@{root.version}" for root in found.roots if root.state.value == "held"]
        holds = [name.replace("/", "@") for name in found.holds]
        return RootsSeen(held=held, holds=holds, exports=self._served() if exports else None)

    def roots(self) -> Roots:
        """This server and its versions. Raises MissingError("host.roots") where this is none, RemoteError."""
        if not self.here:
            raise MissingError("host.roots", "this host is no root file server")
        with RootsClient(self.address, seconds=SECONDS) as client:
            return client.roots()

    def hold(self, names: list[str]) -> None:
        """Have it hold these versions, and no others beside those of channels. Raises RemoteError, MissingError."""
        with RootsClient(self.address, seconds=HOLD_SECONDS) as client:
            client.hold(Holds(roots=[name.replace("@", "/") for name in names]))

    def stage(self, name: str) -> None:
        """Have it pull a version, and wait until it is here, verified. Raises RemoteError, MissingError."""
        role, _, version = name.partition("@")
        with RootsClient(self.address, seconds=STAGE_SECONDS) as client:
            client.stage(role, version)

    def export(self, path: str) -> None:
        """Have ganesha serve the export of its configuration whose path or pseudo path is `path`.

        Mounted clients notice nothing: AddExport (ganesha-dbus-interface) touches no other export. Raises
        HostError("export.unknown", "export.failed").
        """
        number = exports_of(self.ganesha.read_text()).get(path) if self.ganesha.exists() else None
        if number is None:
            raise HostError("export.unknown", f"no export of this image is {path}", where=str(self.ganesha))
        argv = [*_CALL, _EXPORTS, "AddExport", "ss", str(self.ganesha), f"EXPORT(Export_Id={number})"]
        end = time.monotonic() + READY_SECONDS
        while path not in self._served():
            try:
                run(argv, deadline=time.monotonic() + 30)
            except ProcessFailed as error:  # it may have been started a moment ago: systemd knows before D-Bus does
                if time.monotonic() >= end:
                    raise HostError(
                        "export.failed",
                        f"ganesha does not serve {path}: {error.completed.stderr.strip()}",
                        hint="systemctl status nfs-ganesha",
                    ) from error
                time.sleep(1)
            else:
                return

    def _served(self) -> list[str]:
        """The exports that ganesha serves now, by every path that clients know them by; none while it is away."""
        try:
            done = run([*_CALL, _EXPORTS, "ShowExports"], deadline=time.monotonic() + 30)
            rows = json.loads(done.stdout)["data"][1]
        except (ProcessFailed, BacklineError, ValueError, LookupError):
            return []
        numbers = {row[0] for row in rows}
        known = exports_of(self.ganesha.read_text()) if self.ganesha.exists() else {}
        return sorted({str(row[1]) for row in rows} | {path for path, number in known.items() if number in numbers})


def exports_of(text: str) -> dict[str, int]:
    """The export ids of a ganesha.conf by `Path` and by `Pseudo`; of what is written as we write it."""
    found: dict[str, int] = {}
    inside: dict[str, str] | None = None
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        if line.replace(" ", "") == "EXPORT{":
            inside = {}
        elif line == "}" and inside is not None:
            if inside.get("Export_Id", "").isdecimal():
                found |= {inside[key]: int(inside["Export_Id"]) for key in ("Path", "Pseudo") if key in inside}
            inside = None
        elif inside is not None and "=" in line:
            key, _, value = line.partition("=")
            inside[key.strip()] = value.strip().rstrip(";").strip('" ')
    return found
