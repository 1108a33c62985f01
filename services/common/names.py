"""Names and hardware addresses of machines: what may be one, and its one form. Pure.

RFC 952 and RFC 1123 section 2.1 for labels; IEEE 802 for MAC addresses, whose usual spellings become one.
"""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LAST = re.compile(r"[-_]?(?:(?<=[0-9])[a-z])?[0-9]+$")
_MAC_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"([0-9a-f]{2})" + r":([0-9a-f]{2})" * 5,
        r"([0-9a-f]{2})" + r"-([0-9a-f]{2})" * 5,  # Windows, and iPXE's ${mac:hexhyp}
        r"([0-9a-f]{2})([0-9a-f]{2})" + r"\.([0-9a-f]{2})([0-9a-f]{2})" * 2,  # switches
        r"([0-9a-f]{2})" * 6,
    )
)


def label_problem(name: str) -> str | None:
    """Why `name` cannot be a host name or alias (RFC 952, RFC 1123 section 2.1), or None."""
    if _LABEL.fullmatch(name):
        return None
    if "_" in name:
        return f"{name!r} has an underscore, which no host name may have: resolvers and browsers refuse it"
    if name != name.lower():
        return f"{name!r} has capital letters; write it in lower case"
    if "." in name:
        return f"{name!r} has a dot; the domain is added to it"
    if len(name) > 63:
        return f"{name!r} has {len(name)} letters; a label has 63 at most"
    return f"{name!r} is not a host name: letters, digits and hyphens, no hyphen at either end"


def host_problem(name: str) -> str | None:
    """Why `name` cannot be what a machine is called, or None."""
    return "localhost is every machine's name for itself" if name == "localhost" else label_problem(name)


def domain_problem(name: str) -> str | None:
    """Why `name` cannot be the domain of a hall, or None."""
    if not name or len(name) > 253:
        return f"{name!r} is not a domain"
    for label in name.split("."):
        if problem := label_problem(label):
            return f"{name!r} is not a domain: {problem}"
    last = name.rpartition(".")[2]
    if last in ("local", "localhost"):
        return f"{name!r} ends in {last}, which is not served by DNS (RFC 6761, RFC 6762)"
    return f"{name!r} is not a domain: it ends in a number" if last.isdigit() else None


def row_of(hostname: str) -> str:
    """The row of a seat: its name without its last number, and the letter between two numbers."""
    return _LAST.sub("", hostname) or hostname


def normal_mac(text: str) -> str:
    """A MAC address in lower case with colons. Raises ValueError for what is none, or is not one machine's."""
    found = next((match for form in _MAC_FORMS if (match := form.fullmatch(text.strip()))), None)
    if found is None:
        raise ValueError(f"{text!r} is no MAC address; write it as 52:54:00:12:34:56")
    mac = ":".join(found.groups()).lower()
    if int(mac[:2], 16) & 1:
        raise ValueError(f"{mac} is a multicast address, not one machine's")
    if mac == "00:00:00:00:00:00":
        raise ValueError(f"{mac} is what a card without an address says")
    return mac
