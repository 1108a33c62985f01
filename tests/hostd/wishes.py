"""Hosts and documents for property tests: a few units, in every state that a host may have them."""

from __future__ import annotations

from hypothesis import strategies as st

from services.hostd.desired import Desired, UnitWish, installs
from services.hostd.planner import Seen

PLAIN = "[Service]\nExecStart=/bin/true\n"
INSTALLED = PLAIN + "[Install]\nWantedBy=multi-user.target\n"
OWN = ("own-a.service", "own-b.service")
"""Units that only a document brings."""
BAKED = ("baked-a.service", "baked-b.socket", "baked-c.slice")
"""Units that the image brings."""

texts = st.sampled_from([PLAIN, INSTALLED, PLAIN + "# other\n"])
drop_ins = st.dictionaries(st.sampled_from(["10-a", "20-b"]), st.sampled_from(["[Unit]\n", "[Unit]\n#\n"]), max_size=2)
maybe = st.sampled_from([None, True, False])


@st.composite
def own_wishes(draw: st.DrawFn) -> UnitWish:
    text = draw(texts)
    enabled = draw(maybe) if installs(text) else draw(st.sampled_from([None, False]))
    return UnitWish(enabled, draw(maybe), text, draw(drop_ins))


@st.composite
def baked_wishes(draw: st.DrawFn) -> UnitWish:
    return UnitWish(draw(maybe), draw(maybe), None, draw(drop_ins))


@st.composite
def documents(draw: st.DrawFn) -> Desired:
    own = draw(st.dictionaries(st.sampled_from(OWN), own_wishes(), max_size=2))
    baked = draw(st.dictionaries(st.sampled_from(BAKED), baked_wishes(), max_size=3))
    return Desired({**own, **baked})


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, Seen]:
    """A host that no document has touched."""
    return {
        name: Seen(
            load="loaded",
            active=draw(st.sampled_from(["active", "inactive", "failed", "activating"])),
            file_state=draw(st.sampled_from(["enabled", "disabled"])),
            fragment=f"/usr/lib/systemd/system/{name}",
        )
        for name in BAKED
    }
