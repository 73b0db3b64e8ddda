"""Signals end a command cleanly, whatever it is doing."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kdlib import __main__ as cli
from kdlib.study import stopping

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "kdlib", "run", "digits", "--seeds", "1", "--jobs", "2"]


@pytest.fixture
def handlers():
    """Those of a process in the foreground; the handlers of this one are put back."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    stopping._heard.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def raised(number):
    with pytest.raises(stopping.Stopped) as stopped:
        signal.raise_signal(number)
    return stopped.value.args[0]


def test_a_second_signal_leaves_the_cleaning_up_alone_but_not_for_ever(handlers, monkeypatch):
    monkeypatch.setattr(stopping, "CLEANING", 0.2)
    stopping.listen()
    assert raised(signal.SIGTERM) == signal.SIGTERM
    signal.raise_signal(signal.SIGINT)  # nothing
    time.sleep(0.25)
    assert raised(signal.SIGINT) == signal.SIGINT


def test_what_was_to_be_ignored_stays_so(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    stopping.listen()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert raised(signal.SIGTERM)


def test_a_held_block_ends_before_the_signal_acts(handlers):
    stopping.listen()
    done = []
    with pytest.raises(stopping.Stopped), stopping.held():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        done.append("all of it")
    assert done
    stopping.ignore()
    with stopping.held():
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_process_that_starts_in_a_held_block_hears_of_it_when_it_says_so(handlers):
    code = (
        "import os, signal; from kdlib.study import stopping; os.kill(os.getpid(), signal.SIGINT); "
        "print('imports go on', flush=True); stopping.released(); print('never')"
    )
    with stopping.held():
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    out, _ = child.communicate()
    assert (child.returncode, out) == (-signal.SIGINT, b"imports go on\n")


def test_what_a_process_ignores_those_that_it_starts_ignore_too(handlers):
    code = (
        "import os, signal; from kdlib.study import stopping; stopping.released(); "
        "os.kill(os.getpid(), signal.SIGINT); print('goes on')"
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping.held():
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    out, _ = child.communicate()
    assert (child.returncode, out) == (0, b"goes on\n")


def test_another_thread_holds_nothing_and_goes_on():
    done = []

    def work():
        with stopping.held():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_an_import_that_turns_a_signal_into_an_error_is_still_stopped(handlers, monkeypatch):
    """As the initialisation of a module of C does."""

    def imported(name):
        stopping.listen()
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(cli, "study", imported)
    assert cli.main(["status", "digits"]) == 128 + signal.SIGTERM
    stopping._heard.clear()
    assert stopping.signal_behind(ImportError()) is None
    assert stopping.signal_behind(KeyboardInterrupt()) == signal.SIGINT


@pytest.fixture(params=["SIGINT to all", "SIGTERM to the parent", "SIGINT twice"])
def stopped(request, tmp_path):
    """(signal, exit code, what was said, processes left) of a run stopped while workers start."""
    environment = os.environ | {"KDLIB_RECORDS": str(tmp_path), "KDLIB_CACHE": str(tmp_path / "c")}
    run = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    number = getattr(signal, request.param.split()[0])
    while "to do: about" not in run.stdout.readline():
        assert run.poll() is None
    time.sleep(0.3)
    send = os.kill if "parent" in request.param else os.killpg
    send(run.pid, number)
    if "twice" in request.param:
        time.sleep(0.1)
        send(run.pid, number)
    _, err = run.communicate(timeout=60)
    return number, run.returncode, err, _alive(run.pid)


def _alive(session):
    """Processes of a session that still run, but those that nobody has waited for yet."""
    time.sleep(0.2)
    listed = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True)
    lines = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [args for sid, stat, args in lines if int(sid) == session and "Z" not in stat]


def test_a_run_that_is_stopped_while_workers_start_leaves_a_sentence_and_nothing_else(stopped):
    number, code, err, left = stopped
    word = "interrupted" if number == signal.SIGINT else "told to stop"
    kept = "finished runs are kept (0 of 9 runs on record)"
    assert err == f"kdlib: {word}; {kept}, and the same command goes on with the rest\n"
    assert (code, left) == (128 + number, [])
