"""The pytest plugin: the `lab` fixture, its marker and its options. Loaded wherever Backline is installed.

    @pytest.mark.lan(topology="hall", seats=2)
    def test_web_reaches_gw(lab):
        lab["web"].succeeds("ping", "-c1", "gw")

A lab is shared by the tests that want the same one, as long as they leave it as it was: healed, every node up, on the
version that it was started with. After every test, failed units and core dumps fail it, even if its asserts passed. A
failed test keeps the lab's journal and prints the command that shows it.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from e2e.capabilities import Capability
    from e2e.lab import Lab
    from e2e.pool import Labs

FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("lan", "Backline's LAN in containers")
    group.addoption(
        "--lan-keep", action="store_true", help="keep the journal of every lab, not only of those that failed"
    )
    group.addoption("--lan-repl", action="store_true", help="a Python prompt with `lab` at the moment of failure")
    group.addoption("--lan-seed", type=int, default=None, help="seed of fault schedules (printed; random by default)")
    group.addoption("--lan-backend", choices=("nspawn", "qemu", "fake"), default=None, help="what seats run in")
    group.addoption("--lan-topology", default=None, metavar="NAME|FILE", help="replaces the topology of every test")
    group.addoption(
        "--require-all", action="store_true", help="a test that would be skipped for a missing capability fails"
    )
    group.addoption(
        "--without",
        default="",
        metavar="NAME,...",
        help="capabilities that this machine is known to lack: --require-all does not ask for them",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Markers, and the session's seed."""
    config.addinivalue_line(
        "markers",
        "lan(topology='hall', seats=0, share=True, start=True): the lab that the `lab` fixture makes",
    )
    config.addinivalue_line(
        "markers", "needs(*names): capabilities of this machine, by their names (`backline lan probe`)"
    )
    if config.getoption("--without"):
        from e2e.capabilities import Capability

        known = [one.value for one in Capability]
        for name in config.getoption("--without").split(","):
            if name not in known:
                raise pytest.UsageError(f"--without: no capability {name!r}; there are: {', '.join(known)}")
    if config.getoption("--lan-seed") is None:
        config.option.lan_seed = random.SystemRandom().randrange(2**32)


def pytest_report_header(config: pytest.Config) -> str:
    """So that a failure can be played again."""
    return f"lan: --lan-seed={config.getoption('--lan-seed')}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or with --require-all fail, what this machine cannot do, by name."""
    wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
    if any(item.iter_markers("lan")):
        wanted = [*(one.value for one in _required()), *wanted]
    if not wanted:
        return
    from e2e.capabilities import Capability, probe

    found = probe()
    missing = [name for name in dict.fromkeys(wanted) if Capability(name) not in found]
    if missing:
        reason = "missing capability: " + ", ".join(
            f"{name} ({found.missing.get(Capability(name), 'not tried')})" for name in missing
        )
        known = item.config.getoption("--without").split(",")
        if item.config.getoption("--require-all") and not set(missing) <= set(known):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def _required() -> tuple[Capability, ...]:
    from e2e.capabilities import REQUIRED

    return REQUIRED


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What no assertion looked at fails the test too."""
    lab: Lab | None = pyfuncitem.funcargs.get("lab")  # type: ignore[assignment]
    if lab is not None:
        lab.journal.note("step", f"test {pyfuncitem.nodeid}")
    result = yield
    if lab is not None and not lab.closing:
        since, lab.checked = lab.checked, lab.journal.mark()  # from its start on: nothing falls between two tests
        lab.check(since=since)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note failures for the fixture, and say how to see the journal again."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
        lab = getattr(item, "funcargs", {}).get("lab")
        if lab is not None:
            report.sections.append(
                ("lan", f"to see it again: {lab.again()}\nseed: {item.config.getoption('--lan-seed')}")
            )
            if item.config.getoption("--lan-repl"):
                _repl(lab, item, call)
    return report


def _repl(lab: Lab, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    import code

    capture = item.config.pluginmanager.getplugin("capturemanager")
    capture.suspend_global_capture(in_=True)
    try:
        banner = f"{item.nodeid}: {call.excinfo.value if call.excinfo else 'failed'}\n`lab` is the lab; Ctrl-D goes on"
        code.interact(banner=banner, local={"lab": lab, **lab.nodes}, exitmsg="")
    finally:
        capture.resume_global_capture()


@pytest.fixture(scope="session")
def labs(request: pytest.FixtureRequest) -> Iterator[Labs]:
    """The session's labs."""
    from e2e.pool import Labs

    pool = Labs(
        keep=request.config.getoption("--lan-keep"),
        topology=request.config.getoption("--lan-topology"),
        seats_in=request.config.getoption("--lan-backend"),
    )
    yield pool
    pool.close()


@pytest.fixture
def lab(request: pytest.FixtureRequest, labs: Labs) -> Iterator[Lab]:
    """A lab as the test's `lan` marker says; up, unless it says start=False."""
    marker = request.node.get_closest_marker("lan")
    how = dict(marker.kwargs) if marker else {}
    running = labs.take(**how)
    for name, version in running.versions().items():
        request.node.user_properties.append((f"version.{name}", version))
    yield running
    labs.give_back(running, failed=request.node.stash.get(FAILED, False), share=how.get("share", True))


@pytest.fixture
def lan_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this session's fault schedules."""
    seed: int = request.config.getoption("--lan-seed")
    return seed
