"""What the supervisor knows of a root file server: its exports by any path, as the image's ganesha.conf has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import HostError, MissingError
from services.hostd.roots_seen import RootServer, exports_of

GANESHA = Path(__file__).parents[2] / "images/rhfs/mkosi.extra/etc/ganesha/ganesha.conf"


def test_the_images_one_export_is_known_by_both_of_its_paths() -> None:
    assert exports_of(GANESHA.read_text()) == {"/var/lib/backline/roots/images": 1, "/images": 1}


def test_an_export_that_the_image_has_not_cannot_be_made(tmp_path: Path) -> None:
    server = RootServer(f"unix:{tmp_path}/roots.sock", ganesha=GANESHA)
    with pytest.raises(HostError, match="no export of this image is /other"):
        server.export("/other")


def test_a_host_without_the_roots_service_is_no_root_file_server(tmp_path: Path) -> None:
    server = RootServer(f"unix:{tmp_path}/roots.sock")
    assert server.seen(exports=True) is None
    with pytest.raises(MissingError, match="no root file server"):
        server.roots()


def test_one_that_does_not_answer_is_silent(tmp_path: Path) -> None:
    (tmp_path / "roots.sock").touch()
    seen = RootServer(f"unix:{tmp_path}/roots.sock").seen(exports=False)
    assert seen is not None
    assert seen.silent
