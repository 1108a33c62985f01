"""What a machine lacks: named with its reason and what to do, and a test that needs it is skipped with that name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e import capabilities, plugin
from e2e.capabilities import REQUIRED, Capability, Found, missing_text
from services.common.errors import HostError

LACKING = Found(frozenset(Capability) - {Capability.KVM, Capability.PODMAN}, {Capability.PODMAN: "no program podman"})


class Item:
    """As much of a test as the plugin looks at."""

    def __init__(self, *needs: str, lan: bool = False, require_all: bool = False, without: str = "") -> None:
        self.config = self
        self.options: dict[str, object] = {"--require-all": require_all, "--without": without}
        self.marks = {"needs": [pytest.mark.needs(*needs).mark], "lan": [pytest.mark.lan().mark] if lan else []}

    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        yield from self.marks[name]

    def getoption(self, name: str) -> object:
        return self.options[name]


def outcome(item: Item, found: Found, monkeypatch: pytest.MonkeyPatch) -> str:
    """What becomes of a test on a machine that can do what `found` says: `runs`, or skipped or failed with a reason."""
    monkeypatch.setattr(capabilities, "probe", lambda: found)
    try:
        plugin.pytest_runtest_setup(item)  # type: ignore[arg-type]
    except pytest.skip.Exception as skipped:
        return f"skipped: {skipped.msg}"
    except pytest.fail.Exception as failed:
        return f"failed: {failed.msg}"
    return "runs"


def test_a_machine_that_has_everything_is_not_complained_of() -> None:
    Found(frozenset(Capability), {}).require(Capability)


def test_the_hint_is_of_the_first_that_has_one() -> None:
    with pytest.raises(HostError) as caught:
        LACKING.require([Capability.NSPAWN, Capability.KVM, Capability.PODMAN])
    assert caught.value.message == "this machine lacks KVM (not tried), podman (no program podman)"
    assert caught.value.hint == capabilities.HINTS[Capability.KVM]


def test_every_line_for_people_names_one_with_its_reason_and_hint() -> None:
    assert missing_text(LACKING) == "podman: no program podman - run `make setup`"


def test_a_test_runs_where_all_that_it_needs_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(Item("QEMU", lan=True), LACKING, monkeypatch) == "runs"


def test_a_test_is_skipped_with_the_name_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "skipped: missing capability: podman (no program podman)"
    assert outcome(Item("root", "podman"), LACKING, monkeypatch) == expected


def test_a_test_in_a_lab_needs_what_labs_need(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(Item(lan=True), LACKING, monkeypatch) == "runs"
    found = Found(frozenset(), dict.fromkeys(REQUIRED, "no"))
    named = outcome(Item(lan=True), found, monkeypatch)
    assert all(f"{one.value} (no)" in named for one in REQUIRED)


def test_what_is_asked_for_may_not_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    item = Item("podman", require_all=True)
    assert outcome(item, LACKING, monkeypatch) == "failed: missing capability: podman (no program podman)"


def test_what_a_machine_is_known_to_lack_is_skipped_even_then(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Item("KVM", require_all=True, without="netem,KVM")
    assert outcome(one, LACKING, monkeypatch).startswith("skipped")
    more = Item("KVM", "podman", require_all=True, without="netem,KVM")
    assert outcome(more, LACKING, monkeypatch).startswith("failed")


def test_a_name_that_is_no_capability_is_a_mistake_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="telepathy"):
        outcome(Item("telepathy"), LACKING, monkeypatch)


def test_a_program_that_is_not_installed_is_missing_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    found = capabilities.probe.__wrapped__()
    assert found.missing[Capability.PODMAN] == "no program podman"
    assert found.missing[Capability.ROOT] == "not root"
