"""What `backline host init` puts on a plain Debian; on a tree in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import HostError, InputError, UsageError
from services.hostd import host_init
from services.hostd.host_init import PACKAGES, PRESET, _enabled, init
from tests.hall.halls import proposal

pytestmark = pytest.mark.needs("root")
SOURCES = Path(__file__).parents[2]
HALL = proposal()
UNITS = sorted((SOURCES / "units").glob("backline-hostd*"))


@pytest.fixture
def hall(tmp_path: Path) -> Path:
    path = tmp_path / "hall.toml"
    path.write_text(HALL)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a role image has of Backline."""
    made = tmp_path / "tree"
    for name in ("app/services/hostd/app.py", "site/msgspec/__init__.py"):
        put(made / "usr/lib/backline" / name, "code = 1\n")
    put(made / "usr/bin/backline", "#!/usr/bin/python3 -I\n")
    put(made / "usr/bin/python3.13", "")
    for path in UNITS:
        put(made / "usr/lib/systemd/system" / path.name, path.read_text())
    put(made / PRESET, (SOURCES / "images/base/mkosi.extra" / PRESET).read_text())
    return made


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A Debian 13 that has the packages."""
    made = tmp_path / "root"
    put(made / "usr/lib/os-release", 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n')
    for name in PACKAGES.values():
        put(made / name, "")
    yield made
    assert not list(made.rglob("*backline-new*")), "nothing is left aside"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_it_brings_code_units_and_credentials(tree: Path, root: Path, hall: Path) -> None:
    done = init(tree=tree, hall=hall, secrets={}, root=root)
    assert "hostd in" in " ".join(done)
    assert (root / "usr/lib/backline/app/services/hostd/app.py").read_text() == "code = 1\n"
    assert os.access(root / "usr/bin/backline", os.X_OK)
    assert sorted(path.name for path in (root / "etc/systemd/system").iterdir()) == [path.name for path in UNITS]
    assert (root / "etc/credstore").stat().st_mode & 0o777 == 0o700
    assert (root / "etc/credstore/backline.hall").read_text() == HALL
    assert (root / "etc/credstore/backline.hall").stat().st_mode & 0o777 == 0o600
    assert (root / "etc/credstore/backline.role").read_text() == "iron"


def test_what_runs_on_every_machine_runs_on_iron(tree: Path) -> None:
    assert {"backline-hostd.service", "backline-hostd.socket"} <= set(_enabled(tree))
    assert all(name in [path.name for path in UNITS] for name in _enabled(tree))


def test_a_second_time_there_is_nothing_to_do(tree: Path, root: Path, hall: Path) -> None:
    init(tree=tree, hall=hall, secrets={}, root=root)
    assert init(tree=tree, hall=hall, secrets={}, root=root) == []


def test_another_version_replaces_the_code_in_one_step_and_the_one_before_stays(
    tree: Path, root: Path, hall: Path
) -> None:
    for number in (1, 2, 3):
        put(tree / "usr/lib/backline/app/services/hostd/app.py", f"code = {number}\n")
        assert any("hostd in" in line for line in init(tree=tree, hall=hall, secrets={}, root=root))
        assert (root / "usr/lib/backline/app/services/hostd/app.py").read_text() == f"code = {number}\n"
    assert sorted(path.name for path in (root / "usr/lib/backline-iron").iterdir()) == ["2", "3"]


def test_a_hostd_that_does_not_answer_is_replaced_by_the_one_before(tree: Path, root: Path, hall: Path) -> None:
    """What systemd would do is left out: here, only what is on the disk counts (`test_iron` has the rest)."""
    init(tree=tree, hall=hall, secrets={}, root=root)
    before = host_init._Before(root)
    names = sorted(path.name for path in (root / "etc/systemd/system").iterdir())
    put(tree / "usr/lib/backline/app/services/hostd/app.py", "code = broken\n")
    put(tree / "usr/bin/backline", "#!/bin/false\n")
    put(tree / "usr/lib/systemd/system/backline-hostd-new.service", "[Service]\n")
    put(tree / "usr/lib/systemd/system/backline-hostd.service", "[Service]\n")
    host_init._code(tree, root)
    host_init._units(tree, root)
    assert "broken" in (root / "usr/lib/backline/app/services/hostd/app.py").read_text()
    before.put_back()
    assert (root / "usr/lib/backline/app/services/hostd/app.py").read_text() == "code = 1\n"
    assert (root / "usr/bin/backline").read_text() == "#!/usr/bin/python3 -I\n"
    assert sorted(path.name for path in (root / "etc/systemd/system").iterdir()) == names
    original = (SOURCES / "units/backline-hostd.service").read_text()
    assert (root / "etc/systemd/system/backline-hostd.service").read_text() == original
    put(tree / "usr/lib/backline/app/services/hostd/app.py", "code = 2\n")
    init(tree=tree, hall=hall, secrets={}, root=root)
    assert sorted(path.name for path in (root / "usr/lib/backline-iron").iterdir()) == ["1", "3"]


def test_what_was_cut_off_is_made_whole(tree: Path, root: Path, hall: Path) -> None:
    put(root / "usr/lib/backline-iron/.new/half", "")
    init(tree=tree, hall=hall, secrets={}, root=root)
    assert not (root / "usr/lib/backline/half").exists()


def test_secrets_go_where_only_root_looks(tree: Path, root: Path, hall: Path, tmp_path: Path) -> None:
    put(tmp_path / "key", "hush")
    init(tree=tree, hall=hall, secrets={"one": tmp_path / "key", "rhfs01/backline.tls": tmp_path / "key"}, root=root)
    for name in ("one", "backline.machines/rhfs01/backline.tls"):
        assert (root / "etc/credstore" / name).read_text() == "hush"
        assert (root / "etc/credstore" / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a/b/c", "../x", "/x", "", "a/"])
def test_a_secret_goes_nowhere_else(tree: Path, root: Path, hall: Path, name: str) -> None:
    with pytest.raises(UsageError):
        init(tree=tree, hall=hall, secrets={name: hall}, root=root)


def test_only_a_debian_13_becomes_iron(tree: Path, root: Path, hall: Path) -> None:
    put(root / "usr/lib/os-release", 'PRETTY_NAME="Another 12"\nID=another\nVERSION_ID="12"\n')
    with pytest.raises(HostError, match="this is Another 12"):
        init(tree=tree, hall=hall, secrets={}, root=root)


def test_an_image_of_our_own_is_no_plain_debian(tree: Path, root: Path, hall: Path) -> None:
    (root / "usr/lib/backline").mkdir()
    with pytest.raises(HostError, match="is an image"):
        init(tree=tree, hall=hall, secrets={}, root=root)


def test_a_hall_that_is_wrong_changes_nothing(tree: Path, root: Path, hall: Path) -> None:
    hall.write_text("[hall]\nnmae = 1\n")
    with pytest.raises(InputError):
        init(tree=tree, hall=hall, secrets={}, root=root)
    assert not (root / "usr/bin/backline").exists()


def test_a_folder_that_is_no_images_tree_is_refused(root: Path, hall: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no usr"):
        init(tree=tmp_path, hall=hall, secrets={}, root=root)
