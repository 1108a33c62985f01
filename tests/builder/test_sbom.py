"""The bill of materials: CycloneDX 1.6 in structure, canonical purls, the same bytes every time."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import sbom
from services.common.manifest import Package, Wheel
from tests.builder import stock

RECIPE = "ab" * 32
PACKAGES = [
    Package("attr", "1:2.4.47-2+b1", "amd64", "1" * 64, "attr", "1:2.4.47-2"),
    Package("libstdc++6", "14.2.0-19", "amd64", "2" * 64, "gcc-14", "14.2.0-19"),
    Package("openssl", "3.5.7-1~deb13u2", "amd64", "3" * 64, "openssl", "3.5.7-1~deb13u2"),
    Package("tzdata", "2025b-4+deb13u1", "all", "4" * 64, "tzdata", "2025b-4+deb13u1"),
]
WHEELS = [Wheel("Foo_Bar.baz", "1.0+local.1", "Foo_Bar.baz-1.0+local.1-py3-none-any.whl", "5" * 64)]


def rendered(
    *,
    packages: list[Package] = PACKAGES,
    wheels: list[Wheel] = WHEELS,
    recipe_id: str = RECIPE,
    epoch: int = 1769817600,
) -> bytes:
    return sbom.render(
        role="gw",
        version="20260131.abababababab",
        recipe_id=recipe_id,
        epoch=epoch,
        packages=packages,
        wheels=wheels,
    )


@pytest.fixture(scope="module")
def bom() -> dict[str, Any]:
    document = json.loads(rendered())
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("package", "purl"),
    [
        (PACKAGES[0], "pkg:deb/debian/attr@1:2.4.47-2%2Bb1?arch=amd64"),  # the example of purl-spec
        (PACKAGES[1], "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64"),
        (PACKAGES[2], "pkg:deb/debian/openssl@3.5.7-1~deb13u2?arch=amd64"),
        (PACKAGES[3], "pkg:deb/debian/tzdata@2025b-4%2Bdeb13u1?arch=all"),
    ],
)
def test_debian_purls_are_canonical(package: Package, purl: str) -> None:
    assert sbom.deb_purl(package) == purl


def test_python_purls_have_normalised_names() -> None:
    assert sbom.pypi_purl(WHEELS[0]) == "pkg:pypi/foo-bar-baz@1.0%2Blocal.1"


debian_versions = st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~]{0,20}(-[A-Za-z0-9+.~]{1,10})?", fullmatch=True)
debian_names = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,20}", fullmatch=True)


@given(debian_names, debian_versions)
def test_purls_give_name_and_version_back(name: str, version: str) -> None:
    purl = sbom.deb_purl(stock.package(name, version))
    match = re.fullmatch(r"pkg:deb/debian/([^@/?#+]+)@([^@/?#+]+)\?arch=amd64", purl)
    assert match is not None
    assert (unquote(match[1]), unquote(match[2])) == (name, version)


def test_the_document_says_what_it_is(bom: dict[str, Any]) -> None:
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["specVersion"] == "1.6"
    assert bom["version"] == 1
    uuid = r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # the schema's own pattern
    assert re.fullmatch(uuid, bom["serialNumber"])
    assert set(bom) <= {
        "$schema",
        "bomFormat",
        "components",
        "dependencies",
        "metadata",
        "serialNumber",
        "specVersion",
        "version",
    }
    assert bom["metadata"]["timestamp"] == "2026-01-31T00:00:00Z"
    component = bom["metadata"]["component"]
    assert (component["type"], component["name"]) == ("operating-system", "gw")
    assert component["version"] == "20260131.abababababab"


def test_every_component_has_what_the_schema_asks_for(bom: dict[str, Any]) -> None:
    assert len(bom["components"]) == len(PACKAGES) + len(WHEELS)
    for component in bom["components"]:
        assert component["type"] == "library"
        assert component["name"]
        assert component["bom-ref"] == component["purl"]
        (digest,) = component["hashes"]
        assert digest["alg"] == "SHA-256"
        assert re.fullmatch(r"[0-9a-f]{64}", digest["content"])
        assert all(set(one) == {"name", "value"} for one in component["properties"])


def test_references_are_unique_and_resolve(bom: dict[str, Any]) -> None:
    references = [component["bom-ref"] for component in bom["components"]]
    references.append(bom["metadata"]["component"]["bom-ref"])
    assert len(set(references)) == len(references)
    (dependency,) = bom["dependencies"]
    assert dependency["ref"] == references[-1]
    assert sorted(dependency["dependsOn"]) == sorted(references[:-1])


def test_source_packages_are_named(bom: dict[str, Any]) -> None:
    (component,) = (one for one in bom["components"] if one["name"] == "libstdc++6")
    assert {"name": "backline:deb:source", "value": "gcc-14"} in component["properties"]
    assert {"name": "backline:deb:source-version", "value": "14.2.0-19"} in component["properties"]


def test_the_bytes_are_canonical_and_do_not_depend_on_the_order(bom: dict[str, Any]) -> None:
    data = rendered()
    assert rendered(packages=PACKAGES[::-1]) == data
    assert data.endswith(b"}\n")
    assert msgspec.json.format(msgspec.json.encode(bom, order="sorted"), indent=2) + b"\n" == data


def test_another_recipe_has_another_serial_number(bom: dict[str, Any]) -> None:
    assert json.loads(rendered(recipe_id="cd" * 32))["serialNumber"] != bom["serialNumber"]
    assert json.loads(rendered(epoch=0))["serialNumber"] == bom["serialNumber"]


def test_an_image_without_anything_has_a_document() -> None:
    assert json.loads(rendered(packages=[], wheels=[]))["components"] == []
