"""What a root file server is told from hall.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from e2e import halls
from services.common import settings
from services.hall import for_roots, render
from services.roots.schema import Settings

HALL = halls.make(roles={"web": "rhfs"}).data


@pytest.mark.parametrize(("host", "wanted"), [("rhfs01", [0, 1]), ("web", []), ("nobody", [])])
def test_a_host_is_the_root_file_servers_of_its_aliases(host: str, wanted: list[int]) -> None:
    assert for_roots.numbers(HALL, host) == wanted


def test_the_service_reads_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "roots.toml").write_text(for_roots.settings(HALL, "rhfs01"))
    found = settings.read(Settings, section="roots", file=tmp_path / "roots.toml", environ={})
    assert (found.host, found.numbers, found.hall) == ("rhfs01", [0, 1], "lab")
    assert (found.depot, found.netboot) == ("https://depot.prolo", "https://netboot.prolo")


def test_only_root_file_servers_get_it() -> None:
    rhfs = render.render(HALL, render.identify(HALL, "rhfs", "rhfs01"))
    gateway = render.render(HALL, render.identify(HALL, "gw", "gw"))
    assert render.ROOTS in rhfs
    assert render.ROOTS not in gateway
    assert tomllib.loads(rhfs[render.ROOTS].content)["host"] == "rhfs01"
