"""The systemd of this host, as a restore needs it: by systemctl(1), which joins jobs that are under way already."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.process import run

RELOADED = ("ssh.service",)
"""Who goes on meanwhile, and reads what was restored again: sshd has its host keys in memory."""
_RUNNING = ("active", "activating", "reloading", "deactivating")


class Systemd:
    """Implements `restore.Units`."""

    def stop(self, units: Sequence[str]) -> None:
        """Stop those that run, and wait until they do not.

        Only those: at a start of the host the others wait for us, and stopping them would cancel that.
        """
        if running := [unit for unit, (_, state) in self._states(units).items() if state in _RUNNING]:
            run(["systemctl", "stop", *running])

    def start(self, units: Sequence[str]) -> None:
        """Ask for those to run that there are; not waited for."""
        there = [unit for unit, (loaded, _) in self._states(units).items() if loaded == "loaded"]
        run(["systemctl", "reset-failed", *there], check=False)
        run(["systemctl", "start", "--no-block", *there])
        run(["systemctl", "try-reload-or-restart", "--no-block", *RELOADED], check=False)

    def join(self, units: Sequence[str], *, deadline: float) -> list[str]:
        """Wait until the starts of those are over. Returns those that do not run, though they should."""
        there = [unit for unit, (loaded, _) in self._states(units).items() if loaded == "loaded"]
        run(["systemctl", "start", *there], check=False, deadline=deadline)
        late = ("activating", "reloading", "failed")
        return [unit for unit, (_, state) in self._states(there).items() if state in late]

    def _states(self, units: Sequence[str]) -> dict[str, tuple[str, str]]:
        """LoadState and ActiveState by unit."""
        done = run(["systemctl", "show", "--property=Id,LoadState,ActiveState", "--", *units])
        found = {}
        for block in done.stdout.strip().split("\n\n"):
            fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            found[fields.get("Id", "")] = (fields.get("LoadState", ""), fields.get("ActiveState", ""))
        return {unit: found.get(unit, ("not-found", "inactive")) for unit in units}
