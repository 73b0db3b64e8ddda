"""Networks that are trained side by side on the same views, and go on together after a stop."""

import contextlib
import time

from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib.config import FOLDS, count_of
from kdlib.distilling import processes
from kdlib.distilling.recipe import TEACHER
from kdlib.study.files import in_notebook
from kdlib.study.machine import git_sha
from kdlib.study.pace import in_words

LEAST = 10.0  # seconds between two states that are kept
SHARE = 20  # in which keeping the last one fits so often
PAUSE = 60.0  # seconds between two lines where there is no bar
SOON = 10.0  # seconds before the first one
BEAT = 10.0  # seconds between two states of a bar in a notebook: papermill keeps every one


class Lockstep:
    """Keeps the states of runs after an epoch, of all or of none: they share what is read.

    A run that diverged is left behind by the others."""

    def __init__(self, kept, keys):
        """kept: their Kept; keys: of the runs that go on."""
        self.kept = kept
        self.expected = set(keys)
        self.epoch = None
        self.states = {}
        self.cost = 0.0  # seconds that keeping the states took
        self.told = lambda: None  # hears that an epoch began to end

    def after_epoch(self, key, epoch, state):
        """One of them has ended an epoch; state(): what its next one depends on."""
        if epoch != self.epoch:
            if self.epoch is not None:
                self.expected = set(self.states)
            self.epoch = epoch
            self.states = {}
            self.told()
        self.states[key] = state
        due = time.monotonic() - self.kept.saved > max(LEAST, SHARE * self.cost)
        if due and self.states.keys() >= self.expected and not processes.rank():
            start = time.monotonic()
            states = {key: state() for key, state in self.states.items()}
            self.kept.write(git_sha(), states=states)
            self.cost = time.monotonic() - start


def begins(configs, images, done):
    """A sentence: what is trained now, and how long."""
    cfg = configs[0]
    epochs = f"{count_of(cfg.epochs, 'epoch')} of {count_of(images, 'image')}"
    if done:
        epochs += f", of which {done} were done before"
    if cfg.name == TEACHER:
        fold = "" if cfg.fold is None else f", without part {cfg.fold + 1} of {FOLDS} of the images"
        return f"Training the teacher, {cfg.student}, on labels alone{fold}: {epochs}."
    names = ", ".join(cfg.name for cfg in configs)
    return f"Training {names} side by side, seed {cfg.seed}: {epochs}."


@contextlib.contextmanager
def progress(name, total, done, say):
    """A function told(images), beside it a bar with images a second and the time left.

    Where nobody can see a bar, say(line) hears it now and then."""
    if processes.rank():
        yield lambda images: None
        return
    seen = not in_notebook()
    how = {"unit": " images", "unit_scale": True, "dynamic_ncols": seen}
    how["mininterval"] = 0.1 if seen else BEAT
    with tqdm(total=total, initial=done, desc=name, disable=None if seen else False, **how) as bar:
        if not bar.disable:
            yield bar.update
            return
        began = time.monotonic()
        said = began - PAUSE + SOON
        there = done

        def told(images):
            nonlocal said, there
            there += images
            now = time.monotonic()
            if now - said > PAUSE:
                said = now
                pace = (there - done) / (now - began)
                left = in_words((total - there) / pace)
                say(f"{name}: {there:,} of {total:,} images, {pace:,.0f} a second, {left} left")

        yield told
