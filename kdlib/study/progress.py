"""How far a sweep is: a bar that moves every second, or a line now and then where there is none."""

import contextlib
import re
import sys
import threading
import time

from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib.config import count_of
from kdlib.study.files import in_notebook
from kdlib.study.pace import in_words
from kdlib.study.watch import log_file

BEAT = 1.0  # seconds between two looks at the log
PAUSE = 30.0  # seconds at least between two lines where there is no bar
TRUSTED = 0.1  # share of the first estimate that weighs as much as what was seen since
SHOWN = 3  # names of runs beside the bar
EPOCH = re.compile(r" (\S+) (goes on after )?epoch (\d+)/\d+")  # lines of watch and experiment
LOOKS = "{percentage:3.0f}% |{bar:8}| {elapsed} {desc}"


class Progress:
    """Follows the runs of a Plan, by what they write into the log.

    workers: how many of the expected seconds, plan.shares, pass in one second; starting: seconds
    before the first of them."""

    def __init__(self, plan, workers, starting):
        self.plan = plan
        self.workers = workers
        self.todo = {cfg.key(): cfg for cfg in plan.pending}
        self.begun = dict.fromkeys(self.todo, 0)  # epochs that an earlier sweep did
        self.epochs = dict.fromkeys(self.todo, 0)
        self.expected = sum(plan.shares[key] for key in self.todo)
        self.place = log_file().stat().st_size if log_file().exists() else 0
        self.start = self.seen = self.said = time.monotonic()
        self.left = starting + self.expected / workers
        self.least = self.expected / workers  # as long as nothing was done
        self.done = 0.0  # of the expected seconds
        self.ended = 0  # runs
        self.there = set()  # their keys, here or elsewhere

    def look(self):
        """Read on in the log; what is left is estimated anew whenever something was done."""
        with contextlib.suppress(OSError), open(log_file(), errors="replace") as log:
            log.seek(self.place)
            for key, again, epoch in EPOCH.findall(log.read()):
                if key in self.todo:
                    self.epochs[key] = int(epoch)
                    if again:
                        self.begun[key] = int(epoch)
            self.place = log.tell()
        self._count()
        for key in self.there:
            self.epochs[key] = self.todo[key].epochs
        done = sum(self.plan.shares[key] * self._share(key) for key in self.todo)
        self.ended = len(self.there)
        if done > self.done:
            self._estimate(done)

    def _count(self):
        """Note what is on record; others gave up or failed."""
        self.there |= self.plan.done
        for key, cfg in self.todo.items():
            elsewhere = key not in self.there and self.epochs[key] == cfg.epochs
            if elsewhere and self.plan.exists(cfg):
                self.there.add(key)

    def _estimate(self, done):
        """What is left, now that so many of the expected seconds are done.

        The pace is that since the first epoch: processes take their time to start."""
        self.seen = time.monotonic()
        if not self.done:
            self.start = self.seen
            self.before = done
        trusted = TRUSTED * self.expected / self.workers
        paid = self.seen - self.start + trusted
        slower = paid / ((done - self.before) / self.workers + trusted)
        self.left = slower * (self.expected - done) / self.workers
        self.least = 0.0
        self.done = done

    def _share(self, key):
        """How much is done, 0 to 1, of what there was to do of a run."""
        there = self.todo[key].epochs - self.begun[key]
        return (self.epochs[key] - self.begun[key]) / max(1, there)

    def told(self):
        """The runs and epochs done, and the time that is left, in words."""
        left = max(self.least, self.left - (time.monotonic() - self.seen))
        ends = "all done" if self.ended == len(self.todo) else f"about {in_words(left)} left"
        until = self.plan.left()
        if until < left:
            ends = f"{in_words(max(0.0, until))} until time is up"
        epochs = sum(self.epochs.values())
        every = sum(cfg.epochs for cfg in self.todo.values())
        return f"{self.ended}/{len(self.todo)} runs, {epochs:,}/{every:,} epochs, {ends}"

    def names(self):
        """The runs in progress, by key without data set and hash; or what is waited for."""
        running = list(self.plan.running)
        others = len(self.plan.others)
        if others and not running:
            return f"waiting for {count_of(others, 'run')} elsewhere"
        some = [
            cfg.key().removeprefix(f"{cfg.dataset}_").rpartition("_")[0] for cfg in running[:SHOWN]
        ]
        more = [f"{len(running) - SHOWN} more"] if len(running) > SHOWN else []
        return ", ".join([*some, *more])

    def say(self):
        """Look, and print a line for whoever reads the output later, if the last was long ago."""
        self.look()
        if self.ended and time.monotonic() - self.said > PAUSE:
            self.said = time.monotonic()
            print(self.told(), flush=True)


@contextlib.contextmanager
def shown(plan, workers, starting):
    """A function to call whenever a run ended; beside it a bar where somebody can see it."""
    progress = Progress(plan, workers, starting)
    notebook = in_notebook()
    if not notebook and not sys.stderr.isatty():
        yield progress.say
        return
    how = {"total": 1.0, "bar_format": LOOKS, "dynamic_ncols": not notebook}
    over = threading.Event()
    with tqdm(**how) as bar:

        def draw():
            progress.look()
            bar.n = progress.done / progress.expected
            bar.set_description_str(f"{progress.told()}: {progress.names()}".rstrip(": "))

        def beat():
            # a notebook that papermill runs keeps every state of the bar
            while not over.wait(10 * BEAT if notebook else BEAT):
                draw()

        draw()
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield lambda: None
        finally:
            over.set()
            thread.join()
        draw()
