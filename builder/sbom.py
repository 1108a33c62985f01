"""The bill of materials of a version: CycloneDX 1.6 JSON, from the manifest alone.

Promises: the same manifest gives the same bytes anywhere; nothing in it comes from the clock, the host or a tool's
version, so it can be an artefact of a reproducible image. Names follow the package-url specification (purl-spec, types
`deb` and `pypi`). The sbom describes the version's contents, not its artefacts: it is one of these itself.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from services.common.manifest import Package, Wheel

_SPACE = uuid.UUID("6f1a3ff4-58a1-5a53-9d39-6c9a0c6f1e0e")
"""Name space (RFC 9562, version 5) of the serial numbers; any constant would do."""

Json = dict[str, object]


def _quote(text: str) -> str:
    """Percent-encode a purl component: all but letters, digits, `.-_~` and `:` (ECMA-427, character encoding).

    So the colon of an epoch and the tilde stay as they are, and `+` is %2B.
    """
    return quote(text, safe=".-_~:")


def deb_purl(package: Package, *, distribution: str = "debian") -> str:
    """The purl of a Debian package: pkg:deb/debian/NAME@VERSION?arch=ARCHITECTURE."""
    name = _quote(package.name.lower())
    return f"pkg:deb/{distribution}/{name}@{_quote(package.version)}?arch={_quote(package.architecture)}"


def pypi_purl(wheel: Wheel) -> str:
    """The purl of a Python distribution; its name normalised (PEP 503)."""
    return f"pkg:pypi/{_quote(re.sub(r'[-_.]+', '-', wheel.name).lower())}@{_quote(wheel.version)}"


def _component(purl: str, name: str, version: str, sha256: str, properties: dict[str, str]) -> Json:
    return {
        "bom-ref": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        "name": name,
        "properties": [{"name": key, "value": value} for key, value in sorted(properties.items())],
        "purl": purl,
        "type": "library",
        "version": version,
    }


def _of_package(package: Package) -> Json:
    properties = {
        "backline:deb:architecture": package.architecture,
        "backline:deb:source": package.source,
        "backline:deb:source-version": package.source_version,
    }
    return _component(deb_purl(package), package.name, package.version, package.sha256, properties)


def _of_wheel(wheel: Wheel) -> Json:
    properties = {"backline:wheel:file": wheel.file}
    return _component(pypi_purl(wheel), wheel.name, wheel.version, wheel.sha256, properties)


def document(
    *, role: str, version: str, recipe_id: str, epoch: int, packages: list[Package], wheels: list[Wheel]
) -> Json:
    """The document as JSON values. `epoch` (seconds since 1970) is its time; the recipe id makes its serial number."""
    components = [_of_package(package) for package in packages] + [_of_wheel(wheel) for wheel in wheels]
    image = f"backline:{role}@{version}"
    references = sorted(str(component["bom-ref"]) for component in components)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "components": sorted(components, key=lambda component: str(component["bom-ref"])),
        "dependencies": [{"dependsOn": references, "ref": image}],
        "metadata": {
            "component": {
                "bom-ref": image,
                "name": role,
                "properties": [{"name": "backline:recipe", "value": recipe_id}],
                "type": "operating-system",
                "version": version,
            },
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, recipe_id)}",
        "specVersion": "1.6",
        "version": 1,
    }


def render(
    *, role: str, version: str, recipe_id: str, epoch: int, packages: list[Package], wheels: list[Wheel]
) -> bytes:
    """The bytes of sbom.cdx.json: canonical JSON as the manifest's."""
    bom = document(role=role, version=version, recipe_id=recipe_id, epoch=epoch, packages=packages, wheels=wheels)
    return msgspec.json.format(msgspec.json.encode(bom, order="sorted"), indent=2) + b"\n"
