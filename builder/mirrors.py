"""Where Debian packages come from: the host's own apt configuration, or a setting. No mirror is named in the project.

A lock holds pool-relative paths and the name of the archive ("debian" or "debian-security"); this module turns an
archive's name into base addresses to try, in order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from builder.settings import Settings
from services.common.errors import InputError
from services.common.process import run

ARCHIVES = ("debian", "debian-security")
_FORMAT = "$(LABEL)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
_SCHEMES = ("http://", "https://", "file:")


@dataclass(frozen=True)
class Mirrors:
    """Base address of each archive, with a slash at the end, and of its snapshot where one is set.

    `proxies` maps a scheme ("http") to the proxy that apt is told to use for it.
    """

    live: dict[str, str]
    snapshot: dict[str, str]
    proxies: dict[str, str] = field(default_factory=dict)

    def candidates(self, archive: str) -> list[str]:
        """Base addresses for `archive`, the live mirror first."""
        return [base[archive] for base in (self.live, self.snapshot) if archive in base]


def parse_targets(text: str) -> dict[str, str]:
    """Archive → base address from `apt-get indextargets` lines "label|release|component|address".

    The label comes from the archive's own signed Release file and is empty before the first `apt-get update`; then
    the suite's name and the address's last folder have to do.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split("|", 3)
        if len(words) < 4 or words[2] != "main":
            continue
        label, release, _, address = words
        address = _plain(address)
        if not address.startswith(_SCHEMES):
            continue  # a CD, say
        last = address.rstrip("/").rpartition("/")[2]
        if label == "Debian-Security" or (not label and last == "debian-security" and release.endswith("-security")):
            archive = "debian-security"
        elif label == "Debian" or (not label and last == "debian"):
            archive = "debian"
        else:
            continue
        found.setdefault(archive, address.rstrip("/") + "/")
    return found


def _plain(address: str) -> str:
    """An address that files can be fetched from: of a list of mirrors in a file (apt-transport-mirror(1)) the first."""
    scheme, _, path = address.partition(":")
    if scheme != "mirror+file":
        return address
    try:
        lines = [line.split()[0] for line in Path("/" + path.strip("/")).read_text().splitlines() if line.split()]
    except OSError:
        return address
    return next((line for line in lines if not line.startswith("#")), address)


def discover(settings: Settings, *, epoch: int | None = None) -> Mirrors:
    """The mirrors in force: settings first, the host's apt configuration else.

    `epoch` (seconds) is the lock's, for the snapshot address. Raises InputError: "mirror.unknown" when an archive has
    no address, "mirror.snapshot" for an address with other fields than {archive} and {stamp}.
    """
    live = {
        name: address
        for name, address in (("debian", settings.mirror), ("debian-security", settings.security_mirror))
        if address
    }
    if len(live) < len(ARCHIVES):
        targets = run(["apt-get", "indextargets", "--format", _FORMAT, "Identifier: Packages"], check=False)
        live = parse_targets(targets.stdout) | live
    missing = [name for name in ARCHIVES if name not in live]
    if missing:
        raise InputError(
            "mirror.unknown",
            f"this host's apt configuration names no mirror for {' and '.join(missing)}",
            hint="set BACKLINE_BUILD_MIRROR and BACKLINE_BUILD_SECURITY_MIRROR, or give --mirror and --security-mirror",
        )
    live = {name: address.rstrip("/") + "/" for name, address in live.items()}
    snapshot: dict[str, str] = {}
    if settings.snapshot and epoch is not None:
        stamp = datetime.fromtimestamp(epoch, UTC).strftime("%Y%m%dT%H%M%SZ")
        try:
            found = {name: settings.snapshot.format(archive=name, stamp=stamp) for name in ARCHIVES}
        except (LookupError, ValueError, AttributeError) as error:
            raise InputError(
                "mirror.snapshot",
                f"not an address with {{archive}} and {{stamp}}: {settings.snapshot}",
                where="BACKLINE_BUILD_SNAPSHOT",
            ) from error
        snapshot = {name: address.rstrip("/") + "/" for name, address in found.items()}
    return Mirrors(live, snapshot, parse_proxies(acquire_options()))


def parse_proxies(text: str) -> dict[str, str]:
    """Scheme → proxy from `Acquire::http::Proxy "http://host:port/";` lines of `apt-config dump` (apt.conf(5))."""
    found = re.findall(r'^Acquire::(https?)::Proxy "([^"]+)";$', text, re.MULTILINE)
    return {scheme: proxy for scheme, proxy in found if proxy != "DIRECT"}


def acquire_options() -> str:
    """The host's own `Acquire::` settings (proxies, certificates, time-outs) as an apt.conf fragment."""
    lines = []
    for line in run(["apt-config", "dump"]).stdout.splitlines():
        key = line.partition(" ")[0]
        if key.startswith(("Acquire::http", "Acquire::https", "Acquire::Retries")) and not key.endswith("::"):
            lines.append(line)
    return "\n".join(lines) + "\n"
