"""What a check says of files that differ: each of the first few, none at the cost of another."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from builder import artefacts, check, tree
from builder.check import Guilty
from builder.image import Shop
from builder.recipe import Recipe
from builder.sandbox import Environment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the tools tree needs root")


def version(tools: Path, folder: Path, files: dict[str, str]) -> Path:
    """As much of a version as `explain` looks at: its root and its tree manifest."""
    root = folder / "tree"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    recipe = Recipe("gw", {"format": {"role": "gw"}})
    artefacts.make_erofs(tools, root, folder, recipe, seat=False, epoch=1, environment=Environment())
    data = subprocess.run(["zstd", "-q"], input=tree.render(tree.scan(root)), stdout=subprocess.PIPE, check=True).stdout
    (folder / "tree.zst").write_bytes(data)
    return folder


def details(shop: Shop, tools: Path, folder: Path, first: dict[str, str], second: dict[str, str]) -> str:
    pair = version(tools, folder / "first", first), version(tools, folder / "second", second)
    guilty = [Guilty(name, ["content"], None, "") for name in sorted({*first, *second})]
    return check.explain(shop, *pair, guilty)


def test_a_file_with_a_thousand_differences_takes_no_room_of_the_others(
    shop: Shop, tools_tree: Path, tmp_path: Path
) -> None:
    lines = [f"line {number}" for number in range(1000)]
    first = {"etc/a": "\n".join(lines), "etc/date": "2026-11-25\n", "etc/z": "short\n"}
    second = {"etc/a": "\n".join(reversed(lines)), "etc/date": "2027-12-30\n", "etc/z": "other\n"}
    text = details(shop, tools_tree, tmp_path, first, second)
    assert [word in text for word in ("first/etc/a", "2026-11-25", "2027-12-30", "first/etc/z")] == [True] * 4, text
    assert len(text.splitlines()) < 60


def test_what_is_not_looked_into_is_counted(shop: Shop, tools_tree: Path, tmp_path: Path) -> None:
    first, second = ({f"etc/{number}": text for number in range(7)} for text in ("one\n", "two\n"))
    assert details(shop, tools_tree, tmp_path, first, second).endswith("not looked into: 2 more")


def test_a_large_file_is_not_looked_into(shop: Shop, tools_tree: Path, tmp_path: Path) -> None:
    large = "x" * (1 << 20)
    assert details(shop, tools_tree, tmp_path, {"etc/a": f"{large}1"}, {"etc/a": f"{large}2"}) == ""
