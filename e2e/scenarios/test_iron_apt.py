"""`backline host init` on a plain Debian 13 that lacks what it needs: apt brings it, from wherever it looks there.

Here that is a folder with the locked packages, so no mirror is named or asked. apt itself, which no image has, is
installed first, as every Debian has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.image import Shop
from builder.pool import Pool, make_repository
from builder.store import Store
from e2e import halls, topology
from e2e.iron import VERSIONS, Iron
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.power import Disk

pytestmark = [
    pytest.mark.full,
    pytest.mark.images,
    pytest.mark.needs("root", "cgroup2", "namespaces", "systemd-nspawn", "overlayfs", "loop devices"),
]
TOPOLOGY = """
name = "apt"
[segments.bench]
[nodes.iron]
role = "rhfs"
hall = false
nics = [{ segment = "bench" }]
"""
PACKAGES = "/srv/packages"
FIRST = ("apt", "libapt-pkg", "sqv", "gpgv", "debian-archive-keyring", "libxxhash0")
"""The packages by which apt comes to be there; it brings what else it needs."""
SOURCE = f"Types: deb\nURIs: file:{PACKAGES}\nSuites: trixie\nComponents: main\nTrusted: yes\n"
APT = """
export DEBIAN_FRONTEND=noninteractive
dpkg --force-depends --install "$@"
apt-get update
apt-get install --yes --no-install-recommends --fix-broken
dpkg --purge --force-depends python3-pystemd
rm -rf /var/lib/apt/lists/*
"""


@pytest.fixture(scope="module")
def iron(labs: Labs, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iron]:
    labs.close()
    store, pool = Store(shop.settings.store_path), Pool(shop.settings.cache_path / "pool")
    ref = store.current("rhfs")
    assert ref is not None
    packages = {package.name: package for role in ("rhfs", "tools") for package in shop.lock.of(role)}
    repository = tmp_path_factory.mktemp("packages")
    make_repository(pool, list(packages.values()), repository, suite="trixie", epoch=shop.lock.epoch)
    with Lab(topology.parse(TOPOLOGY, where=Path("apt.toml")), settings=shop.settings) as lab:
        node = lab["iron"]
        node.binds[f"{VERSIONS}-first"] = f"ro:{store.find(ref.role, ref.version)}"
        node.binds[PACKAGES] = f"ro:{repository}"
        disk = Disk.of(node, "/var/lib/backline-machines", megabytes=64)
        lab.start()
        if lab.roots.extract:
            pytest.skip("missing capability: EROFS from a file (Linux 6.12)")
        made = Iron(node, disk)
        made.take_away()
        node.put("/etc/apt/sources.list.d/here.sources", SOURCE)
        node.put("/etc/apt/apt.conf.d/50-here", 'APT::Sandbox::User "root";\n')
        files = sorted(path.name for path in (repository / "pool").iterdir() if path.name.startswith(FIRST))
        node.run(["sh", "-exc", APT, "sh", *(f"{PACKAGES}/pool/{name}" for name in files)], seconds=300)
        yield made


@pytest.fixture(scope="module")
def hall() -> str:
    return halls.make().text


def test_what_is_missing_of_debian_is_installed_by_apt(iron: Iron, hall: str) -> None:
    assert iron.node.fails("dpkg-query", "--status", "systemd-container", "python3-pystemd").returncode != 0
    said = iron.init(f"{VERSIONS}-first", hall)
    assert "installed systemd-container\n" in said
    assert "installed python3-pystemd\n" in said
    assert "this host is iron" in said
    for name in ("systemd-container", "python3-pystemd"):
        assert iron.node.succeeds("dpkg-query", "-W", "-f", "${db:Status-Status}", name) == "installed"
    assert "active" in iron.node.succeeds("backline", "host", "units", "backline-hostd.service")
    assert iron.machine("list") == ""


def test_apt_is_not_asked_again(iron: Iron, hall: str) -> None:
    iron.node.succeeds("mv", "/usr/bin/apt-get", "/usr/bin/apt-get.away")
    assert iron.init(f"{VERSIONS}-first", hall) == "this host is iron; nothing was to do\n"
