"""Settings: environment before file before default, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from services.common.errors import InputError
from services.common.settings import read, reference


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    lines: Annotated[int, msgspec.Meta(ge=1, le=10, description="how many lines")] = 5


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    limits: Limits = msgspec.field(default_factory=Limits)
    groups: Annotated[list[str], msgspec.Meta(description="who | may")] = msgspec.field(default_factory=lambda: ["adm"])
    bus: Annotated[str | None, msgspec.Meta(description="an address")] = None
    mode: Literal["fast", "slow"] = "slow"
    strict: bool = False
    path: Path = Path("/x")

    def __post_init__(self) -> None:
        if self.strict and self.mode == "fast":
            raise ValueError("strict is not fast")


def settings(text: str | None, environ: dict[str, str], tmp_path: Path) -> Settings:
    file = None
    if text is not None:
        file = tmp_path / "demo.toml"
        file.write_text(text)
    return read(Settings, section="demo", file=file, environ=environ)


def refusal(text: str | None, environ: dict[str, str], tmp_path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        settings(text, environ, tmp_path)
    return caught.value


def test_without_anything_there_are_the_defaults(tmp_path: Path) -> None:
    assert settings(None, {}, tmp_path) == Settings()


def test_the_file_wins_over_the_default_and_the_environment_over_the_file(tmp_path: Path) -> None:
    text = 'mode = "fast"\ngroups = ["a"]\n[limits]\nlines = 7\n'
    environ = {"BACKLINE_DEMO_LIMITS_LINES": "8", "BACKLINE_DEMO_GROUPS": "b, c", "BACKLINE_OTHER_X": "1"}
    found = settings(text, environ, tmp_path)
    assert (found.mode, found.limits.lines, found.groups, found.bus) == ("fast", 8, ["b", "c"], None)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("STRICT", "true", "strict", True),
        ("STRICT", "0", "strict", False),
        ("BUS", "12", "bus", "12"),
        ("PATH", "/y", "path", Path("/y")),
        ("GROUPS", "", "groups", []),
    ],
)
def test_a_variable_becomes_the_type_of_its_field(
    tmp_path: Path, name: str, value: str, field: str, expected: object
) -> None:
    assert getattr(settings(None, {f"BACKLINE_DEMO_{name}": value}, tmp_path), field) == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\nmood = 1", 2, "mood: no such key"),
        ('[limits]\nlines = "5"', 2, "limits.lines: expected `int`, got `str`"),
        ("[limits]\nlines = 11", 2, "limits.lines: expected `int` <= 10"),
        ("strict = 1", 1, "strict: expected `bool`, got `int`"),
    ],
)
def test_a_mistake_in_the_file_has_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    error = refusal(text, {}, tmp_path)
    assert (error.code, error.where, error.message) == ("settings.invalid", f"{tmp_path}/demo.toml:{line}", message)


@pytest.mark.parametrize("value", ["eleven", "11", "", "5.5"])
def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, value: str) -> None:
    error = refusal(None, {"BACKLINE_DEMO_LIMITS_LINES": value}, tmp_path)
    assert str(error).startswith("environment: BACKLINE_DEMO_LIMITS_LINES: expected")
    assert error.hint == "wanted: whole number from 1 to 10 (how many lines)"


def test_a_variable_that_nobody_knows_is_refused_with_the_near_one(tmp_path: Path) -> None:
    error = refusal(None, {"BACKLINE_DEMO_LIMIT_LINES": "5"}, tmp_path)
    assert "did you mean BACKLINE_DEMO_LIMITS_LINES" in (error.hint or "")


def test_a_rule_over_several_settings_is_kept(tmp_path: Path) -> None:
    error = refusal('mode = "fast"', {"BACKLINE_DEMO_STRICT": "true"}, tmp_path)
    assert "strict is not fast" in error.message


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(Settings, section="demo", file=tmp_path / "none.toml", environ={})
    assert caught.value.code == "settings.missing"


def test_the_reference_has_a_row_for_every_setting() -> None:
    rows = reference(Settings, "demo").splitlines()
    assert rows[2] == (
        "| `limits.lines` | `BACKLINE_DEMO_LIMITS_LINES` | whole number from 1 to 10 | `5` | how many lines |"
    )
    assert rows[3] == "| `groups` | `BACKLINE_DEMO_GROUPS` | list of text | `adm` | who \\| may |"
    assert rows[4] == "| `bus` | `BACKLINE_DEMO_BUS` | text |  | an address |"
    assert len(rows) == 8


def test_a_setting_without_a_default_is_a_bug() -> None:
    class Bare(msgspec.Struct):
        port: int

    with pytest.raises(TypeError, match=r"demo\.port has no default"):
        reference(Bare, "demo")
