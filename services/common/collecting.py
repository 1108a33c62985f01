"""What `gc` takes and answers, wherever versions are collected: the same words for a root file server and the depot."""

from __future__ import annotations

import argparse
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.commands import one_line
from services.common.errors import Exit, UsageError
from services.common.versions import human

MOST = 100
"""As many of the newest may be asked to stay."""


class GcRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to collect; `keep` as in the settings when absent. A `plan` only says what would be done."""

    keep: Annotated[int, Meta(ge=0, le=MOST)] | None = None
    plan: bool = False


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A version that stays, and everything that speaks for it."""

    role: str
    version: str
    why: list[str]


class GcAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed (or would be), as ROLE/VERSION, the bytes of it, and what stays."""

    removed: list[str]
    bytes: int
    kept: list[Kept]


def gc_request(arguments: argparse.Namespace) -> GcRequest:
    """What `--keep` and `--plan` of `commands.gc_options` ask for. Raises UsageError("gc.keep")."""
    if arguments.keep is not None and not 0 <= arguments.keep <= MOST:
        raise UsageError("gc.keep", f"--keep {arguments.keep} is not from 0 to {MOST}")
    return GcRequest(keep=arguments.keep, plan=arguments.plan)


def print_collected(answer: GcAnswer, *, plan: bool) -> int:
    """What went, why the rest stays, and how much room that made."""
    for name in answer.removed:
        print(f"{'would remove' if plan else 'removed'} {name}")
    for kept in answer.kept:
        print(one_line(f"kept {kept.role}/{kept.version}: {'; '.join(kept.why)}"))
    print(f"{human(answer.bytes)} {'would be ' if plan else ''}freed")
    return int(Exit.OK)
