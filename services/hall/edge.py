"""What nginx on gw does: the one network edge of gw's services. Pure: from a hall to the text of its servers.

Promises: a service is reached by its name, netboot by gw's addresses too, and nothing else is there. What our services
believe of a caller (`services.common.access`) is what nginx has seen itself: each of these headers is set here, always,
whatever a client sent. Machines of the hall come in, those without a registration to netboot alone, the world not.

`images/gw/mkosi.extra/etc/nginx/backline.conf` includes it. Format: nginx's reference, modules http_core, http_proxy,
http_ssl, http_access, http_limit_conn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.hall.schema import Hall, Purpose

CONFIGURATION = "/run/backline/nginx.d/50-hall.conf"
CREDENTIAL = "backline.tls"
"""Certificate and key in one PEM (`services.hall.certificates`), for nginx.service and backline-hall.service."""
CERTIFICATE = f"/run/credentials/nginx.service/{CREDENTIAL}"
CA = "/run/backline/ca.pem"
SSO = "sso"
"""The service that nginx alone asks; it is no site."""
SSO_PROTECT = (
    "auth_request /__sso;",
    "auth_request_set $sso_user $upstream_http_x_sso_user;",
    "auth_request_set $sso_answer $upstream_http_x_sso_status;",
    # For those who wonder why a page does not know them.
    "add_header X-SSO-User $sso_user always;",
    "add_header X-SSO-Status $sso_status always;",
)
"""In a location: what it passes on has the headers X-SSO-User and X-SSO-Status of the server."""
STREAMS = 16
"""How many streams of feeds and pages one address may have, which end by themselves never: services have room for so
many, and a seat shall not fill it. Of other connections it is backline.conf that says how many.
"""
_STATIC = {"/ipxe/": "/usr/lib/ipxe/", "/static/htmx/": "/usr/share/javascript/htmx/"}
_BAD_CERTIFICATE = (
    '{"type":"urn:backline:problem:auth.certificate","title":"Unauthorized","status":401,'
    '"detail":"the client certificate is not good: $ssl_client_verify","code":"auth.certificate"}'
)
_DOWN = (
    '{"type":"urn:backline:problem:http.service-unavailable","title":"Service Unavailable","status":503,'
    '"detail":"the service does not answer","code":"http.service-unavailable"}'
)


@dataclass(frozen=True)
class Site:
    """A service behind the edge. `bodies`: the largest it takes; `aliens`: whether they may call it."""

    name: str
    bodies: str
    service: str = ""
    """Whose socket it is, where that is not called as the site."""
    aliens: bool = False
    addresses: bool = False
    """Whether it is there under gw's addresses as well."""
    streams: bool = False
    """Whether it takes bodies as they come, and not when they are whole."""
    feeds: tuple[str, ...] = ("/v1/feed",)
    """What is handed on as it comes, however long nothing does."""
    files: str | None = None
    """A folder that is there under /files/."""
    packed: bool = False
    """Whether its pages are compressed: where they are large, and have no secret whose length could tell something."""
    sso: bool = False
    """Whether its pages are told who sits at the caller's address (docs/sso.md)."""


SITES = (
    Site("mdb", "17m", sso=True),
    Site("udb", "17m", feeds=("/v1/feed", "/v1/feed/private"), sso=True),
    Site("netboot", "1m", aliens=True, addresses=True),
    Site("depot", "65m", streams=True, files="/var/lib/backline-depot/files/"),
    Site("rollout", "1m"),
    Site("overview", "1m"),
    Site("presence", "1m"),
    Site("map", "1m", service="usermap", feeds=("/v1/feed", "/events"), packed=True),
    Site("firewall", "1m"),
)
"""As the applications of mdb and udb allow 16 MiB for an import, the depot 64 MiB for a piece of a file, and all others
the megabyte of `services.common.app`.
"""


def servers(hall: Hall, *, tls: bool) -> str:
    """nginx's servers for a hall; with `tls`, for its certificate as well."""
    blocks = [
        f"upstream {name} {{\n    server unix:/run/backline/{service}.sock;\n    keepalive 32;\n"
        # Shorter than the 30 s after which a service closes it: who is first must be nginx.
        "    keepalive_timeout 20s;\n}\n"
        for name, service in (*((site.name, site.service or site.name) for site in SITES), (SSO, SSO))
    ]
    blocks.append("limit_conn_zone $binary_remote_addr zone=streams:1m;\n")
    blocks.append(_block("map $sso_answer $sso_status", ['"" unavailable;', "default $sso_answer;"]))
    blocks.append(_nowhere("80 default_server", tls=False))
    blocks += [_server(hall, site, tls=False, redirect=tls) for site in SITES]
    if tls:
        blocks.append(_nowhere("443 ssl default_server", tls=True))
        blocks += [_server(hall, site, tls=True, redirect=False) for site in SITES]
    return "# From hall.toml, by backline-hall.service: changes here are lost.\n" + "\n".join(blocks)


