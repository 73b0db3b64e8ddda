"""The training of a distillation: what is not there yet is trained side by side, and written."""

import functools
import time

import torch

from kdlib.asking.networks import named
from kdlib.config import KdlibError
from kdlib.distilling import processes, written
from kdlib.distilling.lockstep import Lockstep, begins, progress
from kdlib.distilling.networks import fresh
from kdlib.distilling.steps import Once, shared
from kdlib.distilling.views import reading
from kdlib.step import Run, method_loss
from kdlib.study.kept import Kept
from kdlib.study.machine import machine
from kdlib.study.table_cache import teacher_of
from kdlib.teacher import frozen
from kdlib.train import fit


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
    lockstep = Lockstep(kept, [cfg.key() for cfg in going])
    done = max((state["epoch"] for state in before.values()), default=0)
    name = ", ".join(cfg.key() for cfg in going)
    images = len(data.train)
    setting.say(begins(going, images, done))
    start = time.monotonic()
    ask = _live(setting, teacher, going[0]) if teacher else None
    runs = [_run(setting, cfg, data, ask, margins, lockstep, before) for cfg in going]
    total = images * going[0].epochs
    with reading(data.train.x), progress(name, total, images * done, setting.say) as told:
        outcomes = fit(runs, _stepper(setting, going[0], lockstep, told))
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


def _on_graphs(setting, cfg):
    """Whether steps are the study's captured ones: of kdlib's networks and images on one GPU."""
    x = setting.data.train.x
    on_one_gpu = isinstance(x, torch.Tensor) and x.is_cuda and processes.count() == 1
    return on_one_gpu and named(cfg.student).library == "kdlib"


def _stepper(setting, cfg, lockstep, told):
    """What takes the steps; of captured ones progress is told by the epoch."""
    if _on_graphs(setting, cfg):
        lockstep.told = functools.partial(told, len(setting.data.train))
        return None
    return shared(told)


def _kept(setting, configs, teacher):
    """The Kept of runs in lockstep, also of those that were written before a stop."""
    same = machine(setting.device, configs[0].precision)
    del same["git"]  # they may go on with later code
    same |= {"data": setting.data_sha256, "teacher": teacher and teacher.sha256}
    same["configs"] = [written.recipe_of(cfg) for cfg in configs]
    name = "-and-".join(cfg.key() for cfg in configs[:2])
    return Kept(name, same, 1, setting.say, setting.out)


def _live(setting, teacher, cfg):
    """The teacher as it is asked in a step: once for all students; by captured ones its table."""
    data = setting.data
    if _on_graphs(setting, cfg):
        how = cfg, lambda line: None, setting.say
        return teacher_of(teacher.module, data, setting.data_sha256, *how)
    ask = frozen(teacher.module)
    if cfg.precision == "bf16":  # as the students
        ask = torch.autocast(setting.device, torch.bfloat16)(ask)
    return Once(ask)


def _run(setting, cfg, data, ask, margins, lockstep, before):
    """The Run of a Config."""
    network = fresh(named(cfg.student), data.classes, cfg.seed).to(setting.device)
    loss = method_loss(cfg, (margins or {}).get(cfg.name), data.train)

    def after_epoch(epoch, curves, state):
        lockstep.after_epoch(cfg.key(), epoch, state)

    teacher = ask if cfg.teacher else None
    return Run(cfg, network, loss, data, teacher, after_epoch, before.get(cfg.key()))
