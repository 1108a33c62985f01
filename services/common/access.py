"""Who is asking, and may he? One mechanism for every service of the hall.

`caller_of(request)` says who it is, `require(request, ...)` refuses who may not. A caller is known by one of these:

- on a unix socket, by the kernel's word (`services.common.peer`): root, the service's own user, members of groups;
- by a client certificate of the hall's CA, which the hall's nginx, or our own TLS, has verified: a host and its scopes;
- by a token, as `Authorization: Bearer` or, for sessions of browsers, as a cookie (`services.common.tokens`).

Promises: who shows nothing is anonymous, who shows something bad, foreign or expired is refused, whatever else he might
be allowed. Headers of a proxy count only from a process that runs as nginx's user, by the kernel's word again. A cookie
changes nothing on behalf of another site's page: its request has to come from the service's own (Origin, RFC 6454).
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from starlette.requests import HTTPConnection

from services.common.access_settings import AccessSettings
from services.common.administrators import Directory
from services.common.errors import AccessError
from services.common.peer import Peer, certificate_of, group_ids, peer_of
from services.common.tokens import Claims, Kind, Tokens

LOCAL = "local"
COOKIE = "__Host-backline"  # the prefix makes browsers insist on Secure, Path=/ and no Domain (RFC 6265bis)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_RELATIVE_NAME = re.compile(r"(CN|OU)=([a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?)")


class Role(Enum):
    """What a caller is in the hall."""

    ROOT = "root"
    """May do everything."""
    ORGANIZER = "organizer"
    """May see everything, and change what a service says."""
    SERVICE = "service"
    """A part of the hall; what it may do is in its scopes."""


@dataclass(frozen=True)
class Caller:
    """Who is asking. `origin` is "local" or an address; `machine` and `boot` are those of a machine's token."""

    name: str
    roles: frozenset[Role]
    scopes: frozenset[str]
    origin: str
    machine: int | None = None
    boot: str | None = None

    @property
    def anonymous(self) -> bool:
        """Has shown nothing."""
        return not self.name

    def has(self, *roles: Role) -> bool:
        """Has one of `roles`; root has what organizers have."""
        return bool(self.roles.intersection(roles)) or (Role.ORGANIZER in roles and Role.ROOT in self.roles)


