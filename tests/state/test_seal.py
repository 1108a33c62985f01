"""Whatever is cut off or changed is refused before a byte of it is used; only the hall's key opens what is sealed."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import InputError, IntegrityError, MissingError
from services.state.seal import Key, is_sealed, seal, unseal
from tests.state import rig

CONTENT = b"what gw cannot make again" * 2000


def sealed(folder: Path, key: Key | None, content: bytes = CONTENT) -> Path:
    (folder / "plain").write_bytes(content)
    target = folder / "sealed"
    with target.open("wb") as file:
        seal(folder / "plain", file, key)
    return target


@pytest.mark.parametrize("key", [rig.KEY, None], ids=["sealed", "plain"])
@pytest.mark.parametrize("content", [CONTENT, b""], ids=["some", "none"])
def test_what_went_in_comes_out(tmp_path: Path, key: Key | None, content: bytes) -> None:
    path = sealed(tmp_path, key, content)
    assert is_sealed(path) == (key is not None)
    unseal(path, tmp_path / "out", rig.KEY)  # a key does no harm to a plain one
    assert (tmp_path / "out").read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "plain", "sealed"]


def test_two_of_the_same_are_not_the_same(tmp_path: Path) -> None:
    first = sealed(tmp_path, rig.KEY).read_bytes()
    assert sealed(tmp_path, rig.KEY).read_bytes() != first


@pytest.mark.parametrize("key", [rig.KEY, None], ids=["sealed", "plain"])
def test_a_changed_or_lost_byte_is_seen(tmp_path: Path, key: Key | None) -> None:
    content = sealed(tmp_path, key).read_bytes()
    places = [*range(0, 140, 7), 200, len(content) // 2, len(content) - 1]
    for place in places:
        (tmp_path / "bad").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises((IntegrityError, MissingError)) as caught:
            unseal(tmp_path / "bad", tmp_path / "out", rig.KEY)
        assert caught.value.code in ("state.form", "state.damaged", "state.key"), place
        (tmp_path / "bad").write_bytes(content[:place])
        with pytest.raises(IntegrityError):
            unseal(tmp_path / "bad", tmp_path / "out", rig.KEY)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("key", "words"), [(None, "there is no key here"), (rig.OTHER_KEY, rig.OTHER_KEY.name)])
def test_the_wrong_key_is_named(tmp_path: Path, key: Key | None, words: str) -> None:
    with pytest.raises(MissingError, match=words) as caught:
        unseal(sealed(tmp_path, rig.KEY), tmp_path / "out", key)
    assert caught.value.code == "state.key"
    assert rig.KEY.name in str(caught.value)


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "5A" * 32, "5a" * 33])
def test_a_key_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(InputError) as caught:
        Key.parse(text)
    assert not text or text not in str(caught.value)
