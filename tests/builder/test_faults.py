"""Builds of a small real image: what leaks is caught and named, what fails says why, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from builder import check, image
from builder.image import Shop
from services.common.errors import BacklineError, Exit
from services.common.versions import Ref
from tests.builder import tiny

pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root"),
]

# File that the script writes → what it depends on.
LEAKS = {
    "etc/leak-date": "date +%Y-%m-%d",
    "etc/leak-random": "head -c 16 /dev/urandom | od -An -tx1",
    "etc/leak-order": "ls -U /usr/bin",
    "etc/leak-hostname": "cat /proc/sys/kernel/hostname",
    "etc/leak-zone": "date +%Z",
    "etc/leak-cpus": "nproc",
}


@pytest.fixture(scope="module")
def real(shop: Shop) -> Shop:
    """The real shop, with the layers that the small image is built on."""
    image.build(shop, "rhfs")
    return shop


@dataclass(frozen=True)
class Checked:
    """A version that was checked when its checkout was gone: what `build check` said, and its exit code."""

    ref: Ref
    report: check.CheckReport
    code: int
    messages: str
    current: Ref | None


@pytest.fixture(scope="module")
def checked(real: Shop, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """Of an image whose script leaks in every way that it knows."""
    folder = tmp_path_factory.mktemp("leaky")
    # Under one umask: each is to be caught by its content.
    script = "\n".join(["umask 022", *(f"{command} > /{path}" for path, command in LEAKS.items())])
    checkout = tiny.make_checkout(folder / "checkout", real.lock, script=script)
    shop = tiny.open_shop(checkout, folder / "store")
    ref = image.build(shop, tiny.ROLE).ref
    assert check.describes(shop, ref)
    (shop.store.root / "current" / tiny.ROLE).unlink()
    shutil.rmtree(checkout)
    chosen = {f"BACKLINE_BUILD_{name.upper()}": value for name, value in msgspec.to_builtins(shop.settings).items()}
    program = "import sys; from services.common.main import build; sys.exit(build(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "check", "--json", str(ref)],
        capture_output=True,
        text=True,
        cwd=real.root,
        env=os.environ | chosen,
    )
    report = msgspec.json.decode(done.stdout, type=check.CheckReport)
    return Checked(ref, report, done.returncode, done.stderr, shop.store.current(tiny.ROLE))


@pytest.fixture(scope="module")
def leaky(checked: Checked) -> check.CheckReport:
    return checked.report


def test_a_version_is_checked_from_its_own_sources_when_the_checkout_is_gone(checked: Checked) -> None:
    """That it is the same but for its leaks (`test_nothing_else_is_named`) says that these were its sources."""
    assert f"{checked.ref} is not of this checkout" in checked.messages
    assert checked.report.version == checked.ref.version
    assert checked.code == Exit.DIFFERENT
    assert checked.current is None, "a check moves no pointer"


def test_a_leaky_image_is_not_reproducible(leaky: check.CheckReport) -> None:
    assert not leaky.same
    assert "root.erofs" in leaky.artefacts


@pytest.mark.parametrize("path", sorted(LEAKS))
def test_every_leak_is_named(leaky: check.CheckReport, path: str) -> None:
    assert path in {entry.path for entry in leaky.guilty}


def test_nothing_else_is_named(leaky: check.CheckReport) -> None:
    assert {entry.path for entry in leaky.guilty} == set(LEAKS)


def test_each_is_named_for_its_content(leaky: check.CheckReport) -> None:
    assert {entry.path: entry.differs[-1] for entry in leaky.guilty} == dict.fromkeys(LEAKS, "content")


def test_the_report_names_a_likely_cause(leaky: check.CheckReport) -> None:
    text = check.render(leaky)
    assert "NOT reproducible" in text
    assert "likely: " in text


def test_the_report_shows_what_differs_inside_of_a_file(leaky: check.CheckReport) -> None:
    shown = {path for path in LEAKS if f"first/{path}" in leaky.details}
    assert shown >= {"etc/leak-cpus", "etc/leak-hostname", "etc/leak-order", "etc/leak-random"}, leaky.details
    assert len(leaky.details.splitlines()) < 100, "too much to read"


@pytest.fixture
def checkout(real: Shop, tmp_path: Path) -> Path:
    return tiny.make_checkout(tmp_path / "checkout", real.lock)


def build_error(checkout: Path, store: Path) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        image.build(tiny.open_shop(checkout, store), tiny.ROLE)
    return caught.value


def test_a_script_that_reaches_for_the_network_fails_the_build(checkout: Path, tmp_path: Path) -> None:
    tiny.write_script(checkout, "exec 3<>/dev/tcp/192.0.2.1/80")
    error = build_error(checkout, tmp_path / "store")
    assert error.code == "image.mkosi"
    assert "Network is unreachable" in error.message


def test_a_failing_script_shows_its_own_output_and_how_to_replay(checkout: Path, tmp_path: Path) -> None:
    tiny.write_script(checkout, "echo the database has no floor >&2\nexit 3")
    error = build_error(checkout, tmp_path / "store")
    assert "the database has no floor" in error.message
    assert error.hint is not None
    assert "build image tiny" in error.hint


def test_a_generated_private_key_is_refused_and_named(checkout: Path, tmp_path: Path) -> None:
    tiny.write_script(checkout, "ssh-keygen -q -t ed25519 -N '' -f /etc/some-daemon.key")
    error = build_error(checkout, tmp_path / "store")
    assert error.code == "image.secret"
    assert "etc/some-daemon.key" in error.message


def test_a_dynamic_id_is_refused_and_named(checkout: Path, tmp_path: Path) -> None:
    tiny.write_script(checkout, "useradd --system --no-create-home drifter")
    error = build_error(checkout, tmp_path / "store")
    assert error.code == "ids.dynamic"
    assert "drifter" in error.message


def start_build(checkout: Path, store: Path) -> subprocess.Popen[str]:
    program = (
        "import signal, sys; from pathlib import Path; from tests.builder import tiny; from builder import image\n"
        # As in a terminal: what a script started in the background, these tests too, would ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from services.common.progress import Progress\n"
        "shop = tiny.open_shop(Path(sys.argv[1]), Path(sys.argv[2])); shop.progress = Progress(live=False)\n"
        "print(image.build(shop, tiny.ROLE).path)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(checkout), str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_below(folder: str) -> list[str]:
    """Command lines of processes that mention `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if folder in line and f"/{os.getpid()}/" not in str(path):
            found.append(line)
    return found


def has_started(build: subprocess.Popen[str], work: Path) -> bool:
    """Whether the script of the build runs: its working folder is in memory that only the build itself sees."""
    return any(Path(f"/proc/{build.pid}/root{work}").glob("*/final-tiny/ws/*/root/etc/started"))


def wait_until(condition: object, *, seconds: float) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_killed_build_leaves_nothing_and_the_next_one_succeeds(checkout: Path, tmp_path: Path) -> None:
    tiny.write_script(checkout, "touch /etc/started\nsleep 300")
    shop = tiny.open_shop(checkout, tmp_path / "store")
    work = shop.settings.cache_path / "work"
    with start_build(checkout, tmp_path / "store") as build:
        assert wait_until(lambda: has_started(build, work), seconds=60), "never started"
        build.send_signal(signal.SIGKILL)
        build.wait()
    assert wait_until(lambda: not processes_below(str(work)), seconds=10), processes_below(str(work))
    assert str(work) not in Path("/proc/self/mounts").read_text()
    tiny.write_script(checkout, "touch /etc/quick")
    built = image.build(tiny.open_shop(checkout, tmp_path / "store"), tiny.ROLE)
    assert built.fresh
    assert list(work.glob("*/final-tiny")) == []
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_an_interrupted_build_says_so_and_leaves_nothing(checkout: Path, tmp_path: Path) -> None:
    tiny.write_script(checkout, "touch /etc/started\nsleep 300")
    work = tiny.open_shop(checkout, tmp_path / "store").settings.cache_path / "work"
    with start_build(checkout, tmp_path / "store") as build:
        assert wait_until(lambda: has_started(build, work), seconds=60), "never started"
        build.send_signal(signal.SIGINT)
        build.communicate(timeout=30)
    assert build.returncode != 0
    assert list(work.glob("*/final-tiny")) == []
    assert wait_until(lambda: not processes_below(str(work)), seconds=10)


def test_the_second_of_two_builds_waits_and_says_so(checkout: Path, tmp_path: Path) -> None:
    tiny.write_script(checkout, "touch /etc/started\nsleep 2")
    store = tmp_path / "store"
    work = tiny.open_shop(checkout, store).settings.cache_path / "work"
    with start_build(checkout, store) as first:
        assert wait_until(lambda: has_started(first, work), seconds=60), "never started"
        with start_build(checkout, store) as second:
            output, messages = second.communicate(timeout=120)
        first_output, _ = first.communicate(timeout=120)
    assert "waiting: a build is going on in process" in messages, messages
    assert output == first_output != ""