class Access:
    """How one service knows its callers. `groups`: members of these groups have that role, over the unix socket.

    Without `tokens` nobody can log in, and whoever shows a token is refused.
    """

    def __init__(
        self,
        settings: AccessSettings | None = None,
        *,
        groups: Mapping[Role, Sequence[str]] | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self.settings = settings or AccessSettings()
        self.groups = dict(groups or {})
        self.tokens = tokens
        self.directory = Directory(self.settings.administrators)

    def caller(self, request: HTTPConnection) -> Caller:
        """See `caller_of`."""
        hop = self.hop(request)
        bearer, cookie = _bearer(request), request.cookies.get(COOKIE)
        if bearer is not None:
            return self._by_token(bearer, hop, Kind.SESSION, Kind.MACHINE)
        if cookie is not None and hop.secure:
            if request.scope.get("method", "GET") not in SAFE_METHODS:
                check_origin(request, must=True)
            return self._by_token(cookie, hop, Kind.SESSION)
        if hop.certificate is not None:
            return hop.certificate
        if hop.peer is not None:
            return self._by_peer(hop.peer)
        return Caller("", frozenset(), frozenset(), hop.origin)

    def session(self, request: HTTPConnection) -> Claims | None:
        """The claims of the session that `caller` knows the request by; None for every other caller."""
        token = _bearer(request) or request.cookies.get(COOKIE)
        if self.tokens is None or token is None:
            return None
        kind, claims = self.tokens.read(token, Kind.SESSION, Kind.MACHINE)
        return claims if kind is Kind.SESSION else None

    def hop(self, request: HTTPConnection) -> Hop:
        """How the request got here. Raises AccessError: `auth.malformed`, `auth.certificate`."""
        peer = peer_of(request)
        if peer is None:
            origin = request.client.host if request.client else ""
            subject = certificate_of(request)
            shown = None if subject is None else _by_certificate(subject, origin)
            return Hop(None, origin, secure=request.scope.get("scheme") == "https", certificate=shown)
        if not self.is_proxy(peer):
            return Hop(peer, LOCAL, secure=True)
        try:
            origin = str(ipaddress.ip_address(_header(request, "x-real-ip")))
        except ValueError as error:
            raise AccessError("auth.malformed", "the proxy does not say who is calling") from error
        secure = _header(request, "x-forwarded-proto") == "https"
        verdict, subject = _header(request, "x-client-verify"), _header(request, "x-client-subject")
        if not secure or verdict in ("", "NONE"):
            return Hop(None, origin, secure=secure)
        if verdict != "SUCCESS":
            why = verdict.removeprefix("FAILED:")
            raise AccessError("auth.certificate", f"the client certificate is not good: {why}")
        return Hop(None, origin, secure=True, certificate=_by_certificate(subject, origin))

    def from_proxy(self, request: HTTPConnection) -> bool:
        """Whether nginx of this host brings the request, by the kernel's word."""
        peer = peer_of(request)
        return peer is not None and self.is_proxy(peer)

    def is_proxy(self, peer: Peer) -> bool:
        """Whether a process is nginx, whose headers count."""
        if peer.uid == 0:
            return False
        for name in self.settings.proxy_users:
            try:
                if pwd.getpwnam(name).pw_uid == peer.uid:
                    return True
            except KeyError:
                continue
        return False

    def _by_peer(self, peer: Peer) -> Caller:
        roles = set()
        if peer.uid in (0, os.geteuid()):
            roles.add(Role.ROOT)
        if peer.uid == os.geteuid():
            roles.add(Role.SERVICE)
        roles |= {role for role, names in self.groups.items() if peer.belongs_to(*group_ids(names))}
        try:
            name = pwd.getpwuid(peer.uid).pw_name
        except KeyError:
            name = f"uid {peer.uid}"
        return Caller(name, frozenset(roles), frozenset(), LOCAL)

    def _by_token(self, token: str, hop: Hop, *kinds: Kind) -> Caller:
        if self.tokens is None:
            raise AccessError("auth.off", "this service takes no tokens", hint="is /var/lib/backline/access.key there?")
        kind, claims = self.tokens.read(token, *kinds)
        if kind is Kind.MACHINE:
            scopes = frozenset(claims.scopes)
            return Caller(claims.name, frozenset(), scopes, hop.origin, claims.machine, claims.boot)
        if not hop.secure:
            raise AccessError(
                "auth.insecure", "a session is good over HTTPS only", hint="write https:// and log in again"
            )
        return Caller(claims.name, frozenset({self.role_now(claims)}), frozenset(), hop.origin)

    def role_now(self, claims: Claims) -> Role:
        """The role of a session's administrator, as hall.toml has it now. Raises AccessError("auth.revoked")."""
        person = self.directory.read().find(claims.name)
        if person is None or claims.key not in {signer.key.fingerprint() for signer in person.signers()}:
            raise AccessError("auth.revoked", f"{claims.name} or the key of this session is not in hall.toml any more")
        return Role(person.role)


@dataclass(frozen=True)
class Hop:
    """The way of a request: the `peer` of a unix socket that is not nginx, the `origin`, and whether it was safe."""

    peer: Peer | None
    origin: str
    secure: bool
    certificate: Caller | None = None


_PLAIN = Access()


def access_of(request: HTTPConnection) -> Access:
    """The Access of the application that answers; one that knows the unix socket alone where none was made."""
    found = getattr(request.app, "access", None)
    return found if isinstance(found, Access) else _PLAIN


def caller_of(request: HTTPConnection) -> Caller:
    """Who is asking; anonymous (an empty name) for who shows nothing.

    Raises AccessError for what is bad: `auth.malformed`, `auth.foreign`, `auth.kind`, `auth.expired`, `auth.revoked`,
    `auth.certificate`, `auth.insecure` (a session without HTTPS), `auth.origin` (another site's page), `auth.off`.
    """
    return access_of(request).caller(request)


def require(request: HTTPConnection, *roles: Role, scope: str | None = None) -> Caller:
    """The caller, who has one of `roles` or has `scope`; when neither is given, anybody who is known.

    Role.SERVICE among `roles` lets in every part of the hall: name a scope to let in one kind. Raises what `caller_of`
    raises, and AccessError: `auth.anonymous`, `auth.scope` (has other scopes), `auth.denied`.
    """
    caller = caller_of(request)
    if caller.anonymous:
        hint = "log in: backline login, or use it as root on the host itself"
        raise AccessError("auth.anonymous", "this is not for everybody", hint=hint)
    if caller.has(*roles) or (scope is not None and scope in caller.scopes) or (not roles and scope is None):
        return caller
    if scope is not None and caller.scopes:
        has = ", ".join(sorted(caller.scopes))
        raise AccessError("auth.scope", f"{caller.name} may {has} here, and this takes {scope}")
    wanted = [role.value for role in roles] + ([f"scope {scope}"] if scope else [])
    raise AccessError("auth.denied", f"{caller.name} may not do this", hint=f"for: {', '.join(wanted)}")


def check_origin(request: HTTPConnection, *, must: bool) -> None:
    """Refuse a request that a browser sends for another site's page; `must`: also one that does not say for which.

    Raises AccessError("auth.origin").
    """
    origin = request.headers.get("origin")
    if origin is None and not must:
        return
    if origin not in {f"https://{host}" for host in request.headers.getlist("host")}:
        raise AccessError("auth.origin", f"this request comes from a page of {origin or 'nowhere'}, not from ours")


def _header(request: HTTPConnection, name: str) -> str:
    """A header that the proxy sets, once. Raises AccessError("auth.malformed")."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise AccessError("auth.malformed", f"{name} is given {len(values)} times")
    return values[0] if values else ""


def _bearer(request: HTTPConnection) -> str | None:
    """The token of the Authorization header (RFC 6750). Raises AccessError("auth.malformed")."""
    values = request.headers.getlist("authorization")
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise AccessError("auth.malformed", "Authorization is not a bearer token")
    return token.strip()


def _by_certificate(subject: str, origin: str) -> Caller:
    """The host and scopes of a subject such as `CN=rhfs1,OU=feed` (RFC 2253, as nginx writes it).

    Certificates of hosts hold these two kinds of attributes and no character that would need an escape; whatever else
    the CA may have signed is no caller. Raises AccessError("auth.certificate").
    """
    names: dict[str, list[str]] = {"CN": [], "OU": []}
    for part in subject.split(","):
        match = _RELATIVE_NAME.fullmatch(part)
        if match is None:
            raise AccessError("auth.certificate", "the client certificate is not one of a host of this hall")
        names[match[1]].append(match[2])
    if len(names["CN"]) != 1 or not names["OU"]:
        raise AccessError("auth.certificate", "the client certificate names no host, or no scope")
    return Caller(names["CN"][0], frozenset({Role.SERVICE}), frozenset(names["OU"]), origin)
