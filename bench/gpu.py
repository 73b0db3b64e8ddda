"""The GPU part, one command of under ten minutes: checks, G1, G3-G5, memory, one switch at a time.

Needs torch and numpy (the peer's loader also torchvision). No record is read or written. What is
measured is written after each section, so a run that is cut short keeps what it has; a section that
fails is reported and the others go on."""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from bench import checks, inputs
from bench.checks import Eager
from bench.peer import Job, Traits, now, run
from kdlib import cuda
from kdlib.cuda import Captured
from kdlib.data import padded
from kdlib.losses import method_loss
from kdlib.models import build
from kdlib.step import Run, Stepper
from kdlib.study.files import available_cores
from kdlib.teacher import Table, frozen
from kdlib.train import fit, predict

TEACHER, STUDENT = "resnet56", "resnet20"
# bf16 traffic of a step, performance.md
MB_PER_IMAGE = {"resnet8": 2.65, "resnet20": 6.2, "resnet32": 9.8, "resnet56": 16.9}
USUAL = Traits()
EPOCHS = 3  # of a timed run; the first warms up
STUDY = {"seeds": 8, "epochs": 256, "students": 5, "self_seeds": 4}  # T: the core of cifar100-lt


class Bench:
    """What all sections share: images, teacher, table, and the results so far."""

    def __init__(self, args):
        self.args, self.started = args, time.monotonic()
        data, what = inputs.images(args.train, args.test, args.random)
        self.device, self.data = args.device, data.to(args.device)
        if args.device == "cuda":
            cuda.settings()  # before anything is computed there
        self.network = inputs.teacher_network(TEACHER, self.data)
        self.tables = {}
        self.results = {"images": what, "n": len(data.train), "test": len(data.test)}
        self.results |= machine(args.device)

    def left(self):
        return self.args.minutes * 60 - (time.monotonic() - self.started)

    def table(self):
        if not self.tables:
            self.tables["lt"] = Table.fill(self.network, self.data)
        return self.tables["lt"]

    def section(self, name, function, needs):
        """Do a section if `needs` seconds are left, and keep what it returns."""
        if self.left() < needs:
            self.results[name] = {"skipped": f"{self.left():.0f} s left, about {needs} s needed"}
        else:
            start = time.monotonic()
            try:
                self.results[name] = function(self)
            except Exception as error:  # a first run on a new device should say all it can
                self.results[name] = {"failed": f"{type(error).__name__}: {error}"}
            self.results[name]["took"] = round(time.monotonic() - start, 1)
        print(name, json.dumps(self.results[name])[:600], flush=True)
        self.write()

    def write(self):
        self.args.out.parent.mkdir(parents=True, exist_ok=True)
        self.args.out.write_text(json.dumps(self.results, indent=1) + "\n")


def machine(device):
    about = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        about |= {
            "device": torch.cuda.get_device_name(),
            "memory GB": round(total / 1e9, 1),
            "cuda": torch.version.cuda,
            "graphs": Captured.graphs,
        }
    return about


# ---------------------------------------------------------------- the two sides


def ours(
    bench, count=1, student=STUDENT, teacher="table", precision="fp32", stepper=None, compiled=False
):
    """Images/s of `count` runs in lockstep: median of the epochs but the first.

    Each epoch ends with one evaluation, as the peer's. teacher: "table", "live" or None."""
    data, runs, clock = bench.data, [], []
    for seed in range(count):
        how = {"seed": seed, "precision": precision}
        cfg = inputs.config(student, TEACHER if teacher else None, EPOCHS, **how)
        model = build(student, data.classes, seed).to(bench.device)
        ask = None
        if teacher:
            ask = bench.table() if teacher == "table" else frozen(bench.network)

        def after(epoch, curves, state, model=model, last=seed == count - 1):
            predict(model, data.test.x, data)
            if last:
                clock.append(now(bench.device))

        network = torch.compile(model) if compiled else model
        runs.append(Run(cfg, network, method_loss(cfg), data, ask, after))
    for outcome in fit(runs, stepper):
        if isinstance(outcome, Exception):
            raise outcome
    seconds = statistics.median(b - a for a, b in zip(clock, clock[1:], strict=False))
    return count * len(data.train) / seconds


def peer_job(bench, traits, workers):
    cfg, args = inputs.config(STUDENT, TEACHER, EPOCHS), bench.args
    return Job(cfg, traits, workers, 1, bench.device, args.train, args.test, args.random)


def peer(bench, traits=USUAL):
    """Images/s of one run of the usual loop."""
    result = run(peer_job(bench, traits, max(1, min(8, bench.args.cores - 1))))
    return result["n"] / statistics.median(result["seconds"][1:])


