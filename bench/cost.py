"""What every study costs: its runs, the images each network sees, and the time.

The time is that of machines whose speed was measured. Nothing is loaded or trained. --write puts
the table into COST.md."""

import argparse
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from kdlib.config import FOLDS
from kdlib.data import long_tail_counts, view_count
from kdlib.study.grids import STUDIES

HERE = Path(__file__).parent
ORDER = (  # of work on a GPU
    "anchors-lt",
    "cifar100-lt-recipe",
    "cifar100-lt",
    "anchors",
    "cifar10-lt",
    "cifar100-recipe",
    "cifar100",
    "cifar100-lt-rivals",
    "cifar100-lt-knobs",
    "cifar100-lt-ablations",
    "superclass",
    "cifar10",
)
# images that a class may be drawn from at most, classes of a long tail, long tails; as in
# kdlib.study.datasets
POOLS = {
    "digits": (100, 10, 1),
    "cifar20": (400, 20, 1),
    "cifar100": (500, 100, 1),
    "cifar10": (5000, 10, 1),
    "superclass": (500, 5, 20),
}


def images_an_epoch(cfg):
    """Training images of a run, from the formula of the draw."""
    largest, classes, tails = POOLS[cfg.dataset]
    counts = long_tail_counts(largest, cfg.imbalance, classes, cfg.profile)
    labelled = counts if tails == 1 else [sum(counts)]  # folds are dealt out within a label
    left_out = 0 if cfg.fold is None else sum(len(range(cfg.fold, n, FOLDS)) for n in labelled)
    return tails * (sum(labelled) - left_out)


