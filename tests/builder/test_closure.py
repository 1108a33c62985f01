"""Which of our files an image holds: what its services import, their data and units, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import closure
from services.common.errors import InputError
from tests.builder import checkout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout.make(tmp_path / "checkout", git=False)


def test_an_image_holds_what_its_services_import_and_nothing_else(root: Path) -> None:
    assert closure.files(root, ["one"]) == [
        "services/__init__.py",
        "services/common/__init__.py",
        "services/common/main.py",
        "services/common/shared.py",
        "services/one/__init__.py",
        "services/one/app.py",
        "services/one/schema.py",
        "services/one/templates/page.html",
        "units/backline-one-sync.timer",
        "units/backline-one.service",
    ]


def test_an_image_without_services_holds_nothing_of_ours(root: Path) -> None:
    assert closure.files(root, []) == []


def test_a_service_without_imports_has_the_root_program(root: Path) -> None:
    checkout.write(root, "services/three/__init__.py", "")
    assert closure.files(root, ["three"]) == [
        "services/__init__.py",
        "services/common/__init__.py",
        "services/common/main.py",
        "services/three/__init__.py",
    ]


def test_data_of_the_common_part_comes_with_the_package_that_it_lies_in(root: Path) -> None:
    checkout.write(root, "services/common/pages/__init__.py", "")
    checkout.write(root, "services/common/pages/static/look.css", "")
    assert "services/common/pages/static/look.css" not in closure.files(root, ["one"])
    checkout.write(root, "services/one/app.py", "from services.common.pages import x\n")
    assert "services/common/pages/static/look.css" in closure.files(root, ["one"])


def test_an_import_of_another_service_brings_its_module_alone(root: Path) -> None:
    checkout.write(root, "services/one/app.py", "from services.two.app import x\n")
    assert "units/backline-two.service" not in closure.files(root, ["one"])
    assert "services/two/app.py" in closure.files(root, ["one"])


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("import services.common.unused\n", "services/common/unused.py"),
        ("from services.common import unused\n", "services/common/unused.py"),
        ("from services.common.unused import thing\n", "services/common/unused.py"),
        ("from . import extra\n", "services/two/extra.py"),
        ("from .extra import thing\n", "services/two/extra.py"),
        ("from ..common.unused import thing\n", "services/common/unused.py"),
        ("def late():\n    from ..common import unused\n", "services/common/unused.py"),
        ("if TYPE_CHECKING:\n    import services.common.unused\n", "services/common/unused.py"),
        ("if one:\n    pass\nelif two:\n    import services.common.unused\n", "services/common/unused.py"),
        ("try:\n    pass\nexcept E:\n    import services.common.unused\n", "services/common/unused.py"),
        ("try:\n    pass\nfinally:\n    import services.common.unused\n", "services/common/unused.py"),
        ("while one:\n    pass\nelse:\n    import services.common.unused\n", "services/common/unused.py"),
        ("match one:\n    case 1:\n        import services.common.unused\n", "services/common/unused.py"),
        ("class A:\n    async def b():\n        with c: import services.common.unused\n", "services/common/unused.py"),
    ],
)
def test_every_way_to_import_counts(root: Path, text: str, file: str) -> None:
    checkout.write(root, "services/two/extra.py", "")
    checkout.write(root, "services/one/app.py", "from services.two import app\n")
    assert file not in closure.files(root, ["one"])
    checkout.write(root, "services/two/app.py", text)
    assert file in closure.files(root, ["one"])


def test_a_relative_import_in_a_package_begins_at_the_package(root: Path) -> None:
    checkout.write(root, "services/one/__init__.py", "from .inner import x\n")
    checkout.write(root, "services/one/inner/__init__.py", "from . import deep\n")
    checkout.write(root, "services/one/inner/deep.py", "from ...common import unused\n")
    assert "services/common/unused.py" in closure.files(root, ["one"])


def test_modules_that_import_each_other_are_no_trouble(root: Path) -> None:
    checkout.write(root, "services/common/shared.py", "import services.common.unused\n")
    checkout.write(root, "services/common/unused.py", "import services.common.shared\n")
    assert "services/common/unused.py" in closure.files(root, ["one"])


def test_an_edit_is_seen_at_once(root: Path) -> None:
    before = closure.files(root, ["one"])
    checkout.write(root, "services/common/shared.py", "import services.common.unused\n")
    assert sorted(set(closure.files(root, ["one"])) - set(before)) == ["services/common/unused.py"]


def test_nothing_is_executed(root: Path) -> None:
    checkout.write(root, "services/one/app.py", "raise SystemExit('executed')\n")
    assert "services/one/app.py" in closure.files(root, ["one"])


@pytest.mark.parametrize(("text", "line"), [("x = 1\ndef broken(:\n", 2), ("x = '\0'\n", 1)])
def test_a_module_that_does_not_parse_is_named_with_its_line(root: Path, text: str, line: int) -> None:
    checkout.write(root, "services/one/app.py", text)
    with pytest.raises(InputError) as caught:
        closure.files(root, ["one"])
    assert caught.value.code == "service.syntax"
    assert (caught.value.where or "").endswith(f"services/one/app.py:{line}")


def test_what_git_ignores_is_not_in_an_image(root: Path) -> None:
    checkout.make(root)
    checkout.write(root, "services/one/templates/.page.html.swp", "")
    checkout.write(root, "services/one/__pycache__/app.cpython-311.pyc", "")
    assert not {name for name in closure.files(root, ["one"]) if "page.html.swp" in name or "pyc" in name}


def test_a_service_has_the_units_of_its_name_alone(root: Path) -> None:
    checkout.write(root, "units/backline-onerous.service", "")
    checkout.write(root, "units/one.service", "")
    assert closure.units(root, ["one"]) == ["units/backline-one-sync.timer", "units/backline-one.service"]


def test_the_real_hostd_brings_its_units_and_not_the_tests() -> None:
    found = closure.files(ROOT, ["hostd"])
    assert "units/backline-hostd.service" in found
    assert {name.split("/")[0] for name in found} == {"services", "units"}
