"""Who sits at the caller's address, as single sign-on has told nginx (docs/sso.md).

It is a name for pages, and no proof: it opens nothing that somebody on the LAN may not see. What a client sends of
these headers never gets here, because nginx sets both of them, always.
"""

from __future__ import annotations

from starlette.requests import Request

from services.common.access import access_of

USER = "x-sso-user"


def seated(request: Request) -> str | None:
    """The login of who sits there; None for nobody that is known, and for callers that nginx did not bring."""
    given = request.headers.getlist(USER)
    if len(given) != 1 or not given[0] or not access_of(request).from_proxy(request):
        return None
    return given[0]
