"""The administrator's keys: made once, trusted, rotated without losing anything."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builder import keys
from builder.keys import Keyring
from services.common import signing
from services.common.errors import BacklineError, InputError, MissingError, UsageError
from services.common.signing import Signer, sign, verify

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NAMESPACE = "backline-image"


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "config" / "backline")


def test_the_folder_is_that_of_the_xdg_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keys.config_folder({"XDG_CONFIG_HOME": "/x"}) == Path("/x/backline")
    assert keys.config_folder({"XDG_CONFIG_HOME": "relative"}) == tmp_path / ".config" / "backline"
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert Keyring().folder == tmp_path / ".config" / "backline"


def test_a_new_key_is_private_trusted_and_the_default(ring: Keyring) -> None:
    key = ring.new("anna")
    assert (key.name, key.default, key.trusted, key.private, key.comment) == ("anna", True, True, "file", "anna")
    assert ring.default() == ring.folder / "keys" / "anna"
    assert stat.S_IMODE(ring.default().stat().st_mode) == 0o600
    assert stat.S_IMODE(ring.folder.stat().st_mode) == stat.S_IMODE(ring.keys.stat().st_mode) == 0o700
    assert verify(b"x", sign(b"x", ring.default(), NAMESPACE), ring.signers(), NAMESPACE) == "anna"


def test_nothing_is_written_by_looking(ring: Keyring) -> None:
    assert keys.render(ring.listing()) == "no keys; `build keys new NAME` makes one\n"
    with pytest.raises(MissingError) as caught:
        ring.default()
    assert caught.value.code == "key.none"
    assert not ring.folder.exists()


def test_the_first_key_stays_the_default_until_another_is_chosen(ring: Keyring) -> None:
    ring.new("anna")
    assert not ring.new("office").default
    assert ring.default_name() == "anna"
    assert ring.set_default("office").default
    assert ring.default_name() == "office"


def test_keys_that_were_put_there_need_a_choice(ring: Keyring) -> None:
    for name in ("anna", "ben"):
        signing.new_key(ring.keys / name, comment=name)
    with pytest.raises(UsageError, match="anna, ben") as caught:
        ring.default()
    assert caught.value.code == "key.ambiguous"
    assert "not trusted" in keys.render(ring.listing())
    assert ring.trust("anna").trusted
    assert ring.trust("anna").trusted
    assert len(ring.signers()) == 1


def test_a_default_that_is_gone_is_named(ring: Keyring) -> None:
    ring.new("anna")
    ring.default_file.write_text("ben\n")
    with pytest.raises(MissingError, match="no key ben"):
        ring.default()
    assert [key.default for key in ring.listing().own] == [False]


def test_a_key_is_never_made_twice(ring: Keyring) -> None:
    fingerprint = ring.new("anna").fingerprint
    with pytest.raises(UsageError) as caught:
        ring.new("anna")
    assert caught.value.code == "key.exists"
    assert ring.listing().own[0].fingerprint == fingerprint


def test_the_name_of_another_administrator_is_taken(ring: Keyring, tmp_path: Path) -> None:
    other = Signer("ben", signing.new_key(tmp_path / "ben", comment=""))
    signing.write_signers(ring.signers_file, [other])
    with pytest.raises(UsageError):
        ring.new("ben")
    assert ring.names() == []
    ring.new("anna")
    assert "ben" in keys.render(ring.listing())
    assert "of another administrator" in keys.render(ring.listing())


@pytest.mark.parametrize("name", ["", "..", "a/b", "-f", "anna.pub", "a b", "é", "a" * 65])
def test_names_are_checked(ring: Keyring, name: str) -> None:
    for call in (ring.new, ring.path, ring.set_default, lambda name: ring.rotate("anna", name)):
        with pytest.raises(UsageError) as caught:
            call(name)
        assert caught.value.code == "name.invalid"


def test_unknown_keys_come_with_near_names(ring: Keyring) -> None:
    ring.new("anna")
    for call in (ring.path, lambda name: ring.rotate(name, "new")):
        with pytest.raises(MissingError) as caught:
            call("ana")
        assert caught.value.hint == "did you mean anna?"
    assert ring.names() == ["anna"]


def test_a_rotation_trusts_both_for_a_while_then_the_new_one(ring: Keyring) -> None:
    ring.new("anna")
    before = sign(b"x", ring.default(), NAMESPACE)
    done = ring.rotate("anna", "anna-2", now=NOW)
    assert done.until == NOW + timedelta(days=30)
    after = sign(b"x", ring.default(), NAMESPACE)
    signers = ring.signers()
    assert verify(b"x", before, signers, NAMESPACE, at=NOW + timedelta(days=29)) == "anna"
    assert verify(b"x", after, signers, NAMESPACE, at=NOW + timedelta(days=29)) == "anna-2"
    assert verify(b"x", after, signers, NAMESPACE, at=NOW + timedelta(days=31)) == "anna-2"
    with pytest.raises(BacklineError, match="no longer trusted since 2026-07-01"):
        verify(b"x", before, signers, NAMESPACE, at=NOW + timedelta(days=31))
    assert ring.names() == ["anna", "anna-2"]
    assert "until 2026-07-01 12:00 UTC" in keys.render_rotation(done)


def test_a_rotation_keeps_everyone_elses_lines_and_comments(ring: Keyring, tmp_path: Path) -> None:
    ring.new("anna")
    other = Signer("ben", signing.new_key(tmp_path / "ben", comment="b"), namespaces=("backline-image",)).format()
    text = f"# the finals\n\n{ring.signers_file.read_text()}{other}\n"
    ring.signers_file.write_text(text)
    ring.rotate("anna", "new", now=NOW)
    lines = ring.signers_file.read_text().splitlines()
    assert lines[:2] == ["# the finals", ""]
    assert lines[3] == other
    assert len(lines) == 5


def test_another_administrators_key_can_be_replaced_by_ours(ring: Keyring, tmp_path: Path) -> None:
    ring.new("anna")
    text = ring.signers_file.read_text() + Signer("ben", signing.new_key(tmp_path / "ben", comment="")).format() + "\n"
    ring.signers_file.write_text(text)
    ring.rotate("ben", "anna", now=NOW)
    assert ring.default_name() == "anna"
    assert [(one.name, one.valid_before is None) for one in ring.signers()] == [("anna", True), ("ben", False)]


def test_a_second_rotation_does_not_prolong_the_first(ring: Keyring) -> None:
    ring.new("anna")
    first = ring.rotate("anna", "new", now=NOW)
    again = ring.rotate("anna", "new", now=NOW + timedelta(days=10))
    assert again.until == first.until
    assert ring.rotate("anna", "new", overlap=timedelta(days=1), now=NOW).until == NOW + timedelta(days=1)
    assert len(ring.signers()) == 2


@pytest.mark.parametrize("step", range(4))
def test_a_rotation_that_was_cut_off_is_finished_by_calling_it_again(
    ring: Keyring, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.new("anna")
    real_new, real_write, left = signing.new_key, signing.write_text, step

    def die_at(function: object) -> object:
        def dying(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return function(*arguments, **options)  # type: ignore[operator]

        return dying

    with monkeypatch.context() as patch:
        patch.setattr(signing, "new_key", die_at(real_new))
        patch.setattr(signing, "write_text", die_at(real_write))
        if step < 3:
            with pytest.raises(KeyboardInterrupt):
                ring.rotate("anna", "new", now=NOW)
        else:
            ring.rotate("anna", "new", now=NOW)
    assert verify(b"x", sign(b"x", ring.path("anna"), NAMESPACE), ring.signers(), NAMESPACE, at=NOW) == "anna"
    done = ring.rotate("anna", "new", now=NOW)
    assert done.new.trusted
    assert ring.default_name() == "new"
    assert [one.name for one in ring.signers()] == ["anna", "new"]


def test_a_key_cannot_replace_itself(ring: Keyring) -> None:
    ring.new("anna")
    with pytest.raises(UsageError):
        ring.rotate("anna", "anna")


def test_one_key_has_one_name(ring: Keyring) -> None:
    ring.new("anna")
    (ring.keys / "copy.pub").write_text((ring.keys / "anna.pub").read_text())
    with pytest.raises(InputError) as caught:
        ring.trust("copy")
    assert caught.value.code == "signers.duplicate"


def test_an_agents_key_is_its_public_half(ring: Keyring) -> None:
    ring.new("anna")
    (ring.keys / "anna").unlink()
    (key,) = ring.listing().own
    assert key.private == "agent"
    assert ring.default() == ring.keys / "anna.pub"


def test_a_list_says_until_when(ring: Keyring) -> None:
    ring.new("anna")
    ring.rotate("anna", "new", now=NOW)
    lines = keys.render(ring.listing(now=NOW), now=NOW).splitlines()
    assert lines[0].startswith("  anna  SHA256:")
    assert lines[0].endswith("trusted until 2026-07-01, file")
    assert lines[1].startswith("* new  SHA256:")
    late = NOW + timedelta(days=99)
    assert "not trusted" in keys.render(ring.listing(now=late), now=late).splitlines()[0]


def test_a_stranger_in_the_folder_is_no_key(ring: Keyring) -> None:
    ring.new("anna")
    (ring.keys / ".anna.tmp").mkdir()
    (ring.keys / ".hidden").touch()
    assert ring.names() == ["anna"]
