"""The training of a distillation: what is not there yet is trained side by side, and written."""

import contextlib
import time

import torch
from tqdm import tqdm  # tqdm.auto warns in notebooks without ipywidgets

from kdlib.asking.networks import named
from kdlib.config import FOLDS, KdlibError, count_of
from kdlib.distilling import processes, written
from kdlib.distilling.networks import fresh
from kdlib.distilling.recipe import TEACHER
from kdlib.distilling.steps import once, shared
from kdlib.distilling.views import reading
from kdlib.step import Run, method_loss
from kdlib.study.files import in_notebook
from kdlib.study.kept import Kept
from kdlib.study.machine import git_sha, machine
from kdlib.study.pace import in_words
from kdlib.teacher import frozen
from kdlib.train import fit

LEAST = 10.0  # seconds between two states that are kept
SHARE = 20  # in which keeping the last one fits so often
PAUSE = 60.0  # seconds between two lines where there is no bar
SOON = 10.0  # seconds before the first one
BEAT = 10.0  # seconds between two states of a bar in a notebook: papermill keeps every one


def train(setting, configs, teacher=None, margins=None, data=None):
    """Train in lockstep those that are not there yet, and write them."""
    todo = [cfg for cfg in configs if not written.is_there(setting, cfg, teacher)]
    if there := [cfg.key() for cfg in configs if cfg not in todo]:
        setting.say(f"Trained before, and kept: {', '.join(there)}.")
    if not todo:
        return
    data = data or setting.data
    kept = _kept(setting, configs, teacher)
    states = kept.before.get("states", {})
    keys = [cfg.key() for cfg in todo]
    before = {key: state for key, state in states.items() if key in keys}
    going = [cfg for cfg in todo if cfg.key() in before or not before]
    done = max((state["epoch"] for state in before.values()), default=0)
    name = ", ".join(cfg.key() for cfg in going)
    images = len(data.train)
    setting.say(_begins(going, images, done))
    start = time.monotonic()
    ask = _live(setting, teacher, going[0]) if teacher else None
    runs = [_run(setting, cfg, data, ask, margins, before) for cfg in going]
    total = images * going[0].epochs
    with reading(data.train.x), progress(name, total, images * done, setting.say) as told:
        outcomes = fit(runs, shared(told), _keeping(kept))
    seconds = kept.before["seconds"] + time.monotonic() - start
    failures = [f"{cfg.key()} diverged before a stop" for cfg in todo if cfg not in going]
    for run, outcome in zip(runs, outcomes, strict=True):
        if isinstance(outcome, KdlibError):
            failures.append(str(outcome).rstrip("."))
        else:
            written.write(setting, run, outcome, teacher, seconds)
    processes.wait()
    kept.remove()
    if failures:
        raise KdlibError(f"{'; '.join(failures)}; what did not fail is kept in {setting.out}.")


def _kept(setting, configs, teacher):
    """The Kept of runs in lockstep, also of those that were written before a stop."""
    same = machine(setting.device, configs[0].precision)
    del same["git"]  # they may go on with later code
    same |= {"data": setting.data_sha256, "teacher": teacher and teacher.sha256}
    same["configs"] = [written.recipe_of(cfg) for cfg in configs]
    name = "-and-".join(cfg.key() for cfg in configs[:2])
    return Kept(name, same, 1, setting.say, setting.out)


def _keeping(kept):
    """A function that keeps the states of runs after an epoch, now and then."""
    cost = 0.0  # seconds that keeping them took

    def keep(going):
        nonlocal cost
        if processes.rank() or time.monotonic() - kept.saved <= max(LEAST, SHARE * cost):
            return
        start = time.monotonic()
        kept.write(git_sha(), states={s.run.cfg.key(): s.state() for s in going})
        cost = time.monotonic() - start

    return keep


def _live(setting, teacher, cfg):
    """The teacher as it is asked in a step, once for all students."""
    ask = frozen(teacher.module)
    if cfg.precision == "bf16":  # as the students
        ask = torch.autocast(setting.device, torch.bfloat16)(ask)
    return once(ask)


def _run(setting, cfg, data, ask, margins, before):
    """The Run of a Config."""
    network = fresh(named(cfg.student), data.classes, cfg.seed).to(setting.device)
    loss = method_loss(cfg, (margins or {}).get(cfg.name), data.train)
    teacher = ask if cfg.teacher else None
    return Run(cfg, network, loss, data, teacher, resume=before.get(cfg.key()))


def _begins(configs, images, done):
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
