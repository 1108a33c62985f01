"""Programs are run without a shell, die with us, and explain how they failed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import HostError
from services.common.process import ProcessFailed, explain_exit, replay_line, run, running, spawn

ROOT = Path(__file__).parents[2]


def test_output_is_given_as_text() -> None:
    done = run(["sh", "-c", "printf 'é\\377'; printf err >&2"])
    assert (done.stdout, done.stderr, done.returncode) == ("é\ufffd", "err", 0)


def test_words_are_not_seen_by_a_shell() -> None:
    assert run(["printf", "%s", "$HOME;`id`"]).stdout == "$HOME;`id`"


def test_standard_input_is_empty_unless_given() -> None:
    assert run(["cat"]).stdout == ""
    assert run(["cat"], stdin="ab").stdout == "ab"


def test_a_failure_has_code_meaning_end_of_stderr_and_a_line_to_replay(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed) as caught:
        run(["sh", "-c", "seq 50 >&2; exit 3"], cwd=tmp_path, env={"A": "b c", "PATH": os.environ["PATH"]})
    error = caught.value
    assert error.message.splitlines()[0] == "sh failed with exit code 3"
    assert error.message.splitlines()[1:] == [str(number) for number in range(31, 51)]
    assert error.completed.returncode == 3
    assert error.hint is not None
    assert error.hint.startswith(f"to replay: cd {tmp_path} && env -i A='b c' PATH=")
    again = subprocess.run(["sh", "-c", error.hint.removeprefix("to replay: ")], capture_output=True, check=False)
    assert again.returncode == 3


def test_a_failure_may_be_asked_for_as_a_result() -> None:
    assert run(["false"], check=False).returncode == 1


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(HostError) as caught:
        run(["no-such-program"])
    assert (caught.value.code, "no-such-program" in caught.value.message) == ("process.missing", True)


def test_a_folder_that_is_missing_is_not_taken_for_the_program(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        run(["true"], cwd=tmp_path / "none")
    assert caught.value.code == "process.cwd"


def test_a_program_past_its_deadline_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(ProcessFailed, match="did not end before its deadline"):
        run(["sleep", "60"], deadline=began + 0.1)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (-9, "was ended by SIGKILL"),
        (143, "was ended by SIGTERM"),
        (127, "was not found"),
        (126, "could not be executed"),
        (1, "failed with exit code 1"),
        (159, "was ended by SIGSYS"),
        (-99, "failed with exit code -99"),
    ],
)
def test_exit_codes_are_put_into_words(code: int, meaning: str) -> None:
    assert explain_exit(code) == meaning


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=1, max_size=4))
def test_a_line_to_replay_is_the_same_words_again(argv: list[str]) -> None:
    assert shlex.split(replay_line(argv, cwd=None, env=None)) == argv


def test_what_we_own_ends_with_the_block() -> None:
    with running(spawn(["sleep", "60"])) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_what_does_not_listen_to_sigterm_is_killed() -> None:
    source = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); signal.pause()"
    with running(spawn([sys.executable, "-c", source], stdout=subprocess.PIPE), grace=0.1) as process:
        assert process.stdout is not None
        with process.stdout as output:
            assert output.readline() == b"x\n"
    assert process.returncode == -signal.SIGKILL


def test_a_program_dies_with_the_one_that_started_it() -> None:
    source = (
        "import os, signal\nfrom services.common.process import spawn\nread, write = os.pipe()\n"
        "child = spawn(['sh', '-c', 'echo ready >&2; exec sleep 60'], stderr=write)\nos.read(read, 1)\n"
        "print(child.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = run([sys.executable, "-c", source], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while alive(int(done.stdout)):
        assert time.monotonic() < deadline, "the child outlived its parent"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
