"""Signals to stop, real ones to real programs: at every moment one line, and the status 128 + the signal."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = [signal.SIGTERM, signal.SIGINT]


def stopped(program, number, *, times=1):
    """Sends a signal when the program prints a line; (exit status, what it writes on stderr)."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A test that runs in the background of a shell ignores Ctrl-C, and what it starts would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        for _ in range(times):
            assert process.stdout.readline()
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("number", SIGNALS)
def test_while_it_works(number):
    program = """
    import sys, time
    from registry.program import status_of
    def main():
        print("ready", flush=True)
        time.sleep(60)
    sys.exit(status_of(main))
    """
    assert stopped(program, number) == (128 + number, f"interrupted by {number.name}\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_while_it_is_loading(number):
    program = """
    import convbody.starting
    import time
    print("ready", flush=True)
    time.sleep(60)
    """
    assert stopped(program, number) == (128 + number, f"interrupted by {number.name}\n")


def test_in_a_destructor_where_python_drops_exceptions():
    program = """
    import sys, time
    from registry.program import status_of
    class Dropped:
        def __del__(self):
            print("ready", flush=True)
            time.sleep(60)
    def main():
        Dropped()
        time.sleep(60)
    sys.exit(status_of(main))
    """
    assert stopped(program, signal.SIGINT) == (130, "interrupted by SIGINT\n")


def test_where_what_is_interrupted_fails_in_its_own_words():
    program = """
    import sys, time
    from registry.program import status_of
    def main():
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            raise ImportError("a module could not be imported")
    sys.exit(status_of(main))
    """
    assert stopped(program, signal.SIGTERM) == (143, "interrupted by SIGTERM\n")


def test_a_second_signal_soon_after_does_not_cut_the_end_short_and_a_later_one_does():
    program = """
    import sys, time
    from registry import program
    program._PATIENCE = {patience}
    def main():
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("ending", flush=True)
            time.sleep(1 if {patience} else 60)
            print("ended", file=sys.stderr)
    sys.exit(program.status_of(main))
    """
    soon, late = (
        stopped(program.format(patience=patience), signal.SIGINT, times=2) for patience in (1000.0, 0.0)
    )
    assert soon == (130, "ended\ninterrupted by SIGINT\n")
    assert late == (130, "")


def test_a_forked_worker_leaves_ctrl_c_to_its_parent_and_ends_at_sigterm():
    program = """
    import os, signal, sys, time
    from registry.program import status_of
    def main():
        child = os.fork()
        if not child:
            time.sleep(60)
        time.sleep(0.2)
        os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it is still there"
        os.kill(child, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status_of(main), flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("143\n", "")
