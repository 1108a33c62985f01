"""Hosts and documents for property tests: a few units, in every state that a host may have them."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from services.hostd.desired import Desired, MachineWish, UnitWish, installs
from services.hostd.host_planner import HostSeen
from services.hostd.machines_planner import MachineSeen, MachinesSeen
from services.hostd.machines_schema import Card, Resources
from services.hostd.planner import Seen
from services.hostd.roots_planner import RootsSeen

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


HELD = [f"db@20260101.00000000000{digit}" for digit in range(1, 5)]
VERSIONS = [name.partition("@")[2] for name in HELD]
ROOTS = [f"nfsroot@20260101.00000000000{digit}" for digit in range(1, 4)]
EXPORTS = ["/images", "/other"]
NAMES = ("one", "two", "three")

cards = st.lists(st.builds(Card, kind=st.just("bridge"), on=st.sampled_from(["br0", "br1"])), max_size=2)
resources = st.builds(Resources, memory=st.sampled_from([None, "1G", "2G"]))
folders = st.sampled_from([{}, {"/srv/data": "/data"}])


@st.composite
def machine_wishes(draw: st.DrawFn) -> MachineWish:
    return MachineWish(
        role="db",
        version=draw(st.sampled_from(VERSIONS)),
        network=draw(cards),
        resources=draw(resources),
        folders=draw(folders),
        running=draw(st.booleans()),
    )


@st.composite
def machines(draw: st.DrawFn) -> MachineSeen:
    """A machine in any state, also amid an upgrade."""
    version = draw(st.sampled_from(VERSIONS))
    previous = draw(st.sampled_from([None, *(each for each in VERSIONS if each != version)]))
    changing = previous is not None and draw(st.booleans())
    return MachineSeen(
        role="db",
        version=version,
        network=draw(cards),
        resources=draw(resources),
        folders=draw(folders),
        wanted="running" if changing else draw(st.sampled_from(["running", "stopped"])),
        active=draw(st.sampled_from(["active", "inactive", "failed", "activating"])),
        previous=previous,
        changing=changing,
    )


@st.composite
def irons(draw: st.DrawFn) -> MachinesSeen:
    """An iron that no document has touched, with machines that were set aside."""
    found = draw(st.dictionaries(st.sampled_from(NAMES), machines(), max_size=3))
    aside = {
        name: msgspec.structs.replace(machine, wanted="stopped", active="inactive", changing=False)
        for name, machine in draw(st.dictionaries(st.sampled_from(NAMES), machines(), max_size=2)).items()
        if name not in found
    }
    return MachinesSeen(machines=found, aside=aside, held=HELD)


root_servers = st.builds(
    RootsSeen,
    held=st.lists(st.sampled_from(ROOTS), unique=True),
    holds=st.lists(st.sampled_from(ROOTS), unique=True),
    exports=st.lists(st.sampled_from(EXPORTS), unique=True),
    silent=st.booleans(),
)


@st.composite
def whole_hosts(draw: st.DrawFn) -> HostSeen:
    return HostSeen(draw(hosts()), draw(irons()), draw(root_servers))


@st.composite
def whole_documents(draw: st.DrawFn) -> Desired:
    wishes = draw(st.dictionaries(st.sampled_from(NAMES), machine_wishes(), max_size=3))
    roots = draw(st.lists(st.sampled_from(ROOTS), unique=True))
    exports = draw(st.lists(st.sampled_from(EXPORTS), unique=True))
    return Desired(draw(documents()).units, wishes, roots, exports)
