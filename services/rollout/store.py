"""Rollouts on disk: one file each, written aside and renamed, so each is there as it was before a step or after it.

There are a few a day, so all of them are held in memory as well. A file that cannot be read is named and left alone.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import msgspec

from services.common.codec import decode_json, encode_json
from services.common.errors import HostError, MissingError
from services.rollout.schema import OVER, Rollout

logger = logging.getLogger(__name__)

_NAME = re.compile(r"([1-9][0-9]{0,8})\.json")


class Store:
    """The rollouts of a folder. For one process, one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rollouts: dict[int, Rollout] = {}
        self._last = 0

    def load(self) -> None:
        """Read what is there. Raises HostError("rollout.state")."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                if found := _NAME.fullmatch(path.name):
                    self._last = max(self._last, int(found[1]))
                    self._read(path)
        except OSError as error:
            raise HostError(
                "rollout.state", f"rollouts cannot be read: {error.strerror}", where=str(self.folder)
            ) from error

    def _read(self, path: Path) -> None:
        try:
            rollout = decode_json(path.read_bytes(), Rollout)
        except msgspec.DecodeError as error:
            logger.error("%s is no rollout: %s", path, error)
            return
        self._rollouts[rollout.id] = rollout

    @property
    def next_id(self) -> int:
        return self._last + 1

    def all(self) -> list[Rollout]:
        """The newest first."""
        return sorted(self._rollouts.values(), key=lambda rollout: -rollout.id)

    def one(self, id: int) -> Rollout:
        """Raises MissingError("rollout.unknown")."""
        if id not in self._rollouts:
            raise MissingError("rollout.unknown", f"there is no rollout {id}")
        return self._rollouts[id]

    def open(self) -> list[Rollout]:
        """Those that are not over, the oldest first."""
        return sorted((each for each in self._rollouts.values() if each.phase not in OVER), key=lambda each: each.id)

    def save(self, rollout: Rollout) -> None:
        """Keep a rollout as it is now, through a power cut too. Raises HostError("rollout.state")."""
        path = self.folder / f"{rollout.id}.json"
        aside = self.folder / f".{rollout.id}.new"
        try:
            with aside.open("wb") as file:
                file.write(encode_json(rollout))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HostError("rollout.state", f"a rollout cannot be kept: {error.strerror}", where=str(path)) from error
        self._rollouts[rollout.id] = rollout
        self._last = max(self._last, rollout.id)
