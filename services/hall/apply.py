"""Bring a hall.toml into force on this machine: find, check, render, check again, switch, tell.

Promises: whatever goes wrong, and wherever the process dies, the last good set of files stays in force as a whole.
Without a hall.toml a machine comes up unconfigured and says so, on its console and in the journal; it never guesses.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from services.common import toml
from services.common.errors import BacklineError, InputError
from services.common.identity import read_identity
from services.hall import edge, load, verify
from services.hall.daemons import Daemons
from services.hall.generations import Generation, Generations, differences, inside, write_atomically
from services.hall.render import Identity, identify, render

CREDENTIAL = "backline.hall"
ROLE = "backline.role"
KEPT = "/run/backline/hall/credentials"
OVERRIDE = "/run/backline/hall/override.toml"
UNCONFIGURED = "/run/backline/unconfigured"
ISSUE = "/run/issue.d/backline.issue"
_PLACES = ("/etc/backline/hall.toml", "/run/backline/hall.toml")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What `apply` did."""

    configured: bool
    reason: str | None = None
    source: str | None = None
    role: str | None = None
    hostname: str | None = None
    generation: int | None = None
    changed: list[str] = []
    told: list[str] = []
    warnings: list[str] = []


def find(root: Path, environment: Mapping[str, str]) -> Path | None:
    """The hall.toml of this machine, or None.

    In this order: one that was handed to the running machine, the credential backline.hall (systemd.exec(5)),
    /etc/backline/hall.toml, and the one that the initrd of a seat left in /run.
    """
    candidates = [inside(root, OVERRIDE), Path(_credentials(root, environment), CREDENTIAL)]
    candidates += [inside(root, place) for place in _PLACES]
    return next((path for path in candidates if path.exists()), None)


def _credentials(root: Path, environment: Mapping[str, str]) -> str:
    """The folder of our credentials: the one that systemd names when it starts the unit, else our copy of it."""
    return environment.get("CREDENTIALS_DIRECTORY") or str(inside(root, KEPT))


def _keep_credentials(root: Path, environment: Mapping[str, str]) -> None:
    """Copy our credentials, which hold no secret: a unit cannot read its own in ExecReload (seen with systemd 257)."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    for name in (CREDENTIAL, ROLE) if folder else ():
        kept = inside(root, f"{KEPT}/{name}")
        try:
            content = Path(folder or "", name).read_bytes()
        except FileNotFoundError:
            kept.unlink(missing_ok=True)
        else:
            write_atomically(kept, content)


def apply(root: Path, daemons: Daemons, *, environment: Mapping[str, str] | None = None) -> Outcome:
    """Bring the hall.toml that `find` finds into force.

    Without one, and without a set in force, the machine is marked unconfigured, which is no failure. Raises InputError
    when it is refused, BusyError when another process is at it, ProcessFailed when a daemon could not be told; what was
    in force stays, and a machine that has nothing in force is marked unconfigured.
    """
    environ = os.environ if environment is None else environment
    generations = Generations(root)
    with generations.lock():
        _keep_credentials(root, environ)
        before = generations.current()
        source = find(root, environ)
        if source is None and before is None:
            reason = "there is no hall.toml"
            mark_unconfigured(root, reason)
            return Outcome(configured=False, reason=reason)
        try:
            if source is None:
                raise InputError(
                    "hall.missing",
                    "there is no hall.toml any more",
                    hint=f"put it into {inside(root, _PLACES[0])} or {inside(root, OVERRIDE)}",
                )
            told_role = read_identity({"CREDENTIALS_DIRECTORY": _credentials(root, environ)}, root=root).role
            role = told_role or (before.identity.role if before else None)
            tls, warnings = _has_certificate(environ, before)
            after, identity = _adopt(generations, source, role, daemons, tls=tls)
        except BacklineError as error:
            if before is None:
                mark_unconfigured(root, str(error))
            else:
                kept = f"set {before.number} stays in force"
                error.hint = f"{error.hint}; {kept}" if error.hint else kept
            raise
        for mark in (UNCONFIGURED, ISSUE):
            inside(root, mark).unlink(missing_ok=True)
        warnings += [f"this image does not link {target} to the hall's" for target in generations.unlinked()]
        if daemons.hostname() != identity.hostname:
            daemons.set_hostname(identity.hostname)
        changed = differences(generations.told(), after)
        told = daemons.tell(changed)
        generations.mark_told(after)
        generations.tidy()
    return Outcome(
        configured=True,
        source=str(source),
        role=identity.role,
        hostname=identity.hostname,
        generation=after.number,
        changed=sorted(changed),
        told=told,
        warnings=warnings,
    )


def _has_certificate(environment: Mapping[str, str], before: Generation | None) -> tuple[bool, list[str]]:
    """Whether nginx has a certificate to serve with, and why not when it is no good: that must not stop a hall.

    A reload sees no credentials; what was so at the start is so still.
    """
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return before is not None and before.identity.tls, []
    path = Path(folder, edge.CREDENTIAL)
    if not path.exists():
        return False, []
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
    except (OSError, ssl.SSLError) as error:
        return False, [f"the certificate in credential {edge.CREDENTIAL} is no good, there is no HTTPS: {error}"]
    return True, []


def _adopt(
    generations: Generations, source: Path, role: str | None, daemons: Daemons, *, tls: bool
) -> tuple[Generation, Identity]:
    """Render `source` and put it into force, unless just that is in force already."""
    document = toml.load(source, area="hall")
    hall = load.check(document)
    identity = identify(hall, role, daemons.hostname())
    identity = replace(identity, tls=tls and identity.role == "gw")
    files = render(hall, identity)
    verify.check(files)
    current = generations.current()
    if current and (current.source, current.identity, current.files()) == (document.text, identity, files):
        return current, identity
    staged = generations.stage(files, source=document.text, identity=identity)
    daemons.check(staged / "files")
    return generations.adopt(staged), identity


def mark_unconfigured(root: Path, reason: str) -> None:
    """Say on the console, and to units that look, that this machine has no hall."""
    write_atomically(inside(root, UNCONFIGURED), f"{reason}\n".encode())
    shown = reason.replace("\\", "\\\\")  # agetty(8) expands backslashes
    write_atomically(
        inside(root, ISSUE),
        (
            f"\nBackline: this machine is not configured: {shown}\n"
            "It offers nothing to the network. Give it a hall.toml: `backline init` makes one, docs/hall.md says how\n"
            "it gets here. Then: systemctl restart backline-hall.service\n\n"
        ).encode(),
    )


def in_force(root: Path) -> Outcome:
    """What is in force now; changes nothing."""
    generation = Generations(root).current()
    if generation is None:
        try:
            reason = inside(root, UNCONFIGURED).read_text().strip()
        except OSError:
            reason = "backline-hall.service has not run"
        return Outcome(configured=False, reason=reason)
    identity = generation.identity
    return Outcome(
        configured=True, role=identity.role, hostname=identity.hostname, generation=generation.number, changed=[]
    )
