"""Signals and ends, in real processes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PRELUDE = """
import os, signal, sys, threading, time
from reconciler.runtime.signals import *
def say(text): print(text, flush=True)
"""


@contextmanager
def process(code: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def end(child: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = child.communicate(timeout=20)
    return child.returncode, out, err


DAEMON = """
block_signals()
def reload():
    say("reload")
    return After.GO_ON
threads = Essentials()
stop = threading.Event()
threads.start("worker", stop.wait)
say("up")
end = lambda: After.END
number = wait_for_signals({signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload})
threads.expect_end()
stop.set()
say(number.name)
say(threads.join(10))
say(threads.failed)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_reload_and_end(number: signal.Signals) -> None:
    with process(DAEMON) as child:
        assert line(child) == "up"
        for _ in range(2):
            child.send_signal(signal.SIGHUP)
            assert line(child) == "reload"
        child.send_signal(number)
        assert end(child) == (0, f"{number.name}\n()\nNone\n", "")


def test_a_signal_that_comes_early_is_not_lost() -> None:
    code = "block_signals(); os.kill(os.getpid(), signal.SIGTERM); say('alive')\n"
    with process(code + "say(wait_for_signals({signal.SIGTERM: lambda: After.END}).name)") as child:
        assert end(child) == (0, "alive\nSIGTERM\n", "")


def test_waiting_can_have_an_end() -> None:
    code = """
block_signals()
actions = {signal.SIGHUP: lambda: (say("reload"), After.GO_ON)[1]}
os.kill(os.getpid(), signal.SIGHUP)
say(wait_for_signals(actions, timeout=0.05))
say(wait_for_signals(actions, timeout=0))
"""
    with process(code) as child:
        assert end(child) == (0, "reload\nNone\nNone\n", "")


@pytest.mark.parametrize(
    ("target", "failed", "logged"),
    [
        ("lambda: 1 / 0", "worker: ZeroDivisionError('division by zero')", "an essential thread ended"),
        ("lambda: sys.exit(3)", "worker: SystemExit(3)", "an essential thread ended"),
        ("lambda: None", "worker: ended by itself", "an essential thread ended"),
    ],
)
def test_a_dead_essential_thread_ends_the_process(target: str, failed: str, logged: str) -> None:
    code = f"""
block_signals()
threads = Essentials()
threads.start("worker", {target})
say(wait_for_signals({{signal.SIGTERM: lambda: After.END}}).name)
threads.expect_end()
say(threads.failed)
say(threads.join(10))
sys.exit(1 if threads.failed else 0)
"""
    with process(code) as child:
        status, out, err = end(child)
    assert (status, out) == (1, f"SIGTERM\n{failed}\n()\n")
    assert logged in err


def test_a_thread_that_fails_while_ending_is_not_forgotten() -> None:
    code = """
threads = Essentials()
go = threading.Event()
def work():
    go.wait()
    raise OSError("late")
threads.start("worker", work)
threads.expect_end()
go.set()
say(threads.join(10))
say(threads.failed)
"""
    with process(code) as child:
        assert end(child)[:2] == (0, "()\nworker: OSError('late')\n")


def test_a_hanging_thread_is_named_and_keeps_nothing_alive() -> None:
    code = """
threads = Essentials()
threads.start("hangs", threading.Event().wait)
threads.expect_end()
say(threads.join(0.01))
"""
    with process(code) as child:
        assert end(child) == (0, "('hangs',)\n", "")


def test_a_process_too_slow_to_end_is_ended() -> None:
    with process("HardExit(0.05, status=7)\nthreading.Event().wait()") as child:
        status, _, err = end(child)
    assert status == 7
    assert "most recent call first" in err  # the stacks say where it hung


def test_a_hard_exit_waits_for_what_must_not_be_cut() -> None:
    code = """
looks = []
def busy():
    looks.append(None)
    say("busy")
    return len(looks) < 3
HardExit(0, status=7, busy=busy, every=0.001)
threading.Event().wait()
"""
    with process(code) as child:
        status, out, _ = end(child)
    assert (status, out) == (7, "busy\n" * 4)  # the last look comes after another grace


def test_a_cancelled_hard_exit_does_nothing() -> None:
    code = "HardExit(0.05, status=7).cancel(); threading.Event().wait(0.2); say('alive')"
    with process(code) as child:
        assert end(child) == (0, "alive\n", "")


def test_stacks_on_request() -> None:
    code = "dump_stacks_on(); block_signals(); say('up'); wait_for_signals({signal.SIGTERM: lambda: After.END})"
    with process(code) as child:
        assert line(child) == "up"
        child.send_signal(signal.SIGUSR1)
        child.send_signal(signal.SIGTERM)
        status, _, err = end(child)
    assert status == 0
    assert "most recent call first" in err
