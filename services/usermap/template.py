"""Rooms as somebody has drawn them: an SVG in which groups are seats.

A group is a seat when it says `data-seat="HOSTNAME"`, or as in the first system: a `g` with a `rect` and a `text`
whose first `tspan` is the host name; the second one then gets who sits there. Only shapes and texts are taken, without
styles, scripts, links and references: the rest is drawn without them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup, escape

from services.common.errors import InputError
from services.usermap.drawing import classes, line, title
from services.usermap.schema import Seat

SVG = "{http://www.w3.org/2000/svg}"
ELEMENTS = {"svg", "g", "rect", "path", "line", "polyline", "polygon", "circle", "ellipse", "text", "tspan", "title"}
ATTRIBUTES = frozenset(
    {"viewBox", "x", "y", "dx", "dy", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "width", "height"}
    | {"d", "points", "transform", "text-anchor", "font-size", "font-weight", "stroke-width"}
)
_VALUE = re.compile(r"[A-Za-z0-9 ,.()+-]*")
LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Template:
    """A drawing: pieces of SVG, and between them the seats by host name."""

    root: ElementTree.Element
    names: tuple[str, ...]

    @classmethod
    def parse(cls, content: bytes) -> Template:
        """Raises InputError("map.template")."""
        if len(content) > LIMIT_BYTES:
            raise InputError("map.template", f"the template has more than {LIMIT_BYTES} bytes")
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise InputError("map.template", "the template has a DOCTYPE or entities", hint="save it as plain SVG")
        try:
            root = ElementTree.fromstring(content)
        except ElementTree.ParseError as error:
            raise InputError("map.template", f"the template is no XML: {error}") from error
        if root.tag != f"{SVG}svg" or not root.get("viewBox"):
            raise InputError("map.template", "the template is no svg with a viewBox")
        names = tuple(name for element in root.iter(f"{SVG}g") if (name := seat_name(element)) is not None)
        if not names:
            raise InputError("map.template", "no group of the template is a seat", hint='say data-seat="HOSTNAME"')
        return cls(root, names)

    def draw(self, seats: Mapping[str, Seat]) -> Markup:
        """The drawing with what the seats are now; a seat that mdb does not know is drawn as such."""
        return self._element(self.root, seats)

    def parts(self, seats: Mapping[str, Seat]) -> dict[str, Markup]:
        """The seats of the drawing by the id of their element."""
        found = {}
        for element in self.root.iter(f"{SVG}g"):
            name = seat_name(element)
            if name is not None and (seat := seats.get(name)) is not None:
                found[f"s{seat.machine}"] = self._element(element, seats)
        return found

    def _element(self, element: ElementTree.Element, seats: Mapping[str, Seat], second: str | None = None) -> Markup:
        tag = element.tag.removeprefix(SVG)
        if tag not in ELEMENTS:
            return Markup("")
        words = Markup("").join(
            Markup(' {}="{}"').format(key, value)
            for key, value in element.attrib.items()
            if key in ATTRIBUTES and _VALUE.fullmatch(value)
        )
        name = seat_name(element) if tag == "g" else None
        head = Markup("")
        if tag == "svg":
            words += Markup(' class="drawn"')
        if name is not None:
            seat = seats.get(name)
            words += Markup(' class="{}"').format(classes(seat) if seat else "seat strange")
            words += Markup(' id="s{}"').format(seat.machine) if seat else Markup("")
            head = Markup("<title>{}</title>").format(title(seat) if seat else f"{name}: not in mdb")
            second = line(seat) if seat else "not in mdb"
        inner = Markup(escape(element.text or "")) if tag in ("text", "tspan", "title") else Markup("")
        spans = 0
        for child in element:
            kind = child.tag.removeprefix(SVG) if isinstance(child.tag, str) else ""
            if name is not None and kind == "title":
                continue
            spans += kind == "tspan"
            if kind == "tspan" and spans == 2 and second is not None:
                child = ElementTree.Element(child.tag, child.attrib)
                child.text = second
            inner += self._element(child, seats, second)
            if tag in ("text", "tspan"):
                inner += Markup(escape(child.tail or ""))
        if name is not None and seats.get(name) is not None:
            inner = Markup('<a href="/seats/{}" aria-label="{}">{}</a>').format(name, title(seats[name]), inner)
        return Markup("<{0}{1}>{2}{3}</{0}>").format(Markup(tag), words, head, inner)


def seat_name(element: ElementTree.Element) -> str | None:
    """The host name of a group that is a seat."""
    told = element.get("data-seat")
    if told:
        return told.strip()
    children = [child.tag.removeprefix(SVG) for child in element if isinstance(child.tag, str)]
    if children[:2] != ["rect", "text"]:
        return None
    spans = list(element[1].iter(f"{SVG}tspan"))
    return (spans[0].text or "").strip() or None if len(spans) == 2 else None