def _nowhere(listen: str, *, tls: bool) -> str:
    """The server of names that are none of ours; TLS without a name (an address) begins here, too."""
    lines = [f"listen {listen};", *(_identity() if tls else []), "return 404;"]
    return _block("server", lines)


def _identity() -> list[str]:
    """Who we are, and who may say that he is a host of the hall: whose certificate is not good gets no further."""
    ours = [f"ssl_certificate {CERTIFICATE};", f"ssl_certificate_key {CERTIFICATE};"]
    return [*ours, f"ssl_client_certificate {CA};", "ssl_verify_client optional;"]


def _server(hall: Hall, site: Site, *, tls: bool, redirect: bool) -> str:
    domain = hall.site.domain
    names = [f"{site.name}.{domain}", site.name]
    if site.addresses:
        names += [str(address) for nic in hall.gateway.nics for address in nic.addresses.values()]
    lines = [f"listen {'443 ssl' if tls else '80'};", f"server_name {' '.join(names)};"]
    if tls:
        lines += [*_identity(), "error_page 495 =401 @certificate;"]
    lines += [*_who_comes_in(hall, site), f"client_max_body_size {site.bodies};", "error_page 502 504 =503 @down;"]
    if site.packed:
        lines += ["gzip on;", "gzip_proxied any;", "gzip_types image/svg+xml application/json;"]  # and text/html
    if site.streams:
        lines.append("proxy_request_buffering off;")
    blocks = [_location("/", [*(SSO_PROTECT if site.sso else ()), f"proxy_pass http://{site.name};"])]
    if site.sso:
        lines += ['set $sso_user "";', 'set $sso_answer "";']
        blocks += sso_handler()
    if site.files is not None:
        blocks.append(_location("/files/", [f"alias {site.files};", "limit_except GET { deny all; }"]))
    for feed in site.feeds:
        as_it_comes = [f"proxy_pass http://{site.name};", "proxy_buffering off;", "proxy_read_timeout 1h;"]
        blocks.append(_location(f"= {feed}", [*as_it_comes, f"limit_conn streams {STREAMS};"]))
    for place, folder in _STATIC.items():
        blocks.append(_location(place, [f"alias {folder};", "limit_except GET { deny all; }"]))
    if (
        redirect
    ):  # a session never travels in the clear: browsers are sent to TLS, programs get an answer of the service
        blocks.append(_location("= /login", [f"return 308 https://{site.name}.{domain}$request_uri;"]))
    problem = "default_type application/problem+json;"
    blocks.append(_location("@down", [problem, f"return 503 '{_DOWN}';"]))
    if tls:
        blocks.append(_location("@certificate", [problem, f"return 401 '{_BAD_CERTIFICATE}';"]))
    headers = {
        "Host": "$http_host",  # with the port, as a browser's Origin has it; HTTP/2, which has no such header, is off
        "X-Real-IP": "$remote_addr",
        "X-Forwarded-Proto": "$scheme",
        "X-Forwarded-For": '""',
        "X-Client-Verify": "$ssl_client_verify" if tls else '""',
        "X-Client-Subject": "$ssl_client_s_dn" if tls else '""',
        "X-SSO-User": "$sso_user" if site.sso else '""',
        "X-SSO-Status": "$sso_status" if site.sso else '""',
        "Connection": '""',
    }
    lines += [f"proxy_set_header {name} {value};" for name, value in headers.items()]
    return _block("server", lines, blocks)


def sso_handler() -> list[str]:
    """Locations of a server whose pages are told who sits at the caller's address (module http_auth_request).

    Whatever the service does, nobody is kept out: without an answer the caller is anonymous.
    """
    asking = [
        "internal;",
        f"proxy_pass http://{SSO}/v1/whois;",
        "proxy_pass_request_body off;",
        "proxy_pass_request_headers off;",
        f"proxy_set_header Host {SSO};",
        'proxy_set_header Connection "";',
        "proxy_set_header X-Real-IP $remote_addr;",
        "proxy_connect_timeout 1s;",
        "proxy_send_timeout 1s;",
        "proxy_read_timeout 1s;",
        "proxy_intercept_errors on;",
        "error_page 400 401 403 408 413 429 500 502 503 504 =204 @sso_away;",
    ]
    return [_location("= /__sso", asking), _location("@sso_away", ["return 204;"])]


def _who_comes_in(hall: Hall, site: Site) -> list[str]:
    """Machines of the hall's networks and of gw itself; nobody from upstream."""
    aliens = hall.network_for(Purpose.ALIENS)
    closed = aliens[0] if aliens is not None and not site.aliens else None
    networks = [str(network.cidr) for name, network in hall.networks.items() if name != closed]
    return [*(f"allow {network};" for network in ["127.0.0.0/8", *networks]), "deny all;"]


def _location(match: str, lines: Iterable[str]) -> str:
    return _block(f"location {match}", lines)


def _block(head: str, lines: Iterable[str], blocks: Iterable[str] = ()) -> str:
    inner = [*lines, *(line for block in blocks for line in ["", *block.rstrip("\n").split("\n")])]
    return f"{head} {{\n" + "".join(f"    {line}".rstrip() + "\n" for line in inner) + "}\n"
