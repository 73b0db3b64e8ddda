"""results/cpu.json -> the table in README.md and results/cpu.svg. No number is typed by hand."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One claim: seconds of the usual loop over ours. must, aim: the targets of performance.md, None where it has none."""

    id: str
    what: str
    part: str                 # of the results
    ours: str                 # our side's key in that part's seconds
    must: float | None
    aim: float | None


ROWS = (
    Row("C1 cached", "distillation ResNet-56 → ResNet-8, teacher from a table filled beforehand", "C1", "cached", 3.0, 4.0),
    Row("C1 live", "the same, teacher asked at every step", "C1", "live", 1.6, 2.0),
    Row("C2 R8", "ResNet-8 on labels", "C2 small", "ours", 1.7, 2.2),
    Row("C2 R20", "ResNet-20 on labels", "C2 large", "ours", 1.5, 1.9),
    Row("C3", "data path alone: the views of one epoch", "C3", "ours", 10.0, 20.0),
)


# ---------------------------------------------------------------- numbers

def ratios(results, row):
    """Ratio of each pair of a round: usual loop over ours."""
    seconds = results[row.part]["seconds"]
    return [peer / ours for peer, ours in zip(seconds["peer"], seconds[row.ours], strict=True)]


def best_peer(rates):
    """The arrangement of the usual loop with the highest median rate."""
    return max((name for name in rates if name != "ours"), key=lambda name: median(rates[name]))


def aggregate_ratios(results):
    """Our runs per second over those of the usual loop's best arrangement, round by round."""
    rates = results["aggregate"]
    return [ours / peer for ours, peer in zip(rates["ours"], rates[best_peer(rates)], strict=True)]


def pays_after(results):
    """Students after which a filled table has cost less than asking the teacher live: fill / (live - cached)."""
    seconds = {name: median(values) for name, values in results["C1"]["seconds"].items()}
    return seconds["fill"] / (seconds["live"] - seconds["cached"])


def verdict(value, must, aim):
    if must is None:
        return ""
    return "not met" if value < must else "met" if value < aim else "met, and the aim"


def spread(values, unit=""):
    """Median (lowest to highest)."""
    return f"{median(values):.2f}{unit} ({min(values):.2f}–{max(values):.2f})"


# ---------------------------------------------------------------- text

def table(results):
    """The Markdown table and what has to be known with it."""
    lines = ["| id | what | usual loop | this engine | ratio (range) | must | aim | |", "|---|---|---|---|---|---|---|---|"]
    for row in ROWS:
        seconds, ratio = results[row.part]["seconds"], ratios(results, row)
        lines.append(f"| {row.id} | {row.what} | {median(seconds['peer']):.2f} s | {median(seconds[row.ours]):.2f} s | "
                     f"**{median(ratio):.2f}** ({min(ratio):.2f}–{max(ratio):.2f}) | {row.must:g} | {row.aim:g} | "
                     f"{verdict(median(ratio), row.must, row.aim)} |")
    rates, ratio, images = results["aggregate"], aggregate_ratios(results), results["size"]["train"]
    best = best_peer(rates)
    ours, theirs = (f"{images * median(rates[name]):.0f} images/s" for name in ("ours", best))
    lines.append(f"| C1, two | two one-thread processes of ours, C1 cached; best of the usual loop: {best.removeprefix('peer, ')}"
                 f" | {theirs} | {ours} | **{median(ratio):.2f}** ({min(ratio):.2f}–{max(ratio):.2f}) | – | – | |")
    return "\n".join([*lines, *_memory(results["memory"]), "", *_notes(results)]) + "\n"


def _memory(peaks):
    if peaks is None:
        return []
    peer, ours, held = (n / 1e6 for n in (peaks["peer"]["bytes"], peaks["ours"]["bytes"], peaks["ours"]["table"]))
    met = "met" if ours <= peer + held else "not met"
    return [f"| mem | peak memory of a C1 run above the loaded base; ours fills a table of {held:.1f} MB first | {peer:.0f} MB | "
            f"{ours:.0f} MB | {peer / ours:.2f} | usual loop + table | – | {met} |"]


def _notes(results):
    m, size, c1 = results["machine"], results["size"], results["C1"]
    workers = ", ".join(f"{part} {results[part]['workers']}" for part in dict.fromkeys(row.part for row in ROWS))
    return [
        f"Seconds are medians of {size['rounds']} rounds, in each of which every side ran once, in turn; a ratio is taken within "
        f"a round, its range is over rounds. {size['train']:,} training images ({results['C3']['images']:,} for C3), batch "
        f"{size['batch_size']}, {size['epochs']} epochs a run, {size['test']:,} test images after each epoch on both sides. "
        f"Images: {results['images']}.",
        "",
        f"The table of C1 takes {spread(c1['seconds']['fill'], ' s')} to fill for the {c1['pairs']:,} pairs of image and view "
        f"that a run of {size['epochs']} epochs shows: cheaper than a live teacher from {pays_after(results):.2f} students on.",
        "",
        f"DataLoader workers that served the usual loop best in a warm-up, of 0, 1 and 2: {workers}.",
        "",
        f"{m['processor']}, {m['cores']} cores, {m['threads']} threads, {m['capability']}; Python {m['python']}, torch "
        f"{m['torch']}, torchvision {m['torchvision']}; {m['date']}, commit {m['commit']}; load before the start "
        f"{m['load_before']:.1f}; {results['seconds'] / 60:.1f} minutes in all.",
    ]


