"""Ctrl-C and SIGTERM end a command once, and never while a process is being started."""

import contextlib
import math
import signal
import threading
import time

from kdlib.study.files import remove_unfinished

SIGNALS = (signal.SIGTERM, signal.SIGINT)
CLEANING = 3.0  # seconds in which a second signal does not disturb what the first one began

_heard = []  # numbers of the signals that were raised


class Stopped(KeyboardInterrupt):
    """Raised in the main thread; its argument is the number of the signal."""


def listen():
    """Have signals raise Stopped from here on, but those that this process was told to ignore."""
    last = -math.inf
    _heard.clear()

    def stop(number, frame):
        nonlocal last
        now = time.monotonic()
        if now - last > CLEANING:
            last = now
            _heard.append(number)
            raise Stopped(number)

    for number in _minded():
        signal.signal(number, stop)


def _minded():
    """The signals that this process was not told to ignore; what it starts is told the same."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def signal_behind(error):
    """The number of the signal that made an exception, or None if it is one of its own.

    A module of C that is being imported turns what stops it into an error of another kind."""
    if _heard:
        return _heard[-1]
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else None


def ignore():
    """Have signals do nothing from here on: all is said and done, and nothing half-written left."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    remove_unfinished()


@contextlib.contextmanager
def held():
    """A block that no signal cuts short: what came meanwhile acts at its end.

    A process that starts in it begins with the signals blocked, see `released`. In other threads
    than the main one, which hears signals, nothing is held."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = {number: signal.getsignal(number) for number in _minded()}
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    _mask("SIG_BLOCK")
    try:
        yield
    finally:
        _mask("SIG_UNBLOCK")
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
    for number in came[:1]:
        signal.raise_signal(number)


def released():
    """In a new process: a signal ends it at once and quietly, also one that came before.

    What it was writing is removed."""

    def end(number, frame):
        remove_unfinished()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    for number in _minded():
        signal.signal(number, end)
    _mask("SIG_UNBLOCK")


def led(number=None):
    """In a new process that another one ends: Ctrl-C is for that one, SIGTERM ends it at once.

    number: of a worker of torch, which counts for nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _mask("SIG_UNBLOCK")


def _mask(how):
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(getattr(signal, how), SIGNALS)
