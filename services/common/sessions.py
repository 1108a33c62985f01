"""Logging in: an administrator signs a challenge with an SSH key of hall.toml, and gets a session for some hours.

    POST /v1/session/challenge  {name}                  → {challenge, namespace, expires}
    POST /v1/session            {challenge, signature}  → {token, name, role, expires}, and a cookie
    POST /v1/session/link       (with a session)        → {path, expires}: opens the session in a browser, once
    GET, DELETE /v1/session                             → who is asking; end a browser's session

and a page, /login. All of it over HTTPS or the unix socket only. A challenge says where and for whom it is, so a person
and our client see what they sign. It is good once, for `CHALLENGE_SECONDS`, in the process that gave it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import shlex
from typing import Annotated, Literal
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.access import COOKIE, LOCAL, Access, Hop, check_origin
from services.common.edge import Operation, read_body
from services.common.errors import AccessError, BacklineError, IntegrityError, UsageError
from services.common.problem import status_of
from services.common.rate import Rate
from services.common.signing import signed_by, verify
from services.common.tokens import Claims, Kind, Tokens

logger = logging.getLogger(__name__)

NAMESPACE = "backline-login"
CHALLENGE_SECONDS = 120
LINK_SECONDS = 60
VERIFYING = 4  # signatures at once: each is a run of ssh-keygen
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-fA-F:]{2,39}\](?::[0-9]{1,5})?")
_NEXT = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]{0,500}")

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who wants to log in: the name of an administrator of hall.toml."""

    name: Name