def multiplications(network):
    """Of one forward pass of a CIFAR ResNet: what rates are scaled by. None for other networks."""
    if not network.startswith("resnet"):
        return None
    size, _, shortcut = network.removeprefix("resnet").partition("-")
    depth, _, width = size.partition("x")  # of resnet8x2
    factor = int(width or 1)
    inputs = 16 * factor
    total = 9 * 3 * inputs * 32**2
    for outputs, side in ((16 * factor, 32), (32 * factor, 16), (64 * factor, 8)):
        for _ in range((int(depth) - 2) // 6):
            total += 9 * (inputs + outputs) * outputs * side**2
            if shortcut and inputs != outputs:
                total += inputs * outputs * side**2
            inputs = outputs
    return total + inputs * 100


# ---------------------------------------------------------------- what a study needs


@dataclass
class Work:
    """Images by network: trained on, and put through teachers for their tables."""

    runs: int = 0
    new: int = 0  # runs that no study before has; only theirs are the images
    trained: Counter = field(default_factory=Counter)
    # what the student's schedule shows, once for a seed's students
    cpu_tables: Counter = field(default_factory=Counter)
    gpu_tables: Counter = field(default_factory=Counter)  # all views, once for a teacher


def works(names=None):
    """{study: Work}, in order of work, then the others.

    A run, like a table, is counted where it comes first."""
    names = names or (*ORDER, *(name for name in STUDIES if name not in ORDER))
    seen, out = set(), {}
    for name in names:
        work = out[name] = Work()
        runs = {c.key(): c for run in STUDIES[name]() for c in (*run.dependencies(), run)}
        for cfg in runs.values():
            work.runs += 1
            if cfg.key() in seen:
                continue
            seen.add(cfg.key())
            n, work.new = images_an_epoch(cfg), work.new + 1
            work.trained[cfg.student] += cfg.epochs * n
            if not cfg.teacher:
                continue
            views = view_count(0 if cfg.dataset == "digits" else 4)
            # part of an image's views, on average
            shown = 1 - (1 - 1 / views) ** cfg.epochs if views > 1 else 1
            teacher = cfg.teacher_config()
            on_cpu = (work.cpu_tables, shown, (teacher, cfg.seed, cfg.epochs))
            on_gpu = (work.gpu_tables, 1, teacher)
            for tables, part, key in (on_cpu, on_gpu):
                if key not in seen:
                    seen.add(key)
                    tables[cfg.teacher] += round(part * n * views)
    return out


# ---------------------------------------------------------------- how long it takes


@dataclass(frozen=True)
class Machine:
    """Images/s measured on the whole of a machine, by network."""

    name: str
    train: dict
    forward: dict
    tables: str  # the field of Work that holds for it

    def seconds(self, work):
        """Of the new runs of a study, or None for a network that nothing measured resembles."""
        seconds, tables = [], getattr(work, self.tables)
        for rates, parts in ((self.train, work.trained), (self.forward, tables)):
            for network, images in parts.items():
                rate = speed(rates, network)
                if rate is None:
                    return None
                seconds.append(images / rate)
        return sum(seconds)


def speed(rates, network):
    """Images/s of a network: as measured, or scaled from the measured one that is nearest.

    Scaled by multiplications. None for a network that has no count of them."""
    size = multiplications(network)
    if network in rates or size is None:
        return rates.get(network)
    nearest = min(rates, key=lambda name: abs(math.log(multiplications(name) / size)))
    return rates[nearest] * multiplications(nearest) / size


def cpu_machine(results):
    """The Machine of results/cpu.json: students on labels (C2), the table of C1."""
    size, of = results["size"], results["machine"]
    seen = size["train"] * size["epochs"]
    train = {
        student: seen / median(results[part]["seconds"]["ours"])
        for student, part in zip(size["students"], ("C2 small", "C2 large"), strict=True)
    }
    forward = {size["teacher"]: results["C1"]["pairs"] / median(results["C1"]["seconds"]["fill"])}
    return Machine(f"{of['processor']}, {of['cores']} cores", train, forward, "cpu_tables")


def gpu_machine(results):
    """The Machine of results/gpu.json: the most runs at once (pace) and the table (G4), or None.

    Where no table was measured, an image through a teacher counts as a third of one that is trained
    on."""
    pace, table = results.get("pace", {}), results.get("G4", {})
    if not ("images/s" in pace and "device" in results):
        return None
    train = {network: max(rates.values()) for network, rates in pace["images/s"].items()}
    forward = {network: 3 * rate for network, rate in train.items()}
    if "seconds" in table:
        forward = {"resnet56": table["views"] / min(table["seconds"])}
    return Machine(results["device"], train, forward, "gpu_tables")


def machines(folder=HERE / "results"):
    """{"CPU": Machine or None, "GPU": the same}, from what was measured."""
    out = {}
    for kind, made in (("CPU", cpu_machine), ("GPU", gpu_machine)):
        file = folder / f"{kind.lower()}.json"
        out[kind] = made(json.loads(file.read_text())) if file.exists() else None
    return out


# ---------------------------------------------------------------- text


def duration(seconds):
    """In words: 12 min, 3.4 h, 56 days."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def millions(images):
    """Images by network in millions, smallest network first."""
    order = sorted(images, key=lambda name: (multiplications(name) or 0, name))
    return ", ".join(f"{name} {images[name] / 1e6:.3g}" for name in order) or "–"


def table(measured=None):
    """Markdown: a row per study, in order of work, and where the times come from."""
    measured = machines() if measured is None else measured
    lines = [
        "| study | runs | new | trained on, million images | teacher tables, CPU "
        "| teacher tables, GPU | CPU | GPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, work in works().items():
        seconds = [machine and machine.seconds(work) for machine in measured.values()]
        times = " | ".join("not measured" if s is None else duration(s) for s in seconds)
        lines.append(
            f"| `{name}` | {work.runs} | {work.new} | {millions(work.trained)} "
            f"| {millions(work.cpu_tables)} | {millions(work.gpu_tables)} | {times} |"
        )
    lines += [
        "",
        "*new*: runs that no row above has; images and times are theirs. Tables: million (image, "
        "view) pairs put through a teacher, on a CPU those that a student's schedule shows, on a "
        "GPU all. Evaluations are left out.",
    ]
    lines += [f"\n{kind}: {_source(machine)}" for kind, machine in measured.items()]
    return "\n".join(lines) + "\n"


def _source(machine):
    if machine is None:
        return "not measured."

    def listed(rates):
        return ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())

    return (
        f"{machine.name}; images/s measured in training: {listed(machine.train)}; forward: "
        f"{listed(machine.forward)}. Other depths are projected by multiplications from the "
        "nearest measured one, whatever the batch size."
    )


def filled(text, measured=None):
    """The text with the table between <!-- cost:start --> and <!-- cost:end -->."""
    start, end = "<!-- cost:start -->\n", "<!-- cost:end -->"
    return text.partition(start)[0] + start + table(measured) + end + text.partition(end)[2]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench cost", description=__doc__)
    parser.add_argument("--write", action="store_true", help="also write it into COST.md")
    given, page = parser.parse_args(arguments), HERE / "COST.md"
    print(table())
    if given.write:
        page.write_text(filled(page.read_text()))
