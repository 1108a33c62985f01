"""The contest's switch: which groups of users get out of the hall now, whatever hall.toml says, and who said so.

One small file, written whole before it counts: a dozen changes a contest, which a lost gw gives back with its saved
state. Another file than the service's memory of feeds, so that a restore brings back decisions and not what is old.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from services.common.changes import Action, Actor, AuditEntry
from services.common.codec import decode_json, encode_json
from services.common.errors import HostError
from services.common.signing import write_text
from services.common.users import UserGroup
from services.firewall.schema import GroupState

logger = logging.getLogger(__name__)

SWITCH = "switch.json"
KEPT = 1000
"""So many changes are remembered."""
TOPIC = "groups"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The switch as it is on disk: the groups that somebody has decided about, and the changes, the newest first."""

    groups: dict[UserGroup, bool] = {}
    entries: list[AuditEntry] = []


class Switch:
    """Which groups get out. `default` is hall.toml's answer for those about which nobody has decided."""

    def __init__(self, folder: Path, default: Iterable[UserGroup], *, clock: Callable[[], float] = time.time) -> None:
        self.file = folder / SWITCH
        self.default = frozenset(default)
        self.clock = clock
        self.kept = Kept()

    def read(self) -> None:
        """Take up what was decided; blocks. A file that cannot be read keeps every group in, until somebody decides:
        in a contest that is the smaller harm.
        """
        try:
            self.kept = decode_json(self.file.read_bytes(), Kept)
        except FileNotFoundError:
            self.kept = Kept()
        except (OSError, msgspec.DecodeError) as error:
            logger.error("%s cannot be read, so no group gets out: %s", self.file, error)
            self.kept = Kept(groups=dict.fromkeys(UserGroup, False))

    @property
    def groups(self) -> frozenset[UserGroup]:
        """Those that get out now."""
        return frozenset(group for group in UserGroup if self.allows(group))

    def allows(self, group: UserGroup) -> bool:
        """Whether a group gets out now."""
        return self.kept.groups.get(group, group in self.default)

    def put(self, group: UserGroup, allowed: bool | None, by: Actor) -> bool:  # noqa: FBT001
        """Decide about a group, or with None leave it to hall.toml; blocks. False when that was so already.

        On disk when it counts. Raises HostError("firewall.switch").
        """
        before = self.kept.groups.get(group)
        if before == allowed:
            return False
        action = Action.DELETED if allowed is None else Action.CREATED if before is None else Action.UPDATED
        entry = AuditEntry(
            id=self.kept.entries[0].id + 1 if self.kept.entries else 1,
            at=self.clock(),
            actor=by.name,
            origin=by.origin,
            action=action,
            topic=TOPIC,
            key=group.value,
            name=group.value,
            before=None if before is None else {"allowed": before},
            after=None if allowed is None else {"allowed": allowed},
        )
        groups = {each: value for each, value in self.kept.groups.items() if each is not group}
        if allowed is not None:
            groups[group] = allowed
        kept = Kept(groups=groups, entries=[entry, *self.kept.entries][:KEPT])
        try:
            write_text(self.file, encode_json(kept).decode())
        except OSError as error:
            told = f"it cannot be written: {error.strerror}"
            raise HostError("firewall.switch", told, where=str(self.file)) from error
        self.kept = kept
        now = "may" if self.allows(group) else "may not"
        said = " as hall.toml says" if allowed is None else ""
        logger.warning("group %s %s get out%s: %s (%s)", group.value, now, said, by.name, by.origin)
        return True

    def states(self) -> list[GroupState]:
        """Every group, and who decided about it last."""
        last = {entry.key: entry for entry in reversed(self.kept.entries)}
        return [
            GroupState(
                group=group,
                allowed=self.allows(group),
                default=group in self.default,
                decided=group in self.kept.groups,
                by=last[group.value].actor if group.value in last else None,
                at=last[group.value].at if group.value in last else None,
            )
            for group in UserGroup
        ]
