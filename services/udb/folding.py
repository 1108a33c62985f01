"""Names of people in plain letters: `Müller-Ståhl` is muller-stahl, `Łukasz Strauß` lukasz strauss. Pure."""

from __future__ import annotations

import unicodedata

# Letters that Unicode does not take apart (NFKD), as passports write them (ICAO Doc 9303, part 3, section 6).
_WHOLE = str.maketrans(
    {
        "æ": "ae",
        "œ": "oe",
        "ø": "o",
        "ß": "ss",
        "þ": "th",
        "ð": "d",
        "đ": "d",
        "ħ": "h",
        "\u0131": "i",  # without a dot
        "ł": "l",
        "ŋ": "n",
        "ŧ": "t",
        "ĸ": "k",
        "ə": "e",
    }
)


def folded(text: str) -> str:
    """`text` in lower case without accents; letters of other scripts stay."""
    apart = unicodedata.normalize("NFKD", text.lower().translate(_WHOLE))
    return "".join(letter for letter in apart if not unicodedata.combining(letter)).lower()
