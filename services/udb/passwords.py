"""Passwords for people: what may be one, and new ones that can be read from paper and typed on any keyboard. Pure."""

from __future__ import annotations

import secrets

from services.common.errors import InputError

LENGTH = 10
SHORTEST, LONGEST = 8, 32
"""Of a password that is made; what somebody writes down may be anything that can be typed."""
CHARS_MAX = 100

# Without 0 O o, 1 l I i, and 5 S, 2 Z: they are taken for one another on paper.
_LOWER, _UPPER, _DIGITS = "abcdefghjkmnpqrstuvwxyz", "ABCDEFGHJKLMNPQRTUVWXY", "346789"
_ALL = _LOWER + _UPPER + _DIGITS


def generate(length: int = LENGTH) -> str:
    """A new password with a small and a capital letter and a digit in it: 57 bits where it has ten characters."""
    if not SHORTEST <= length <= LONGEST:
        raise InputError("password.length", f"a password of {length} characters; {SHORTEST} to {LONGEST} are made")
    while True:
        word = "".join(secrets.choice(_ALL) for _ in range(length))
        if not any(set(word).isdisjoint(kind) for kind in (_LOWER, _UPPER, _DIGITS)):
            return word


def problem(password: str) -> str | None:
    """Why nobody can have `password`, or None. It has to go through a login prompt and onto a line of a sheet."""
    if not password:
        return "a password is not empty"
    if len(password) > CHARS_MAX:
        return f"a password has {CHARS_MAX} characters at most"
    if not password.isprintable():
        return "a password has no tabs, line ends or other characters that cannot be seen"
    if password != password.strip():
        return "a password neither begins nor ends with a space"
    return None
