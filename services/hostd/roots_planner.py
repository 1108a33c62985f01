"""From the roots and exports of a root file server to those that a document names. Pure.

Holding is asked of the roots service, which pulls a version that it lacks and never collects one that is to be held;
what is not to be held any more is its garbage collection's business, since somebody may still run from it. An export is
part of the image (docs/decisions/one-export.md), so a document cannot make one: it has ganesha serve it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.common.errors import InputError
from services.hostd.planner import Kind, Step


class RootsSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A root file server as far as documents go.

    `held` are verified versions, `holds` what it was told to hold, both as ROLE@VERSION; `exports` what its NFS server
    serves, null when nobody asked. While `silent`, its versions are not known.
    """

    held: list[str] = []
    holds: list[str] = []
    exports: list[str] | None = None
    silent: bool = False


def plan(seen: RootsSeen | None, roots: Sequence[str], exports: Sequence[str]) -> list[Step]:
    """What leads from `seen` to the roots and exports; None: this is no root file server.

    What cannot be seen is done anyway, where a document wishes for it: it may be about to start. Raises
    InputError("plan.roots").
    """
    if seen is None:
        if roots or exports:
            hint = "roots and exports are for hosts of role rhfs"
            raise InputError("plan.roots", "this host is no root file server", hint=hint)
        return []
    steps: list[Step] = []
    silent = seen.silent
    if (silent and roots) or (not silent and sorted(roots) != sorted(seen.holds)):
        steps.append(Step(Kind.HOLD, names=sorted(roots)))
    steps += [Step(Kind.STAGE, names=[root]) for root in sorted(roots) if silent or root not in seen.held]
    served = seen.exports or []
    return steps + [Step(Kind.EXPORT, names=[export]) for export in sorted(exports) if export not in served]


def simulate(seen: RootsSeen | None, steps: Iterable[Step]) -> RootsSeen | None:
    """What the steps make of it."""
    if seen is None:
        return None
    for step in steps:
        names = step.names or []
        match step.kind:
            case Kind.HOLD:
                seen = msgspec.structs.replace(seen, holds=list(names), silent=False)
            case Kind.STAGE:
                seen = msgspec.structs.replace(seen, held=sorted({*seen.held, *names}), silent=False)
            case Kind.EXPORT:
                seen = msgspec.structs.replace(seen, exports=sorted({*(seen.exports or []), *names}))
            case _:
                pass
    return seen
