"""What an image folder says: its mkosi.conf (and those it includes), and its image.toml.

mkosi reads the same files itself; here they are read once more for the lock and the recipe, with the file and line of
every mistake. Only settings that the builder hands on are accepted: one that it does not know is an error, never
ignored.
"""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.common.errors import InputError, UsageError, nearest
from services.common.process import run

TOOLS = "tools"
INITRD = "initrd"

# Section → settings that the builder hands on to mkosi; the lists collect, the others replace.
_LISTS = {
    ("Content", "Packages"),
    ("Content", "RemoveFiles"),
    ("Build", "Environment"),
    ("Distribution", "Repositories"),
}
_SCALARS = {
    ("Config", "MinimumVersion"),
    ("Distribution", "Distribution"),
    ("Distribution", "Release"),
    ("Distribution", "Architecture"),
    ("Output", "Format"),
    ("Output", "ManifestFormat"),
    ("Content", "WithRecommends"),
    ("Content", "WithDocs"),
    ("Content", "Bootable"),
    ("Content", "CleanPackageMetadata"),
    ("Content", "Locale"),
    ("Content", "Timezone"),
}
_INCLUDE = ("Include", "Include")
# Files of an image folder that mkosi picks up by name; anything else there is a mistake.
_TREES = ("mkosi.extra", "mkosi.skeleton")
_SCRIPTS = ("mkosi.postinst.chroot", "mkosi.finalize")
_KNOWN = {*_TREES, *_SCRIPTS, "mkosi.conf", "image.toml"}


# A service is the package services/NAME, but for those that are a room of the house by themselves.
ROOMS = ("netboot",)


def known_services(root: Path) -> list[str]:
    """The names of all services, sorted."""
    rooms = [name for name in ROOMS if (root / name / "__init__.py").is_file()]
    return sorted([*rooms, *(found.parent.name for found in (root / "services").glob("*/__init__.py"))])


class Initrd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of the root's kernel goes into its initrd: module names, or folders below the modules' (with a "/")."""

    modules: list[str] = []
    exclude: list[str] = []


class ImageToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """image.toml: what mkosi.conf has no word for. Values of the included image hold where one is not given."""

    services: list[str] | None = None
    """Services baked in, with everything they import."""
    wheels: str | None = None
    """Requirement set (requirements/<set>.txt) whose wheels are baked in."""
    kernel: bool = False
    """The image boots by itself: the builder takes kernel and initrd out of it."""
    publish: bool = False
    """A role of its own, for `build image`; the others are only parts of roles."""
    initrd: Initrd | None = None
    """Kernel modules and firmware for the initrd."""


class Setting(NamedTuple):
    """One assignment of a mkosi.conf, with its values and where it stands."""

    section: str
    name: str
    values: list[str]
    where: str


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image folder, everything that it includes taken in.

    `chain` is the folders from the first included to its own (relative to the checkout); `packages` are sorted names;
    `settings` maps "Section.Name" to its value, lists joined by newlines.
    """

    role: str
    chain: list[str]
    packages: list[str]
    settings: dict[str, str]
    remove: list[str]
    environment: list[str]
    services: list[str]
    wheels: str | None
    kernel: bool
    publish: bool
    initrd: Initrd

    @property
    def parent(self) -> str | None:
        """The image that this one includes, None for one that stands alone."""
        return Path(self.chain[-2]).name if len(self.chain) > 1 else None


def parse_conf(text: str, where: str) -> list[Setting]:
    """The settings of a mkosi.conf (mkosi's parse_ini: "#" begins a comment anywhere, an indented line continues).

    Raises InputError("image.conf") with file and line.
    """
    section = ""
    settings: list[Setting] = []
    continues = False
    for number, line in enumerate(text.splitlines(), 1):
        here = f"{where}:{number}"
        line = line.partition("#")[0].rstrip()
        stripped = line.strip()
        if not stripped:
            continue
        if line[0].isspace():
            if not continues:
                raise InputError("image.conf", "an indented line continues nothing", where=here)
            settings[-1].values.append(stripped)
        elif stripped.startswith("["):
            section = stripped[1:-1].strip()
            if not stripped.endswith("]") or not section:
                raise InputError("image.conf", f"not a section: {stripped}", where=here)
            continues = False
        else:
            name, equals, value = line.partition("=")
            if not equals or not section or not name.strip():
                raise InputError("image.conf", f"neither a section nor a setting: {stripped}", where=here)
            settings.append(Setting(section, name.strip(), [value.strip()] if value.strip() else [], here))
            continues = True
    return settings


def words(setting: Setting) -> list[str]:
    """The items of a list setting, as mkosi splits them: at line ends and commas, environment variables at spaces.

    Raises InputError("image.conf") for an empty list, which would make mkosi forget what was said before.
    """
    lines = [line.strip() for value in setting.values for line in value.split(",")]
    found = [word for line in lines for word in (line.split() if setting.name == "Environment" else [line]) if word]
    if not found:
        raise InputError("image.conf", f"{setting.name}= without a value", where=setting.where)
    if spaced := next((word for word in found if setting.name == "Packages" and " " in word), None):
        raise InputError("image.conf", f"{spaced!r} is no package", where=setting.where, hint="one package a line")
    return found


def roles(root: Path) -> list[str]:
    """Every image folder's name, sorted."""
    return sorted(path.name for path in (root / "images").iterdir() if (path / "mkosi.conf").is_file())


def published(root: Path) -> list[str]:
    """The roles that `build image` builds."""
    return [role for role in roles(root) if load(root, role).publish]


