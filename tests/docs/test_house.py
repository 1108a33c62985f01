"""The house stands as docs/architecture.md draws it: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = sorted(
    path.parent.name for path in (ROOT / "services").glob("*/__init__.py") if path.parent.name != "common"
)


def imported(folder: Path) -> set[str]:
    """Every module of the house that a folder's modules import, by its whole name."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in ("builder", "services", "tests", "docs", "e2e", "netboot")}


def foreign(folder: str, *allowed: str) -> list[str]:
    """What a folder imports of the house that is neither itself nor allowed to it."""
    own = folder.replace("/", ".")
    names = imported(ROOT / folder)
    return sorted(
        name for name in names if not any(name == one or name.startswith(f"{one}.") for one in (own, *allowed))
    )


def test_the_common_part_knows_nobody() -> None:
    assert foreign("services/common") == []


def test_the_builder_knows_only_the_common_part_and_how_to_ask_services() -> None:
    assert foreign("builder", "services.common", *clients()) == []


def test_the_harness_uses_everything_and_no_tests_but_in_its_scenarios() -> None:
    found = foreign("e2e", "services", "netboot", "builder")
    assert [name for name in found if not name.startswith(("tests.builder.conftest", "tests.left"))] == []


def clients() -> list[str]:
    """What a service may know of another one: how to ask it, and what it answers."""
    packages = [*(f"services.{name}" for name in SERVICES), "netboot"]
    return [f"{package}.{part}" for package in packages for part in ("client", "schema")]


@pytest.mark.parametrize("service", [*(f"services/{name}" for name in SERVICES), "netboot"])
def test_a_service_knows_of_another_one_only_its_client(service: str) -> None:
    assert foreign(service, "services.common", *clients()) == []


@pytest.mark.parametrize("service", SERVICES)
def test_the_page_has_every_service(service: str) -> None:
    assert f"`services/{service}/`" in (ROOT / "docs" / "architecture.md").read_text()
