"""Which of our own files an image holds: the services it lists, everything they import, their units and their data.

Imports are read from the syntax tree, never executed, so an edit in another role's service cannot change this role.
"""

from __future__ import annotations

from pathlib import Path

from builder.config import ROOMS, tracked_files
from builder.imports import Imports

# What every image with services has: the root program that finds their commands.
_ROOT_MODULES = ("services.common.main",)


def _file(root: Path, module: str) -> Path | None:
    stem = root / module.replace(".", "/")
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def package(service: str) -> str:
    """The Python package of a service."""
    return service if service in ROOMS else f"services.{service}"


def files(root: Path, services: list[str], *, imports: Imports | None = None) -> list[str]:
    """Every file of ours in an image with `services`: modules, data beside them, units; relative paths, sorted.

    Nothing for no services. What git ignores is not seen, except by an import. Raises InputError("service.syntax")
    with file and line.
    """
    if not services:
        return []
    imports = imports or Imports()
    wanted = [name for module in _ROOT_MODULES for name in _with_parents(module)]
    data: set[str] = set()
    for name in tracked_files(root, [package(service).replace(".", "/") for service in services]):
        path = Path(name)
        if "__pycache__" in path.parts or not (root / path).is_file():
            continue
        if path.suffix == ".py":
            wanted.append(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        elif path.name != "py.typed":
            data.add(name)
    seen: set[str] = set()
    found: set[str] = set(data)
    while wanted:
        module = wanted.pop()
        if module in seen:
            continue
        seen.add(module)
        source = _file(root, module)
        if source is None:  # a name imported from a module
            continue
        found.add(str(source.relative_to(root)))
        for name in imports.of(source, module):
            wanted += _with_parents(name)
    return sorted([*found, *_shared_data(root, found), *units(root, services)])


def _shared_data(root: Path, found: set[str]) -> list[str]:
    """Data of the common part, such as the templates of pages: where the package that it lies in is imported."""
    names = []
    for name in tracked_files(root, ["services/common"]):
        path = Path(name)
        if path.suffix == ".py" or path.name == "py.typed" or not (root / path).is_file():
            continue
        package_of_it = next((above for above in path.parents if (root / above / "__init__.py").is_file()), None)
        if package_of_it is not None and f"{package_of_it}/__init__.py" in found:
            names.append(name)
    return names


def units(root: Path, services: list[str]) -> list[str]:
    """The units of `services`: units/backline-<service>.* and units/backline-<service>-*.*."""
    names = []
    for name in tracked_files(root, ["units"]):
        stem, _, suffix = name.removeprefix("units/backline-").partition(".")
        ours = name.startswith("units/backline-") and suffix and "/" not in suffix
        if ours and any(stem == service or stem.startswith(f"{service}-") for service in services):
            names.append(name)
    return names
