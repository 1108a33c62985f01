"""Who is asking: an address of the LAN that nginx names, or somebody on this host."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence

from starlette.requests import Request

from netboot.store import Actor
from services.common.peer import AccessError, group_ids, peer_of

LOCAL = "local"
PROXY_USERS = ("www-data",)


def origin_of(request: Request) -> str:
    """The address that a request comes from; `local` for this host's own processes."""
    peer = peer_of(request)
    if peer is None:
        return request.client.host if request.client else ""
    if _is_proxy(peer.uid):
        return request.headers.get("x-real-ip", "")
    return LOCAL


def writer(request: Request, groups: Sequence[str]) -> Actor:
    """Who changes netboot. Raises AccessError: `auth.local-only`, `auth.denied`."""
    peer = peer_of(request)
    if peer is None or _is_proxy(peer.uid):
        raise AccessError("auth.local-only", "netboot is not changed over the network", hint="use it on gw itself")
    if peer.uid not in (0, os.geteuid()) and not peer.belongs_to(*group_ids(groups)):
        raise AccessError("auth.denied", f"user {peer.uid} may not change netboot")
    try:
        return Actor(pwd.getpwuid(peer.uid).pw_name)
    except KeyError:
        return Actor(f"uid {peer.uid}")


def _is_proxy(uid: int) -> bool:
    for name in PROXY_USERS:
        try:
            if pwd.getpwnam(name).pw_uid == uid:
                return True
        except KeyError:
            continue
    return False
