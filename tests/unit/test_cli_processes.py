"""Child processes say where they are, and are gone when the block ends, however it ends."""

import os
import signal
import textwrap
from pathlib import Path

import psutil
import pytest

from promptjobs.cli.processes import Child, child
from promptjobs.cli.signals import interruptible, uninterrupted
from promptjobs.errors import ProcessFailed


@pytest.fixture
def module(tmp_path: Path):
    """Writes a module that a child can run; returns the environment in which it is found."""

    def write(body: str) -> dict[str, str | None]:
        (tmp_path / "childish.py").write_text(textwrap.dedent(body))
        return {"PYTHONPATH": str(tmp_path)}

    return write


SERVING = """
    import signal, sys
    print('{"url": "http://127.0.0.1:1"}', flush=True)
    signal.pause()
"""


def is_alive(started: Child) -> bool:
    return psutil.pid_exists(started.process.pid)


def test_child_tells_its_url_and_ends_with_the_block(module):
    with child("it", ["childish"], module(SERVING)) as started:
        assert started.read_url() == "http://127.0.0.1:1"
        assert is_alive(started)
    assert not is_alive(started)


def test_child_ends_when_the_block_fails(module):
    environment, seen = module(SERVING), list[Child]()

    def interrupted() -> None:
        with child("it", ["childish"], environment) as started:
            seen.append(started)
            started.read_url()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not is_alive(seen[0])


def test_child_that_ignores_the_request_to_end_is_killed(module):
    ignoring = SERVING.replace("print(", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(")
    with child("it", ["childish"], module(ignoring)) as started:
        started.read_url()
        started.stop(patience_seconds=0.2)
        assert started.process.returncode == -signal.SIGKILL


def test_child_that_ends_at_once_is_told_with_its_last_words(module):
    body = "import sys; print('first', file=sys.stderr); sys.exit('the port is taken')"
    with (
        pytest.raises(ProcessFailed, match="it ended with code 1: the port is taken"),
        child("it", ["childish"], module(body)) as started,
    ):
        started.read_url()


def test_child_that_says_something_else_is_told(module):
    with (
        pytest.raises(ProcessFailed, match="did not say where it is"),
        child("it", ["childish"], module("print('hello', flush=True); import signal; signal.pause()")) as started,
    ):
        started.read_url()
    assert not is_alive(started)


def test_silence_is_not_waited_for_for_ever(module):
    with (
        pytest.raises(ProcessFailed, match="did not start within"),
        child("it", ["childish"], module("import signal; signal.pause()")) as started,
    ):
        started.read_url(patience_seconds=0.1)
    assert not is_alive(started)


def test_environment_is_inherited_but_for_what_is_changed(module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("REMOVED", "removed")
    body = """
        import os, signal
        print('{"url": "%s %s"}' % (os.environ.get("KEPT"), os.environ.get("REMOVED")), flush=True)
        signal.pause()
    """
    with child("it", ["childish"], {**module(body), "REMOVED": None}) as started:
        assert started.read_url() == "kept None"


def test_ctrl_c_on_the_terminal_does_not_reach_a_child(module):
    with child("it", ["childish"], module(SERVING)) as started:
        assert os.getpgid(started.process.pid) == started.process.pid != os.getpgrp()


def hold_back(number: signal.Signals, done: list[str]) -> None:
    with uninterrupted():
        signal.raise_signal(number)
        done.append("the rest")


def interrupt_and_clean_up(number: signal.Signals, done: list[str]) -> None:
    with interruptible():
        try:
            signal.raise_signal(number)
            done.append("the rest")
        finally:
            signal.raise_signal(number)
            done.append("the way out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("act", "expected"), [(hold_back, ["the rest"]), (interrupt_and_clean_up, ["the way out"])])
def test_signal_interrupts_once_where_it_may_and_later_where_it_may_not(number, act, expected):
    before, done = signal.getsignal(number), list[str]()
    with pytest.raises(KeyboardInterrupt):
        act(number, done)
    assert done == expected
    assert signal.getsignal(number) is before


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(), uninterrupted():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
