"""Bringing a hall into force: all or nothing, and the last good set stays, wherever the process dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Set
from pathlib import Path

import pytest

from services.common.errors import BusyError, InputError
from services.hall import ca, edge
from services.hall import daemons as daemons_module
from services.hall.apply import ISSUE, OVERRIDE, UNCONFIGURED, Outcome, apply, in_force
from services.hall.certificates import Authority
from services.hall.daemons import Offline
from services.hall.generations import Generations, inside
from services.hall.render import Identity, render
from tests.hall.halls import changed, hall, machine, parse, proposal, view

MORE_NICS = changed(
    ('addresses = { hall = "192.168.1.254", aliens = "192.168.250.254" }', 'addresses = { hall = "192.168.1.254" }\n'
     '\n[[hosts.gw.nics]]\naddresses = { aliens = "192.168.250.254" }'),
    ('keyboard = "us"', 'keyboard = "fr"'),
)  # fmt: skip
BAD = changed(('domain = "prolo"', 'domain = "pro_lo"'))


class Recording(Offline):
    """Daemons that note what they are told, and may refuse."""

    def __init__(self, *, refusal: str | None = None) -> None:
        super().__init__("gw")
        self.refusal = refusal
        self.heard: list[set[str]] = []

    def check(self, files: Path) -> None:
        if self.refusal:
            raise InputError("hall.refused", self.refusal)

    def tell(self, changed: Set[str]) -> list[str]:
        self.heard.append(set(changed))
        return ["ssh.service"] if changed else []


def expected(text: str, role: str = "gw", host: str = "gw") -> dict[str, str]:
    return {path: file.content for path, file in render(parse(text), Identity(role, host)).items()}


def run(root: Path, text: str | None, daemons: Offline | None = None) -> Outcome:
    return apply(root, daemons or Offline("gw"), environment=machine(root, text=text))


def test_a_machine_reads_what_its_hall_says(tmp_path: Path) -> None:
    outcome = run(tmp_path, proposal())
    assert outcome.configured
    assert (outcome.role, outcome.hostname, outcome.generation, outcome.warnings) == ("gw", "gw", 1, [])
    assert view(tmp_path) == expected(proposal())


def test_files_can_be_read_by_daemons_of_any_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run(tmp_path, proposal())
    finally:
        os.umask(before)
    for path in (tmp_path / "run").rglob("*"):
        if not path.is_symlink() and path.name != "lock":
            assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_without_a_hall_the_machine_says_so_and_does_nothing(tmp_path: Path) -> None:
    outcome = run(tmp_path, None)
    assert not outcome.configured
    assert inside(tmp_path, UNCONFIGURED).read_text() == "there is no hall.toml\n"
    assert "not configured: there is no hall.toml" in inside(tmp_path, ISSUE).read_text()
    assert not (tmp_path / "run/systemd").exists()
    assert in_force(tmp_path).reason == "there is no hall.toml"


def test_a_bad_hall_at_boot_leaves_the_machine_unconfigured_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="underscore"):
        run(tmp_path, BAD)
    assert "underscore" in inside(tmp_path, ISSUE).read_text()
    assert not (tmp_path / "run/systemd").exists()


def test_a_hall_that_arrives_later_ends_being_unconfigured(tmp_path: Path) -> None:
    run(tmp_path, None)
    run(tmp_path, proposal())
    assert not inside(tmp_path, UNCONFIGURED).exists()
    assert not inside(tmp_path, ISSUE).exists()


def test_a_bad_hall_on_reload_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    run(tmp_path, proposal())
    before = view(tmp_path)
    with pytest.raises(InputError, match="underscore") as caught:
        run(tmp_path, BAD)
    assert "set 1 stays in force" in str(caught.value.hint)
    assert view(tmp_path) == before
    assert not inside(tmp_path, UNCONFIGURED).exists()
    current = Generations(tmp_path).current()
    assert current is not None
    assert current.source == proposal()


def test_a_set_that_a_daemon_refuses_never_comes_into_force(tmp_path: Path) -> None:
    run(tmp_path, proposal())
    with pytest.raises(InputError, match="sshd says no"):
        run(tmp_path, MORE_NICS, Recording(refusal="sshd says no"))
    assert view(tmp_path) == expected(proposal())
    run(tmp_path, MORE_NICS)
    assert view(tmp_path) == expected(MORE_NICS)


def test_a_hall_that_vanished_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    environment = machine(tmp_path, text=proposal())
    apply(tmp_path, Offline("gw"), environment=environment)
    (tmp_path / "credentials/backline.hall").unlink()
    with pytest.raises(InputError, match="any more"):
        apply(tmp_path, Offline("gw"), environment=environment)
    assert view(tmp_path) == expected(proposal())


def test_links_of_targets_that_vanish_are_removed(tmp_path: Path) -> None:
    run(tmp_path, MORE_NICS)
    assert len(list((tmp_path / "run/systemd/network").iterdir())) == 3
    run(tmp_path, proposal())
    assert len(list((tmp_path / "run/systemd/network").iterdir())) == 2


def test_daemons_are_told_of_what_changed_and_only_once(tmp_path: Path) -> None:
    daemons = Recording()
    run(tmp_path, proposal(), daemons)
    run(tmp_path, proposal(), daemons)
    run(tmp_path, changed(('keyboard = "us"', 'keyboard = "fr"')), daemons)
    assert daemons.heard == [set(expected(proposal())), set(), {"/etc/default/keyboard"}]


def test_daemons_that_could_not_be_told_are_told_again(tmp_path: Path) -> None:
    class Deaf(Recording):
        def tell(self, changed: Set[str]) -> list[str]:
            raise InputError("process.failed", "no bus")

    run(tmp_path, proposal())
    with pytest.raises(InputError, match="no bus"):
        run(tmp_path, MORE_NICS, Deaf())
    daemons = Recording()
    run(tmp_path, MORE_NICS, daemons)
    assert "/etc/default/keyboard" in daemons.heard[0]


def test_the_same_hall_again_makes_no_new_set(tmp_path: Path) -> None:
    assert run(tmp_path, proposal()).generation == run(tmp_path, proposal()).generation == 1


def test_sets_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(6):
        run(tmp_path, proposal() + f"# {number}\n")
    assert len(list((tmp_path / "run/backline/hall/generations").iterdir())) == 2


def test_a_machine_gets_the_name_that_the_hall_gives_it(tmp_path: Path) -> None:
    daemons = Offline("localhost")
    run(tmp_path, proposal(), daemons)
    assert daemons.name == "gw"


def test_a_seat_is_told_its_role_by_the_credential_and_keeps_its_name(tmp_path: Path) -> None:
    daemons = Offline("pas-r01p02")
    outcome = apply(tmp_path, daemons, environment=machine(tmp_path, text=proposal(), role="nfsroot"))
    assert (outcome.role, daemons.name) == ("nfsroot", "pas-r01p02")


def test_an_override_wins_over_the_credential_and_that_over_files(tmp_path: Path) -> None:
    environment = machine(tmp_path, text=proposal())
    for folder in ("/etc/backline/hall.toml", "/run/backline/hall.toml", OVERRIDE):
        inside(tmp_path, folder).parent.mkdir(parents=True, exist_ok=True)
    sources = []
    places: tuple[str | None, ...] = ("/run/backline/hall.toml", "/etc/backline/hall.toml", None, OVERRIDE)
    for place in places:
        if place is None:
            (tmp_path / "credentials/backline.hall").write_text(proposal())
        else:
            inside(tmp_path, place).write_text(proposal())
            if place != OVERRIDE:
                (tmp_path / "credentials/backline.hall").unlink(missing_ok=True)
        sources.append(apply(tmp_path, Offline("gw"), environment=environment).source)
    expected_order = ["run/backline/hall.toml", "etc/backline/hall.toml", "credentials/backline.hall", OVERRIDE[1:]]
    assert sources == [str(tmp_path / place) for place in expected_order]


def test_a_reload_that_cannot_see_its_credentials_uses_what_the_start_saw(tmp_path: Path) -> None:
    environment = machine(tmp_path, text=proposal(), role="nfsroot")
    apply(tmp_path, Offline("seat"), environment=environment)
    inside(tmp_path, OVERRIDE).write_text(MORE_NICS)
    apply(tmp_path, Offline("seat"), environment={})
    assert view(tmp_path) == expected(MORE_NICS, "nfsroot", "seat")
    inside(tmp_path, OVERRIDE).unlink()
    apply(tmp_path, Offline("seat"), environment={})
    assert view(tmp_path) == expected(proposal(), "nfsroot", "seat")


def test_an_unconfigured_machine_that_gets_a_hall_later_knows_its_role(tmp_path: Path) -> None:
    apply(tmp_path, Offline("box"), environment=machine(tmp_path))
    inside(tmp_path, OVERRIDE).write_text(proposal())
    assert apply(tmp_path, Offline("box"), environment={}).hostname == "gw"


def test_an_image_that_does_not_link_etc_is_reported(tmp_path: Path) -> None:
    environment = machine(tmp_path, text=proposal())
    (tmp_path / "etc/hosts").unlink()
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n")
    outcome = apply(tmp_path, Offline("gw"), environment=environment)
    assert outcome.warnings == ["this image does not link /etc/hosts to the hall's"]


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    environment = machine(tmp_path, text=proposal())
    with Generations(tmp_path).lock(), pytest.raises(BusyError):
        apply(tmp_path, Offline("gw"), environment=environment)


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod", "os.link"}


def die_at(step: int, root: Path, text: str) -> bool:
    """Apply in a process that kills itself before its change number `step` of the file system; whether it lived."""
    environment = machine(root, text=text)
    child = os.fork()
    if child == 0:
        count = 0

        def count_changes(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            mode = arguments[1] if event == "open" else None
            if event in CHANGES or (isinstance(mode, str) and set(mode) & set("wax+")):
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        sys.addaudithook(count_changes)
        with contextlib.suppress(BaseException):
            apply(root, Offline("gw"), environment=environment)
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def test_dying_at_any_step_leaves_one_whole_set_in_force_and_the_next_run_finishes(tmp_path: Path) -> None:
    old, new = expected(proposal()), expected(MORE_NICS)
    run(tmp_path / "before", proposal())
    seen = set()
    for step in range(500):
        root = tmp_path / str(step)
        shutil.copytree(tmp_path / "before", root, symlinks=True)
        lived = die_at(step, root, MORE_NICS)
        found = view(root)
        assert found in (old, new), f"step {step}"
        seen.add(found == new)
        run(root, MORE_NICS)
        assert view(root) == new
        assert not list((root / "run").rglob("*.backline-new")), f"step {step}"
        assert not (root / "run/backline/hall/generations/.new").exists()
        if lived:
            break
    else:
        pytest.fail("it never came to an end")
    assert step > 30
    assert seen == {True, False}


def test_dying_at_any_step_of_the_first_run_leaves_nothing_or_one_whole_set(tmp_path: Path) -> None:
    whole = expected(proposal())
    for step in range(500):
        root = tmp_path / str(step)
        root.mkdir()
        lived = die_at(step, root, proposal())
        assert view(root) in ({}, whole), f"step {step}"
        if lived:
            break
    run(root, proposal())
    assert view(root) == whole


def test_dying_while_a_hall_is_refused_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, proposal())
    for step in range(3):
        with contextlib.suppress(AssertionError):
            die_at(step, tmp_path, BAD)
        assert view(tmp_path) == expected(proposal())


SSHD, CHRONYD = (daemons_module.program(name) for name in ("sshd", "chronyd"))


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    for path, file in render(hall(), Identity("gw", "gw")).items():
        target = inside(tmp_path, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not file.link:
            target.write_text(file.content)
    return tmp_path


@pytest.mark.skipif(
    SSHD is None or not daemons_module.sshd_knows_g(SSHD), reason="missing capability: sshd -G (OpenSSH 9.3)"
)
def test_sshd_takes_what_is_rendered_and_refuses_nonsense(rendered: Path) -> None:
    config = inside(rendered, "/run/backline/sshd.d/50-hall.conf")
    daemons_module.check_sshd(config)
    config.write_text("PermitRootLogin perhaps\n")
    with pytest.raises(InputError, match="sshd refuses"):
        daemons_module.check_sshd(config)


@pytest.mark.skipif(CHRONYD is None, reason="missing capability: chronyd")
def test_chronyd_takes_what_is_rendered_and_refuses_nonsense(rendered: Path) -> None:
    config = inside(rendered, "/run/backline/chrony.d/50-hall.conf")
    daemons_module.check_chrony(config)
    config.write_text("sever 192.168.1.254\n")
    with pytest.raises(InputError, match="chronyd refuses"):
        daemons_module.check_chrony(config)


NGINX = daemons_module.program("nginx")


@pytest.mark.skipif(NGINX is None, reason="missing capability: nginx")
@pytest.mark.parametrize("tls", [False, True])
def test_nginx_takes_what_is_rendered_and_refuses_nonsense(rendered: Path, tls: bool) -> None:
    config = inside(rendered, edge.CONFIGURATION)
    config.write_text(edge.servers(hall(), tls=tls))
    daemons_module.check_nginx(rendered)
    config.write_text(edge.servers(hall(), tls=tls).replace("deny all;", "deny al;", 1))
    with pytest.raises(InputError, match="nginx refuses"):
        daemons_module.check_nginx(rendered)


def test_a_certificate_turns_tls_on_and_off(tmp_path: Path) -> None:
    environment = machine(tmp_path, text=proposal())
    certificate = Path(environment["CREDENTIALS_DIRECTORY"], "backline.tls")

    def again(environ: dict[str, str] = environment) -> Outcome:
        return apply(tmp_path, Offline("gw"), environment=environ)

    again()
    assert "443" not in view(tmp_path)[edge.CONFIGURATION]
    certificate.write_bytes(Authority.open(*ca.make("finals", "prolo", passphrase=None)).issue("gw", names=["a.prolo"]))
    assert again().changed == [edge.CONFIGURATION]
    assert "listen 443 ssl" in view(tmp_path)[edge.CONFIGURATION]
    assert again({}).changed == []  # a reload, which sees no credentials
    certificate.unlink()
    assert again().changed == [edge.CONFIGURATION]


def test_a_certificate_that_is_no_good_stops_nothing_but_tls(tmp_path: Path) -> None:
    environment = machine(tmp_path, text=proposal())
    key, certificate = ca.make("finals", "prolo", passphrase=b"locked")
    for bad in (b"", b"nonsense", certificate, certificate + key):
        Path(environment["CREDENTIALS_DIRECTORY"], "backline.tls").write_bytes(bad)
        outcome = apply(tmp_path, Offline("gw"), environment=environment)
        assert outcome.configured
        assert "no HTTPS" in outcome.warnings[0]
        assert "443" not in view(tmp_path)[edge.CONFIGURATION]
