"""What root file servers of a lab serve, and which numbers they have."""

from __future__ import annotations

import pytest

from e2e import halls, published
from services.common.versions import Ref

HALL = halls.make(roles={"web": "rhfs"})


@pytest.mark.parametrize(("host", "wanted"), [("rhfs01", (0, 1)), ("web", ()), ("nobody", ())])
def test_a_host_is_the_root_file_servers_of_its_aliases(host: str, wanted: tuple[int, ...]) -> None:
    assert published.numbers(HALL.data, host) == wanted


def test_every_path_of_a_version_has_its_role_and_id() -> None:
    found = published.Published(Ref("nfsroot", "20261121.bf275d18ebe8"), "0" * 64, 1, (0, 1))
    assert found.path == "/images/nfsroot/20261121.bf275d18ebe8"


def test_rhfs_exports_the_versions_of_one_role_and_nothing_else_read_only() -> None:
    text = published.ganesha("nfsroot")
    assert text.count("EXPORT {") == 1
    assert f"Path = {published.STORE}/images/nfsroot;" in text
    assert "Pseudo = /images/nfsroot;" in text
    assert "Access_Type = RO;" in text


def test_rhfs_gets_one_file_of_each_name() -> None:
    lines = published.root_server("nfsroot")["tmpfiles.extra"].decode().splitlines()
    written = [line.split()[1] for line in lines]
    assert len(written) == len(set(written)) == 3