class Challenge(msgspec.Struct, frozen=True):
    """The text to sign, without a line end, for `ssh-keygen -Y sign -n NAMESPACE`. `expires`: seconds since 1970."""

    challenge: str
    namespace: str
    expires: int


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A challenge, and its signature as ssh-keygen writes it."""

    challenge: Annotated[str, Meta(max_length=4096)]
    signature: Annotated[str, Meta(max_length=8192)]


class Session(msgspec.Struct, frozen=True):
    """A session: send `token` as `Authorization: Bearer`. `expires`: seconds since 1970."""

    token: str
    name: str
    role: Literal["root", "organizer"]
    expires: int


class Link(msgspec.Struct, frozen=True):
    """A path of this service to open in a browser, once."""

    path: str
    expires: int


class Who(msgspec.Struct, frozen=True):
    """Who is asking; the name is empty for who has shown nothing."""

    name: str
    roles: list[str]
    scopes: list[str]
    origin: str


class Once:
    """Things that may happen once, remembered until they could not happen anyway."""

    def __init__(self) -> None:
        self._gone: dict[str, int] = {}

    def take(self, id: str, expires: int, *, now: float) -> bool:
        """Whether it is the first time. Forgets what has expired."""
        self._gone = {old: until for old, until in self._gone.items() if until > now}
        if id in self._gone:
            return False
        self._gone[id] = expires
        return True


class Sessions:
    """The handlers of one process, around its Access."""

    def __init__(self, service: str, access: Access, tokens: Tokens) -> None:
        self.service = service
        self.access = access
        self.tokens = tokens
        self.process = secrets.token_hex(8)
        self.once = Once()
        self.rate = Rate(per_minute=30, burst=20)
        self.verifying = asyncio.Semaphore(VERIFYING)

    def routes(self) -> list[BaseRoute]:
        """The routes that every service has which can log somebody in."""
        errors = [401, 403, 429]
        return [
            Operation(
                "POST",
                "/v1/session/challenge",
                self.challenge,
                summary="Begin to log in",
                body=Asked,
                answer=Challenge,
                errors=errors,
            ),
            Operation("POST", "/v1/session", self.log_in, summary="Log in", body=Signed, answer=Session, errors=errors),
            Operation(
                "POST", "/v1/session/link", self.link, summary="A session for a browser", answer=Link, errors=errors
            ),
            Operation("GET", "/v1/session", self.who, summary="Who am I?", answer=Who, errors=[401]),
            Operation("DELETE", "/v1/session", self.log_out, summary="Log out", status=204, errors=[403]),
            Route("/login", self.page, methods=["GET", "POST"]),
        ]

    # What happens, whoever wants it

    def _hop(self, request: Request) -> Hop:
        """How the request got here: safely, and not too often. Raises AccessError: `auth.insecure`, `auth.rate`."""
        hop = self.access.hop(request)
        if not hop.secure:
            raise AccessError("auth.insecure", "nobody logs in without TLS", hint="write https://")
        if request.method != "GET" and not self.rate.allow(hop.origin):
            raise AccessError("auth.rate", f"too many tries from {hop.origin}", hint="wait a minute")
        return hop

    def _new_challenge(self, request: HTTPConnection, hop: Hop, name: str) -> Challenge:
        host = LOCAL if hop.peer is not None else request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise UsageError("request.host", "the request does not say which host it is for")
        claims = Claims(name=name, audience=f"{self.process} {host}")
        token = self.tokens.mint(Kind.CHALLENGE, claims, seconds=CHALLENGE_SECONDS)
        expires = self.tokens.read(token, Kind.CHALLENGE)[1].expires
        return Challenge(f"{NAMESPACE} {host} {name} {token}", NAMESPACE, expires)

    async def _open(self, request: HTTPConnection, signed: Signed) -> Session:
        """A session for a signed challenge.

        Raises AccessError: those of `Tokens.read`, `auth.replayed`, `auth.signature` (whose text says why).
        """
        _, host, name, token, *more = [*signed.challenge.split(" "), "", "", "", ""][:5]
        if any(more):
            raise AccessError("auth.malformed", "this is no challenge")
        _, claims = self.tokens.read(token, Kind.CHALLENGE)
        if (
            signed.challenge != f"{NAMESPACE} {host} {claims.name} {token}"
            or name != claims.name
            or claims.audience != f"{self.process} {host}"
        ):
            raise AccessError("auth.replayed", "this challenge was given elsewhere", hint="ask for a new one")
        if not self.once.take(claims.id, claims.expires, now=self.tokens.clock()):
            raise AccessError("auth.replayed", "this challenge was used already", hint="ask for a new one")
        person = self.access.directory.read().find(name)
        signature = signed.signature.encode()
        try:
            async with self.verifying:
                await asyncio.to_thread(
                    verify, signed.challenge.encode(), signature, person.signers() if person else [], NAMESPACE
                )
            key = signed_by(signature)[0].fingerprint()
        except IntegrityError as error:
            logger.warning("%s did not log in: %s", name, error, extra={"fields": {"origin": self._origin(request)}})
            raise AccessError("auth.signature", error.message, hint="sign with a key of yours in hall.toml") from error
        assert person is not None  # a signature of nobody's key is not verified
        logger.info("%s logged in with %s", name, key, extra={"fields": {"origin": self._origin(request)}})
        return self._session(Claims(name=name, key=key), self.access.settings.session_seconds)

    def _session(self, claims: Claims, seconds: int) -> Session:
        role = self.access.role_now(claims)
        token = self.tokens.mint(Kind.SESSION, Claims(name=claims.name, key=claims.key), seconds=seconds)
        expires = self.tokens.read(token, Kind.SESSION)[1].expires
        return Session(token, claims.name, "root" if role.value == "root" else "organizer", expires)

    def _redeem(self, code: str) -> Session:
        """The session that a link opens. Raises AccessError."""
        _, claims = self.tokens.read(code, Kind.LINK)
        if claims.audience != self.process or claims.session_ends is None:
            raise AccessError("auth.replayed", "this link was made elsewhere", hint="make a new one")
        if not self.once.take(claims.id, claims.expires, now=self.tokens.clock()):
            raise AccessError("auth.replayed", "this link was used already", hint="make a new one")
        return self._session(claims, max(1, claims.session_ends - int(self.tokens.clock())))

    def _origin(self, request: HTTPConnection) -> str:
        return self.access.hop(request).origin

    def _with_cookie(self, answer: Response, session: Session) -> Response:
        answer.set_cookie(
            COOKIE,
            session.token,
            max_age=max(0, session.expires - int(self.tokens.clock())),
            secure=True,
            httponly=True,
            samesite="strict",
        )
        return answer

    # For programs

    async def challenge(self, request: Request) -> Challenge:
        """A text to sign. Everybody gets one, for whatever name."""
        hop = self._hop(request)
        return self._new_challenge(request, hop, (await read_body(request, Asked)).name)

    async def log_in(self, request: Request) -> Response:
        """A session for a signed challenge."""
        self._hop(request)
        check_origin(request, must=False)
        session = await self._open(request, await read_body(request, Signed))
        answer = Response(msgspec.json.encode(session), media_type="application/json")
        return self._with_cookie(answer, session)

    async def link(self, request: Request) -> Link:
        """Opens the session of who asks in a browser; what has no session has nothing to open."""
        self._hop(request)
        caller = self.access.caller(request)
        claims = self.access.session(request)
        if claims is None:
            raise AccessError("auth.denied", f"{caller.name or 'nobody'} has no session here", hint="backline login")
        made = Claims(name=claims.name, key=claims.key, audience=self.process, session_ends=claims.expires)
        code = self.tokens.mint(Kind.LINK, made, seconds=LINK_SECONDS)
        return Link(f"/login?code={code}", self.tokens.read(code, Kind.LINK)[1].expires)

    async def who(self, request: Request) -> Who:
        """Who is asking."""
        caller = self.access.caller(request)
        roles = sorted(role.value for role in caller.roles)
        return Who(caller.name, roles, sorted(caller.scopes), caller.origin)

    async def log_out(self, request: Request) -> Response:
        """Let the browser forget its session. A token stays good until it expires: throw it away."""
        check_origin(request, must=COOKIE in request.cookies)
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")
        return answer

    # For people

    async def page(self, request: Request) -> Response:
        """The page to log in: a name, then a text to sign in one's own shell, then the signature."""
        hop = self._hop(request)
        if request.method == "GET":
            code, onward = request.query_params.get("code"), request.query_params.get("next", "/")
            return _render(self.service, "open" if code else "name", code=code, next=onward)
        form: dict[str, str] = {}
        try:
            check_origin(request, must=hop.peer is None)
            form = await _form(request)
            if "code" in form:
                return self._welcome(self._redeem(form["code"]), form)
            if "signature" in form:
                signed = msgspec.convert({key: form.get(key, "") for key in ("challenge", "signature")}, Signed)
                return self._welcome(await self._open(request, signed), form)
            name = msgspec.convert({"name": form.get("name", "")}, Asked).name
            challenge = self._new_challenge(request, hop, name).challenge
        except (BacklineError, msgspec.ValidationError) as error:
            status = status_of(error) if isinstance(error, BacklineError) else 400
            message = error.message if isinstance(error, BacklineError) else "this is no name of an administrator"
            return _render(self.service, "name", status=status, problem=message, next=form.get("next", "/"))
        command = f"printf %s {shlex.quote(challenge)} | ssh-keygen -Y sign -n {NAMESPACE} -f ~/.ssh/id_ed25519"
        onward = form.get("next", "/")
        return _render(self.service, "sign", command=command, challenge=challenge, name=name, next=onward)

    def _welcome(self, session: Session, form: dict[str, str]) -> Response:
        onward = form.get("next", "/")
        answer = RedirectResponse(onward if _NEXT.fullmatch(onward) else "/", status_code=303)
        return self._with_cookie(answer, session)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a posted form. Raises UsageError("request.type")."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise UsageError("request.type", "the body is not a form")
    fields = parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)
    return {key: values[0].replace("\r\n", "\n") for key, values in fields.items()}


def _render(service: str, step: str, *, status: int = 200, **values: object) -> Response:
    from services.common.login_page import render  # Jinja2 only where somebody logs in

    nonce = secrets.token_urlsafe(16)
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'"
    headers = {
        "content-security-policy": f"{policy}; frame-ancestors 'none'",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    text = render(service=service, step=step, nonce=nonce, **values)
    return Response(text, status_code=status, headers=headers, media_type="text/html")