def profile_table(results):
    """Markdown: shares of the time of one training epoch of ours, and what they imply."""
    shares = results["profile"]
    lines = [f"| part of a training step | {' | '.join(shares)} |", "|---" * (len(shares) + 1) + "|"]
    for part in next(iter(shares.values())):
        lines.append(f"| {part} | {' | '.join(f'{100 * share[part]:.1f} %' for share in shares.values())} |")
    plain, live = shares["labels only"], shares["live teacher"]
    convolutions = sum(share for part, share in plain.items() if part.startswith("convolution"))
    return "\n".join([
        *lines, "",
        f"A step on labels would be {1 / (1 - plain['batch norm'] - plain['ReLU']):.2f} times as fast if batch norm and ReLU "
        f"were free, {1 / (1 - convolutions / 2):.2f} times if convolutions took half as long, and "
        f"{1 / (1 - plain['data path']):.2f} times if the data path were free; a distillation step would be "
        f"{1 / (1 - live['teacher']):.2f} times as fast without its teacher."]) + "\n"


def ladder(results):
    """[(rung, median seconds)] of C1, one epoch: each rung gives up one more habit of the usual loop."""
    return [(rung, median(seconds)) for rung, seconds in results["C1"]["ladder"].items()]


def ladder_table(results):
    """Markdown of the ladder."""
    lines = ["| one switch at a time | s (range) | times the rung before | times the usual loop |", "|---|---|---|---|"]
    rungs = ladder(results)
    for (rung, seconds), (_, before) in zip(rungs, rungs[:1] + rungs, strict=False):
        measured = spread(results["C1"]["ladder"][rung])
        lines.append(f"| {rung} | {measured} | {before / seconds:.2f} | {rungs[0][1] / seconds:.2f} |")
    return "\n".join(lines) + "\n"


SECTIONS = {"cpu": table, "ladder": ladder_table, "profile": profile_table}


def filled(text, results):
    """The text with what stands between <!-- name:start --> and <!-- name:end --> written anew for every section."""
    for name, section in SECTIONS.items():
        start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
        before, after = text.partition(start)[0], text.partition(end)[2]
        text = before + start + section(results) + end + after
    return text


# ---------------------------------------------------------------- figure

def figure(results):
    """Ratios with must and aim, and the ladder of switches: a matplotlib Figure."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
    whole = Figure(figsize=(9.2, 3.6))
    left, right = whole.subplots(1, 2, width_ratios=(1.15, 1))
    for y, row in enumerate(ROWS):
        ratio = ratios(results, row)
        left.plot([min(ratio), max(ratio)], [y, y], color="#0072B2", linewidth=3, alpha=0.5)
        left.plot(median(ratio), y, "o", color="#0072B2", markersize=7, label="measured: median and range" if y == 0 else None)
        left.plot(row.must, y, "|", color="#D55E00", markersize=16, markeredgewidth=2, label="must" if y == 0 else None)
        left.plot(row.aim, y, "d", color="#444444", markerfacecolor="white", markersize=7, zorder=1,
                  label="aim" if y == 0 else None)
    left.set_yticks(range(len(ROWS)), [row.id for row in ROWS])
    left.invert_yaxis()
    left.set_xscale("log")
    left.xaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200]))
    left.xaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.set_xlim(left=0.95)
    left.grid(axis="x")
    left.set_xlabel("times as fast as the usual loop")
    left.set_title("Against the targets")
    left.legend(loc="center right")
    rungs = ladder(results)
    seconds = [s for _, s in rungs]
    right.barh(range(len(rungs)), seconds, color=["#767676"] + ["#9ecae1"] * (len(rungs) - 2) + ["#0072B2"])
    for y, s in enumerate(seconds):
        right.annotate(f"{seconds[0] / s:.2f}x", (s, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    right.set_yticks(range(len(rungs)), [rungs[0][0], *(f"+ {name}" for name, _ in rungs[1:-1]), rungs[-1][0]], fontsize=9)
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set_xlim(right=1.15 * max(seconds))
    right.set_xlabel("seconds per epoch of distillation (C1)")
    right.set_title("One switch at a time")
    return whole


def write(folder=HERE / "results"):
    """cpu.json in the folder -> cpu.svg beside it; and, for the committed results, README.md."""
    import matplotlib.style
    results = json.loads((folder / "cpu.json").read_text())
    with matplotlib.style.context(str(HERE.parent / "kdlib" / "paper.mplstyle")):
        figure(results).savefig(folder / "cpu.svg", metadata={"Date": None, "Creator": None})
    if folder.resolve() == HERE / "results":
        readme = HERE / "README.md"
        readme.write_text(filled(readme.read_text(), results))
