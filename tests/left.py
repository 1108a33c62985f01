"""What a session of tests leaves behind fails it: looked at once, when all workers are through.

One of two workers (`pytest -n 2`) could not tell what is the other's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

Look = Callable[[], set[str]]
_BEFORE = pytest.StashKey[dict[str, set[str]]]()


def before(session: pytest.Session, what: str, look: Look) -> None:
    """Remember what is there before the first test."""
    if not hasattr(session.config, "workerinput"):
        session.stash.setdefault(_BEFORE, {})[what] = look()


def after(session: pytest.Session, what: str, look: Look) -> None:
    """Fail the session when there is more than before."""
    known = session.stash.get(_BEFORE, {})
    left = look() - known[what] if what in known else set()
    if left:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        reporter.write_line(f"\n{what}: {', '.join(sorted(left))}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
