"""Whose users somebody may see and change. Pure.

Roots see and change all. Organizers see contestants, their passwords included, and change no user; both say the message
of the day. Nobody else sees
anything here: what every machine has to know of every user is in the feed. The store asks this, whoever calls it.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.common.changes import Actor
from services.common.errors import AccessError
from services.common.users import UserGroup

ALL = frozenset(UserGroup)


@dataclass(frozen=True)
class Person:
    """Who is asking, whose users they may read, and whose they may write."""

    name: str
    origin: str
    reads: frozenset[UserGroup] = frozenset()
    writes: frozenset[UserGroup] = frozenset()
    announces: bool = False

    @property
    def actor(self) -> Actor:
        """As the history names them."""
        return Actor(self.name, self.origin)

    @classmethod
    def root(cls, name: str, origin: str) -> Person:
        """One of those who see and change all."""
        return cls(name, origin, reads=ALL, writes=ALL, announces=True)

    @classmethod
    def organizer(cls, name: str, origin: str) -> Person:
        """One of those who see contestants."""
        return cls(name, origin, reads=frozenset({UserGroup.USER}), announces=True)

    def check_writes(self, *groups: UserGroup) -> None:
        """Raises AccessError("auth.denied") unless they may write users of every one of `groups`."""
        if not self.writes.issuperset(groups) or not self.writes:
            raise AccessError("auth.denied", f"{self.name} may not change users", hint="for: root")

    def check_announces(self) -> None:
        """Raises AccessError("auth.denied") unless they may say the message of the day."""
        if not self.announces:
            raise AccessError("auth.denied", f"{self.name} may not say the message of the day", hint="for: organizers")


def strictest(*groups: UserGroup) -> UserGroup:
    """The group whose users the fewest may see."""
    return max(groups, key=list(UserGroup).index)