def require_role(root: Path, role: str) -> Image:
    """The image of a role that can be built. Raises UsageError("role.unknown") with the nearest names."""
    known = published(root)
    if role not in known:
        raise UsageError(
            "role.unknown", f"no role {role!r}", hint=nearest(role, known) or f"roles are {', '.join(known)}"
        )
    return load(root, role)


def load(root: Path, role: str) -> Image:
    """Read one image folder. Raises InputError with file and line for every mistake in it."""
    return _load(root, role, ())


@lru_cache
def _load(root: Path, role: str, below: tuple[str, ...]) -> Image:
    """One image folder, which `below` include: the last of them directly."""
    folder = root / "images" / role
    if not (folder / "mkosi.conf").is_file():
        raise InputError("image.missing", f"there is no image folder {role!r}", where=f"images/{role}/mkosi.conf")
    own = _own_settings(root, folder / "mkosi.conf")
    includes = [setting for setting in own if (setting.section, setting.name) == _INCLUDE]
    parent: Image | None = None
    if includes:
        value = " ".join(includes[0].values)
        target = (folder / value).resolve()
        if len(includes) > 1 or target.parent != (root / "images").resolve() or not (target / "mkosi.conf").is_file():
            near = nearest(value, [f"../{name}" for name in roles(root) if name != role])
            raise InputError(
                "image.include",
                f"Include={value}: it names one other folder of images/",
                where=includes[0].where,
                hint=near,
            )
        if target.name in (role, *below):
            circle = " → ".join((*below, role, target.name))
            raise InputError("image.include", f"an image cannot include itself: {circle}", where=includes[0].where)
        parent = _load(root, target.name, (*below, role))
    shared = [] if parent else _shared_settings(root)
    _check_folder(root, folder)
    toml = _read_toml(root, folder / "image.toml")

    settings: dict[str, str] = dict(parent.settings) if parent else {}
    lists: dict[str, list[str]] = {
        "Packages": list(parent.packages) if parent else [],
        "RemoveFiles": list(parent.remove) if parent else [],
        "Environment": list(parent.environment) if parent else [],
        "Repositories": settings.get("Distribution.Repositories", "").split(),
    }
    for setting in [*shared, *own]:
        if (setting.section, setting.name) in _LISTS:
            lists[setting.name] += words(setting)
        elif (setting.section, setting.name) in _SCALARS:
            settings[f"{setting.section}.{setting.name}"] = " ".join(setting.values)
        elif (setting.section, setting.name) != _INCLUDE:
            raise InputError(
                "image.setting",
                f"the builder does not hand on [{setting.section}] {setting.name}=",
                where=setting.where,
                hint=nearest(setting.name, sorted({name for _, name in _LISTS | _SCALARS}))
                or "settings that it knows are listed in docs/builder.md",
            )
    settings["Distribution.Repositories"] = " ".join(sorted(set(lists["Repositories"])))
    return Image(
        role=role,
        chain=[*(parent.chain if parent else []), f"images/{role}"],
        packages=sorted(set(lists["Packages"])),
        settings=dict(sorted(settings.items())),
        remove=lists["RemoveFiles"],
        environment=lists["Environment"],
        services=sorted({*(toml.services or []), *(parent.services if parent else [])}),
        wheels=toml.wheels or (parent.wheels if parent else None),
        kernel=toml.kernel,
        publish=toml.publish,
        initrd=toml.initrd or (parent.initrd if parent else Initrd()),
    )


def _own_settings(root: Path, path: Path) -> list[Setting]:
    where = str(path.relative_to(root))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise InputError("image.conf", "not UTF-8", where=f"{where}:{line}") from error
    return parse_conf(text, where)


def _shared_settings(root: Path) -> list[Setting]:
    paths = [root / "mkosi.conf", *sorted((root / "mkosi.conf.d").glob("*.conf"))]
    return [setting for path in paths if path.is_file() for setting in _own_settings(root, path)]


def _check_folder(root: Path, folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.name not in _KNOWN:
            raise InputError(
                "image.file",
                "mkosi and the builder know no such file in an image folder",
                where=str(path.relative_to(root)),
                hint=nearest(path.name, sorted(_KNOWN)),
            )
    for name in _SCRIPTS:
        script = folder / name
        if script.exists() and not script.stat().st_mode & stat.S_IXUSR:
            raise InputError("image.script", "not executable", where=str(script.relative_to(root)), hint="chmod +x it")


def _read_toml(root: Path, path: Path) -> ImageToml:
    if not path.exists():
        return ImageToml()
    from services.common import toml

    document = toml.load(path, area="image")
    image = toml.decode(document, ImageToml)
    known = known_services(root)
    for index, service in enumerate(image.services or []):
        if service not in known:
            raise InputError(
                "image.service",
                f"there is no service {service!r}",
                where=document.where(("services", index)),
                hint=nearest(service, known) or f"services are {', '.join(known)}",
            )
    return image


def tracked_files(root: Path, folders: list[str]) -> list[str]:
    """Files below `folders` as git sees them: tracked, and untracked ones that are not ignored; relative, sorted.

    One of `folders` may be a file itself.
    A checkout without git (an unpacked archive) counts every file but Python's bytecode.
    """
    command = [
        "git",
        "-C",
        str(root),
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    # Inside of another repository, which may ignore it, an archive is no checkout.
    listing = run([*command, "--", *folders], check=False) if (root / ".git").exists() else None
    if listing is not None and listing.returncode == 0:
        names = {name for name in listing.stdout.split("\0") if name}
    else:
        names = {
            str(path.relative_to(root))
            for folder in folders
            for path in ([root / folder] if (root / folder).is_file() else (root / folder).rglob("*"))
            if (path.is_symlink() or not path.is_dir()) and "__pycache__" not in path.parts
        }
    return sorted(name for name in names if (root / name).exists() or (root / name).is_symlink())
