"""A small checkout for tests, as git sees one: two roles, a seat with its initrd, two services, a table of ids."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from builder import config, recipe, resolve
from builder.lock import Lock, RoleRequest
from tests.builder import locks

FILES = {
    ".gitignore": "*.swp\n__pycache__/\n",
    "mkosi.conf": "[Distribution]\nDistribution=debian\nRelease=trixie\n\n[Output]\nFormat=directory\n",
    "mkosi.conf.d/10-content.conf": "[Content]\nWithDocs=no\n\n[Build]\nEnvironment=\n    INITRD=No\n",
    "images/base/mkosi.conf": "[Content]\nPackages=\n    bash\n    systemd\n",
    "images/base/image.toml": 'services = ["one"]\nwheels = "image"\n',
    "images/base/mkosi.extra/etc/motd": "welcome\n",
    "images/base/mkosi.skeleton/etc/early": "early\n",
    "images/gw/mkosi.conf": "[Include]\nInclude=../base\n\n[Content]\nPackages=nginx\nRemoveFiles=/usr/share/man\n",
    "images/gw/image.toml": "publish = true\n",
    "images/gw/mkosi.extra/etc/nginx/nginx.conf": "events {}\n",
    "images/gw/mkosi.postinst.chroot": "#!/bin/sh\nexit 0\n",
    "images/web/mkosi.conf": "[Include]\nInclude=../base\n",
    "images/web/image.toml": 'publish = true\nservices = ["two"]\n',
    "images/web/mkosi.extra/etc/web": "web\n",
    "images/seat/mkosi.conf": "[Include]\nInclude=../base\n\n[Content]\nPackages=linux-image-amd64\n",
    "images/seat/image.toml": 'publish = true\nkernel = true\n\n[initrd]\nmodules = ["erofs"]\n',
    "images/initrd/mkosi.conf": "[Content]\nPackages=systemd\n",
    "images/initrd/mkosi.extra/usr/lib/mount-root": "#!/bin/sh\n",
    "images/tools/mkosi.conf": "[Content]\nPackages=mkosi\n",
    "images/ids.toml": (
        "id = [\n"
        '    { name = "www", uid = 220, gid = 220, needs = ["nginx"] },\n'
        '    { name = "backline-one", uid = 20100, gid = 20100, needs = ["one"] },\n'
        '    { name = "backline-two", uid = 20200, gid = 20200, needs = ["two"] },\n'
        "]\n"
    ),
    "requirements/image.txt": "idna==1.0\n",
    "pyproject.toml": '[project]\nname = "backline"\n',
    "services/__init__.py": "",
    "services/common/__init__.py": "",
    "services/common/main.py": '"""The root program."""\n',
    "services/common/shared.py": '"""What both services import."""\n',
    "services/common/unused.py": '"""What nobody imports."""\n',
    "services/one/__init__.py": "",
    "services/one/app.py": "from services.common import shared\nfrom services.one.schema import Thing\n",
    "services/one/schema.py": "class Thing: ...\n",
    "services/one/templates/page.html": "<p>\n",
    "services/two/__init__.py": "",
    "services/two/app.py": "import services.common.shared\n",
    "units/backline-one.service": "[Service]\n",
    "units/backline-one-sync.timer": "[Timer]\n",
    "units/backline-two.service": "[Service]\n",
    "docs/builder.md": "# The builder\n",
    "tests/test_one.py": "def test_one(): ...\n",
    "e2e/lan.py": "LAN = 1\n",
}
SCRIPTS = ("images/gw/mkosi.postinst.chroot", "images/initrd/mkosi.extra/usr/lib/mount-root")

PARENTS = {"base": None, "gw": "base", "web": "base", "seat": "base", "initrd": None, "tools": None}
_EVERYWHERE = ("base", "gw", "seat", "web")


def make(root: Path, *, git: bool = True) -> Path:
    """Write the checkout into the new folder `root`."""
    for name, text in FILES.items():
        write(root, name, text)
    for name in SCRIPTS:
        (root / name).chmod(0o755)
    if git:
        subprocess.run(
            ["git", "init", "--quiet", "--template=", root],
            check=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(root)},
        )
    return root


def write(root: Path, name: str, text: str) -> None:
    """Write one file of a checkout, with its folders."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def lock_of(root: Path) -> Lock:
    """A lock that fits the checkout."""
    packages = [
        locks.package("bash", roles=_EVERYWHERE),
        locks.package("linux-image-amd64", roles=["seat"]),
        locks.package("mkosi", roles=["tools"]),
        locks.package("nginx", roles=["gw"]),
        locks.package("systemd", roles=[*_EVERYWHERE, "initrd"]),
    ]
    requests = {
        role: RoleRequest(request=config.load(root, role).packages, parent=parent) for role, parent in PARENTS.items()
    }
    return locks.lock(
        packages,
        [locks.wheel("idna"), locks.wheel("pytest", sets=["dev"])],
        roles=requests,
        requirements=resolve.requirement_hashes(root) | {"dev": "0" * 64},
    )


def edit_package(lock: Lock, name: str, **fields: object) -> Lock:
    """The lock with other fields in one package."""
    packages = [
        msgspec.structs.replace(package, **fields) if package.name == name else package for package in lock.packages
    ]
    assert packages != lock.packages
    return msgspec.structs.replace(lock, packages=packages)


def recipe_of(root: Path, role: str, lock: Lock | None = None) -> recipe.Recipe:
    """The recipe of a role as the files are now."""
    config._load.cache_clear()
    return recipe.of_image(root, role, lock or lock_of(root))
