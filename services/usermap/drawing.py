"""Seats and rooms as SVG. Pure.

A seat is a small `svg` of its own, so that a page puts seats of a row where there is room for them, and the map as one
file puts them side by side. Colours, stripes and borders are the style sheet's (`pages.css`): a state has a shape
beside its colour. What people wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from services.usermap.schema import Map, Seat, State

WIDTH, HEIGHT, GAP, HEAD = 96, 52, 8, 30
PER_LINE = 16
TITLES = {
    State.FREE: "free",
    State.USER: "taken",
    State.ORGA: "organizer",
    State.ROOT: "root",
    State.STARTING: "starting",
    State.OFF: "off",
    State.UNREACHABLE: "unreachable",
    State.FAULTY: "faulty",
}
"""What each state is called, in the order of the legend."""
SIGNS = {State.UNREACHABLE: "?", State.FAULTY: "✗", State.ORGA: "◆", State.ROOT: "★", State.STARTING: "…"}
LINES = {State.UNREACHABLE: "no answer"}
"""What stands in a seat where its name is too long for that."""
LOGIN_LETTERS = 11


def title(seat: Seat) -> str:
    """A seat in words."""
    told = [TITLES[seat.state]]
    told += [f"{each.login} ({each.group.value if each.group else 'unknown to udb'})" for each in seat.people]
    told += [seat.reason] if seat.reason else []
    if seat.degraded:
        told.append(f"degraded: {', '.join(seat.failed)}" if seat.failed else "degraded")
    told += ["runs another version than it would boot"] if seat.old else []
    return f"{seat.hostname}: {', '.join(told)}"


def classes(seat: Seat) -> str:
    """For the style sheet."""
    return " ".join(
        ["seat", seat.state.value, *(["degraded"] if seat.degraded else []), *(["old"] if seat.old else [])]
    )


def line(seat: Seat) -> str:
    """What stands below the label: who sits there, or what it is."""
    if not seat.people:
        return LINES.get(seat.state, TITLES[seat.state])
    first = seat.people[0].login
    more = f" +{len(seat.people) - 1}" if len(seat.people) > 1 else ""
    room = LOGIN_LETTERS - len(more)
    return (first if len(first) <= room else f"{first[: room - 1]}…") + more


def seat(seat: Seat, *, link: bool = True, x: int | None = None, y: int | None = None) -> Markup:
    """A seat; with `x` and `y`, at a place of a larger drawing."""
    place = (
        Markup()
        if x is None or y is None
        else Markup(' x="{}" y="{}" width="{}" height="{}"').format(x, y, WIDTH, HEIGHT)
    )
    sign = SIGNS.get(seat.state, "")
    inner = Markup(
        "<title>{}</title>"
        '<rect class="ground" x="1.5" y="1.5" width="{}" height="{}" rx="6"/>'
        '<path class="stripes" d="M2 28 28 2M2 50 50 2M26 50 74 2M50 50 94 6M74 50 94 30"/>'
        '<text class="label" x="9" y="21">{}</text>'
        '<text class="sign" x="{}" y="20">{}</text>'
        '<text class="line" x="9" y="42">{}</text>'
        '<path class="degraded-mark" d="M{} 46 l7 -12 7 12z"/>'
        '<circle class="old-mark" cx="{}" cy="9" r="4"/>'
    ).format(title(seat), WIDTH - 3, HEIGHT - 3, seat.label, WIDTH - 9, sign, line(seat), WIDTH - 20, WIDTH - 28)
    if link:
        inner = Markup('<a href="/seats/{}" aria-label="{}">{}</a>').format(seat.hostname, title(seat), inner)
    return Markup('<svg id="s{}" class="{}" viewBox="0 0 {} {}"{}>{}</svg>').format(
        seat.machine, classes(seat), WIDTH, HEIGHT, place, inner
    )


def whole(map: Map, style: str) -> Markup:
    """The map as one file, with its own colours."""
    parts = list(_rooms(map))
    height = max((y for _, y in parts), default=0) + GAP
    width = PER_LINE * (WIDTH + GAP) + GAP
    body = Markup("").join(part for part, _ in parts)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" class="map-file"><style>{}</style>{}</svg>\n'
    ).format(width, height, Markup(style), body)


def _rooms(map: Map) -> Iterator[tuple[Markup, int]]:
    y = GAP
    for room in map.rooms:
        yield Markup('<text class="room-name" x="{}" y="{}">{}</text>').format(GAP, y + 20, room.name), y + HEAD
        y += HEAD
        for row in room.rows:
            for start in range(0, len(row.seats), PER_LINE):
                for place, each in enumerate(row.seats[start : start + PER_LINE]):
                    drawn = seat(each, link=False, x=GAP + place * (WIDTH + GAP), y=y)
                    yield drawn, y + HEIGHT
                y += HEIGHT + GAP
        y += GAP