def peers(bench, count):
    """Images/s of `count` processes of the usual loop at once, all their epochs but the first."""
    job = peer_job(bench, USUAL, max(1, min(8, (bench.args.cores - count) // count)))
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        results = list(pool.map(run, [job] * count))
    return sum(r["n"] / statistics.median(r["seconds"][1:]) for r in results)


def spread(values):
    median = statistics.median(values)
    return {"median": median, "min": min(values), "max": max(values), "all": values}


# ---------------------------------------------------------------- sections


def equivalence(bench):
    """Written after each check, so that one that hangs hides no other."""
    results = bench.results["E"] = {}

    def say(line):
        print(line, flush=True)
        bench.write()

    return checks.run_all(bench.device, say, results)


def pace(bench):
    """Images/s of training on labels, one run and eight at once."""
    speeds = {}
    for name in (STUDENT, TEACHER):
        speeds[name] = {count: ours(bench, count, name, None) for count in (1, 8)}
    return {"images/s": speeds}


def start_up(bench):
    """G5: from the start of Python to the first replay of a captured step of R56 -> R20."""
    code = (
        "import time, sys; start = time.time()\n"
        "from bench import gpu\n"
        f"gpu.first_step({bench.device!r})\n"
        "print(time.time() - start)"
    )
    how = {"capture_output": True, "text": True, "check": True, "timeout": 300}
    out = subprocess.run([sys.executable, "-c", code], **how)
    return {"seconds": float(out.stdout.split()[-1])}


def first_step(device):
    """One step of one run of R56 -> R20 with the live teacher, captured where there is a GPU."""
    data = checks.images(device)
    cfg = replace(checks.KD, student=STUDENT, teacher=TEACHER)
    model, teacher = (build(name, data.classes, 0).to(device) for name in (STUDENT, TEACHER))
    run_of_it = Run(cfg, model, method_loss(cfg), data, frozen(teacher))
    steps = (Captured if device == "cuda" else Eager)(run_of_it, padded(data.train.x, data.pad))
    with steps.on_stream():
        steps.begin(0)
        steps.step(0)
    now(device)


def table_fill(bench):
    """G4: seconds to fill the complete table of the long-tailed images; of 50,000 in proportion."""
    bench.tables.clear()
    seconds = []
    for _ in range(2):
        start = now(bench.device)
        bench.tables["lt"] = Table.fill(bench.network, bench.data)
        seconds.append(now(bench.device) - start)
    views = len(bench.data.train) * bench.data.views
    full = min(seconds) * 50_000 * 162 / views
    return {"seconds": seconds, "views": views, "full, in proportion": full}


def single(bench):
    """G1: images/s of one run of R56 -> R20 on both sides, A/B/A/B, and the ratio of each pair.

    Each epoch ends with an evaluation."""
    theirs, cached, live = [], [], []
    for _ in range(bench.args.rounds):
        theirs.append(peer(bench))
        cached.append(ours(bench))
        live.append(ours(bench, teacher="live"))
    return {
        "peer": spread(theirs),
        "ours": spread(cached),
        "ours live": spread(live),
        "ratio": spread([a / b for a, b in zip(cached, theirs, strict=True)]),
        "ratio live": spread([a / b for a, b in zip(live, theirs, strict=True)]),
    }


def copy_bandwidth(bench):
    """Bytes/s of a large copy, read and written, on the device."""
    size = 2**30 if bench.device == "cuda" else 2**26
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    target, seconds = torch.empty_like(source), []
    for _ in range(6):
        start = now(bench.device)
        target.copy_(source)
        seconds.append(now(bench.device) - start)
    return 2 * source.numel() / min(seconds[1:])


def grid(bench):
    """G3: images/s of M runs in lockstep against the usual loop, and the share of the memory roof.

    The usual loop is run in sequence and in concurrent processes. The share: images/s times the
    bf16 traffic of a fused step, over the bandwidth of a copy measured here."""
    bandwidth = copy_bandwidth(bench)
    mine = {m: ours(bench, m) for m in (1, 2, 4, 8)}
    theirs = {n: peer(bench) if n == 1 else peers(bench, n) for n in (1, 4, 8)}
    most = max(mine.values())
    return {
        "bytes/s": bandwidth,
        "ours": mine,
        "peer": theirs,
        "ratio to sequential": most / theirs[1],
        "ratio to best concurrent": most / max(theirs.values()),
        "share of roof": {m: v * MB_PER_IMAGE[STUDENT] * 1e6 / bandwidth for m, v in mine.items()},
    }


def memory(bench):
    """Bytes allocated at most by one KD run and by eight, table and images included."""
    if bench.device != "cuda":
        return {}
    most = {}
    for m in (1, 8):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        ours(bench, m)
        most[m] = {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
        }
    return most


def ladder(bench):
    """Images/s: the usual loop giving up one habit after the other, then this engine's switches."""
    traits, steps = Traits(), {"the usual loop": peer(bench)}
    for field in fields(Traits):
        if field.name != "teacher_each_step":
            traits = replace(traits, **{field.name: False})
            steps[f"without {field.name}"] = peer(bench, traits)
    return steps | {
        "this engine, live teacher, eager": ours(bench, teacher="live", stepper=Stepper),
        "teacher's table, eager": ours(bench, stepper=Stepper),
        "fused SGD, rate on the device": ours(bench, stepper=Eager),
        "captured": ours(bench),
        "captured, 4 at once": ours(bench, 4),
        "captured, 8 at once": ours(bench, 8),
    }


def precision(bench):
    """Images/s of four runs at once: strict fp32, TF32, bf16, and without determinism.

    TF32, deterministic, is the default."""
    speeds = {"TF32": ours(bench, 4), "bf16": ours(bench, 4, precision="bf16")}
    settings = cuda.settings

    def changed(benchmark=True, deterministic=True, tf32=True):
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32

    changes = {"strict fp32": {"tf32": False}, "not deterministic": {"deterministic": False}}
    try:
        for name, how in changes.items():
            cuda.settings = lambda how=how: changed(**how)
            speeds[name] = ours(bench, 4)
    finally:
        cuda.settings = settings
        settings()
    return speeds


def compiled(bench):
    """torch.compile of the network inside the captured step: adopted only for 1.5 times."""
    return {"captured": ours(bench), "compiled and captured": ours(bench, compiled=True)}


def study(bench):
    """T: the runs of cifar100-lt's core at the speeds measured here, four at once.

    Evaluations as in a study are left out."""
    speeds = {
        "R56": ours(bench, 4, "resnet56", None),
        "R56 kd": ours(bench, 4, "resnet56", "table"),
        "R20": ours(bench, 4, "resnet20", "table"),
    }
    runs = {
        "R56": STUDY["seeds"],
        "R20": STUDY["seeds"] * STUDY["students"],
        "R56 kd": STUDY["self_seeds"] * STUDY["students"],
    }
    images = STUDY["epochs"] * len(bench.data.train)
    seconds = sum(count * images / speeds[name] for name, count in runs.items())
    return {"images/s": speeds, "projected minutes": seconds / 60, "runs": sum(runs.values())}


def profile(bench):
    """Where a captured step of R56 -> R20 goes: device time by kernel, 20 steps of one run."""
    if bench.device != "cuda":
        return {}
    from torch.profiler import ProfilerActivity

    cfg = inputs.config(STUDENT, TEACHER, 2)
    model = build(STUDENT, bench.data.classes, 0).to(bench.device)
    run_of_it = Run(cfg, model, method_loss(cfg), bench.data, bench.table())
    steps = Captured(run_of_it, padded(bench.data.train.x, bench.data.pad))
    with steps.on_stream():
        steps.begin(0)
        start = now(bench.device)
        for _ in range(50):
            steps.step(0)
        wall = (now(bench.device) - start) / 50
        steps.begin(0)
        with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(20):
                steps.step(0)
            now(bench.device)
    kernels = {}
    for event in sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total):
        if event.self_device_time_total:
            microseconds = round(event.self_device_time_total / 20, 1)
            kernels[event.key[:90]] = [microseconds, event.count / 20]
    return {
        "wall us per step": 1e6 * wall,
        "device us per step": sum(v[0] for v in kernels.values()),
        "kernels per step": sum(v[1] for v in kernels.values()),
        "us and launches per step": dict(list(kernels.items())[:25]),
    }


SECTIONS = {  # name: (function, seconds it needs at most)
    "E": (equivalence, 20),
    "pace": (pace, 40),
    "G5": (start_up, 40),
    "G4": (table_fill, 40),
    "G1": (single, 60),
    "G3": (grid, 100),
    "memory": (memory, 30),
    "T": (study, 40),
    "precision": (precision, 50),
    "profile": (profile, 20),
    "ladder": (ladder, 60),
    "compile": (compiled, 100),
}


def main(arguments=None):
    about = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=about)
    add = parser.add_argument
    add("sections", nargs="*", metavar="SECTION", help=f"default: all of {', '.join(SECTIONS)}")
    out = Path(__file__).with_name("results") / "gpu.json"
    add("--out", type=Path, default=out, metavar="FILE")
    skipped = "sections that need more than is left are skipped"
    add("--minutes", type=float, default=9.0, help=skipped)
    add("--rounds", type=int, default=3, help="pairs of G1")
    rehearsal = "cpu: a rehearsal, without graphs; its numbers mean nothing"
    add("--device", choices=("cpu", "cuda"), default="cuda", help=rehearsal)
    for side in ("train", "test"):
        add(f"--{side}", type=int, metavar="N", help=f"{side} images; default: all")
    add("--random", action="store_true", help="random images")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch cannot use a GPU here")
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"unknown section {sorted(unknown)[0]!r}; allowed: {', '.join(SECTIONS)}")
    args.cores = available_cores()
    bench = Bench(args)
    for name in args.sections or SECTIONS:
        bench.section(name, *SECTIONS[name])
    print(args.out)
    sections = [section for section in bench.results.values() if isinstance(section, dict)]
    parts = [part for section in sections for part in (section, *section.values())]
    parts = [part for part in parts if isinstance(part, dict)]
    return int(any("failed" in part or part.get("passed") is False for part in parts))
