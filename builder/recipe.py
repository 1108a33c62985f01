"""The recipe: everything that an image's bytes depend on, as canonical JSON. Its SHA-256 is the recipe id.

Sections of string to string, so that two recipes can be compared key by key (`build why`). Not inputs: documents,
tests, other roles' services, git metadata, trusted signers, the hall. Paths are relative and sorted, modes are 0644 or
0755: the place, owner and umask of a checkout do not count.
"""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from pathlib import Path

import msgspec

from builder import closure, config, ids
from builder.imports import Imports
from builder.lock import Lock

FORMAT = "1"
_NAMESPACE = uuid.UUID("8f1d2c44-6f0b-5d53-9a70-0d7a2c6e51b1")
# The modules that shape bytes, by their path from here; the rest only fetches, stores, signs and reports.
SHAPING = (
    "../services/common/manifest.py",
    "artefacts.py",
    "closure.py",
    "ids.py",
    "image.py",
    "imports.py",
    "initrd.py",
    "layers.py",
    "normalise.py",
    "overlay.py",
    "recipe.py",
    "sandbox.py",
    "sbom.py",
    "tools.py",
    "tree.py",
    "wheels.py",
)

Sections = dict[str, dict[str, str]]


class Recipe(msgspec.Struct, frozen=True):
    """A recipe: `sections`, and the `identity` that is computed from them."""

    role: str
    sections: Sections

    @property
    def data(self) -> bytes:
        """Canonical JSON: sorted keys, no white space."""
        return msgspec.json.encode(self.sections, order="sorted")

    @property
    def identity(self) -> str:
        """The recipe id, 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def seed(self) -> str:
        """A UUID made from the recipe id: of the file system and of the verity superblock."""
        return str(uuid.uuid5(_NAMESPACE, self.identity))


def version(recipe: Recipe, lock: Lock) -> str:
    """`<lock date>.<12 hex of the recipe id>`."""
    return f"{lock.date}.{recipe.identity[:12]}"


def describe_file(path: Path) -> str:
    """What of a file counts: mode 0644 or 0755 and SHA-256 of the content, or the target of a link."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return f"link {os.readlink(path)}"
    mode = "0755" if info.st_mode & stat.S_IXUSR else "0644"
    return f"{mode} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def shaping_modules() -> dict[str, str]:
    """Builder module → SHA-256, of those that shape bytes."""
    folder = Path(__file__).parent
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SHAPING}


def _locked(lock: Lock, tree: str) -> dict[str, str]:
    return {package.key: f"{package.version} {package.sha256}" for package in lock.of(tree)}


def _image_settings(image: config.Image) -> dict[str, str]:
    settings = dict(image.settings)
    settings["RemoveFiles"] = "\n".join(image.remove)
    settings["Environment"] = "\n".join(image.environment)
    settings["kernel"] = str(image.kernel).lower()
    return settings


def _files(root: Path, folders: list[str]) -> dict[str, str]:
    names = [
        name
        for name in config.tracked_files(root, folders)
        if Path(name).name not in ("mkosi.conf", "image.toml", "images.lock")
    ]
    return {name: describe_file(root / name) for name in names}


def image_files(root: Path, image: config.Image) -> list[str]:
    """Files of the image's own folders that go into it, in the order of its chain."""
    return [name for folder in image.chain for name in _files(root, [folder])]


def of_layers(root: Path, role: str, lock: Lock) -> dict[str, Sections]:
    """The recipes of the trees that a role is built on, the base first: packages and what is there before them.

    A layer holds no file of ours but its skeletons: editing a service or a configuration changes none of them.
    """
    image = config.load(root, role)
    table = ids.load(root)
    skeletons = {name: value for name, value in _files(root, image.chain).items() if "/mkosi.skeleton/" in name}
    found: dict[str, Sections] = {}
    for folder in image.chain:
        layer = Path(folder).name
        layer_image = config.load(root, layer)
        present = {package.name for package in lock.of(layer)} | set(image.services)
        found[layer] = {
            "format": {"recipe": FORMAT, "kind": "layer"},
            "settings": {
                key: value
                for key, value in _image_settings(layer_image).items()
                if key not in ("kernel", "RemoveFiles")
            },
            "packages": _locked(lock, layer),
            "files": {
                name: value
                for name, value in skeletons.items()
                if any(name.startswith(f"{f}/") for f in layer_image.chain)
            },
            "ids": {
                entry.name: msgspec.json.encode(entry).decode()
                for entry in ids.select(table, present & ({p.name for p in lock.of(layer)} | set(layer_image.services)))
            },
            "builder": {name: digest for name, digest in shaping_modules().items() if name in _LAYER_MODULES},
            "tools": {"tree": lock.tools_tree},
            "source": {"epoch": str(lock.epoch)},
        }
    return found


_LAYER_MODULES = ("ids.py", "layers.py", "overlay.py", "sandbox.py", "tools.py")


def layer_id(sections: Sections) -> str:
    """The name of a layer in the cache: 32 hex digits of the hash of its sections."""
    return hashlib.sha256(msgspec.json.encode(sections, order="sorted")).hexdigest()[:32]


def of_image(root: Path, role: str, lock: Lock, *, imports: Imports | None = None) -> Recipe:
    """The recipe of one role: pure, from the files of the checkout and the lock. `imports` only saves time."""
    image = config.load(root, role)
    table = ids.load(root)
    packages = _locked(lock, role)
    present = {package.name for package in lock.of(role)} | set(image.services)
    sections: Sections = {
        "format": {"recipe": FORMAT, "role": role},
        "settings": _image_settings(image),
        "packages": packages,
        "wheels": {wheel.file: wheel.sha256 for wheel in lock.wheels_of(image.wheels or "")},
        "files": _files(root, image.chain),
        "ids": {entry.name: msgspec.json.encode(entry).decode() for entry in ids.select(table, present)},
        "services": {name: describe_file(root / name) for name in closure.files(root, image.services, imports=imports)},
        "builder": shaping_modules(),
        "tools": {"tree": lock.tools_tree, "mkosi": next((p.version for p in lock.packages if p.name == "mkosi"), "")},
        "source": {"epoch": str(lock.epoch)},
    }
    if image.kernel:
        initrd = config.load(root, config.INITRD)
        sections["initrd"] = {
            **{f"settings {key}": value for key, value in _image_settings(initrd).items()},
            **{f"package {key}": value for key, value in _locked(lock, config.INITRD).items()},
            **{f"file {key}": value for key, value in _files(root, initrd.chain).items()},
            "modules": "\n".join(image.initrd.modules),
            "exclude": "\n".join(image.initrd.exclude),
        }
    return Recipe(role, sections)
