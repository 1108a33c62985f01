"""What is remembered of imports saves time, and never changes what an image holds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from builder import closure, imports
from builder.imports import Imports
from services.common.errors import InputError
from tests.builder import checkout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout.make(tmp_path / "checkout", git=False)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / imports.NAME


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were parsed, as they come."""
    names: list[str] = []
    parse = ast.parse

    def counting(source: bytes, filename: str) -> ast.AST:
        names.append(Path(filename).name)
        return parse(source, filename=filename)

    monkeypatch.setattr(ast, "parse", counting)
    return names


def _files(root: Path, memory: Path) -> list[str]:
    """As a build does it: what was found is saved."""
    known = Imports(memory)
    found = closure.files(root, ["one"], imports=known)
    known.save()
    return found


def test_a_second_run_parses_nothing(root: Path, memory: Path, parsed: list[str]) -> None:
    first = _files(root, memory)
    assert len(parsed) >= 5
    parsed.clear()
    assert _files(root, memory) == first
    assert parsed == []


def test_one_edit_parses_one_file_and_is_seen(root: Path, memory: Path, parsed: list[str]) -> None:
    _files(root, memory)
    parsed.clear()
    checkout.write(root, "services/common/shared.py", "import services.common.unused\n")
    assert "services/common/unused.py" in _files(root, memory)
    assert "shared.py" in parsed
    assert "app.py" not in parsed


def test_the_same_text_in_another_package_imports_other_modules(root: Path, memory: Path) -> None:
    text = "from . import extra\n"
    checkout.write(root, "services/one/app.py", text)
    checkout.write(root, "services/one/extra.py", "")
    known = Imports(memory)
    assert known.of(root / "services/one/app.py", "services.one.app") == ["services.one", "services.one.extra"]
    assert known.of(root / "services/one/app.py", "services.two.app") == ["services.two", "services.two.extra"]


def test_a_module_that_does_not_parse_is_not_remembered(root: Path, memory: Path) -> None:
    checkout.write(root, "services/one/app.py", "def broken(:\n")
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            _files(root, memory)
        assert caught.value.code == "service.syntax"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"program": "another", "imports": {"x": []}}', b"\xff\xfe"])
def test_a_damaged_memory_or_another_programs_is_begun_anew(root: Path, memory: Path, content: bytes) -> None:
    right = closure.files(root, ["one"])
    memory.parent.mkdir()
    memory.write_bytes(content)
    assert _files(root, memory) == right
    assert _files(root, memory) == right
    assert memory.read_bytes() != content


def test_a_memory_that_grew_too_long_is_begun_anew(
    root: Path, memory: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(root, memory)
    parsed.clear()
    monkeypatch.setattr(imports, "LIMIT", 1)
    _files(root, memory)
    assert parsed


def test_a_folder_that_cannot_be_written_is_no_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    right = closure.files(root, ["one"])
    assert _files(root, tmp_path / "file" / imports.NAME) == right
