"""results/cpu.json -> the table in README.md and results/cpu.svg. No number is typed by hand."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One claim: seconds of the usual loop over ours.

    must, aim: the targets of performance.md, None where it has none."""

    id: str
    what: str
    part: str  # of the results
    ours: str  # our side's key in that part's seconds
    must: float | None
    aim: float | None


ROWS = (
    Row(
        "C1 cached",
        "distillation ResNet-56 → ResNet-8, teacher from a table filled beforehand",
        "C1",
        "cached",
        3.0,
        4.0,
    ),
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
    """Students after which a filled table has cost less than asking the teacher live.

    That is fill / (live - cached), in seconds."""
    seconds = {name: median(values) for name, values in results["C1"]["seconds"].items()}
    return seconds["fill"] / (seconds["live"] - seconds["cached"])


def verdict(value, must, aim):
    if must is None:
        return ""
    if value < must:
        return "not met"
    return "met" if value < aim else "met, and the aim"


def spread(values, unit=""):
    """Median (lowest to highest)."""
    return f"{median(values):.2f}{unit} ({min(values):.2f}–{max(values):.2f})"


# ---------------------------------------------------------------- text


def table(results):
    """The Markdown table and what has to be known with it."""
    lines = [
        "| id | what | usual loop | this engine | ratio (range) | must | aim | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        seconds, ratio = results[row.part]["seconds"], ratios(results, row)
        theirs, ours = median(seconds["peer"]), median(seconds[row.ours])
        lines.append(
            f"| {row.id} | {row.what} | {theirs:.2f} s | {ours:.2f} s | {_bold(ratio)} "
            f"| {row.must:g} | {row.aim:g} | {verdict(median(ratio), row.must, row.aim)} |"
        )
    rates, ratio, images = results["aggregate"], aggregate_ratios(results), results["size"]["train"]
    best = best_peer(rates)
    ours, theirs = (f"{images * median(rates[name]):.0f} images/s" for name in ("ours", best))
    lines.append(
        "| C1, two | two one-thread processes of ours, C1 cached; best of the usual loop: "
        f"{best.removeprefix('peer, ')} | {theirs} | {ours} | {_bold(ratio)} | – | – | |"
    )
    return "\n".join([*lines, *_memory(results["memory"]), "", *_notes(results)]) + "\n"


def _bold(ratio):
    """The median in bold, and the range."""
    return f"**{median(ratio):.2f}** ({min(ratio):.2f}–{max(ratio):.2f})"


def _memory(peaks):
    if peaks is None:
        return []
    peer, ours = peaks["peer"]["bytes"] / 1e6, peaks["ours"]["bytes"] / 1e6
    held = peaks["ours"]["table"] / 1e6
    met = "met" if ours <= peer + held else "not met"
    row = (
        "| mem | peak memory of a C1 run above the loaded base; ours fills a table of "
        f"{held:.1f} MB first | {peer:.0f} MB | {ours:.0f} MB | {peer / ours:.2f} "
        f"| usual loop + table | – | {met} |"
    )
    return [row]


def _notes(results):
    m, size, c1 = results["machine"], results["size"], results["C1"]
    parts = dict.fromkeys(row.part for row in ROWS)
    workers = ", ".join(f"{part} {results[part]['workers']}" for part in parts)
    return [
        f"Seconds are medians of {size['rounds']} rounds, in each of which every side ran once, in "
        "turn; a ratio is taken within a round, its range is over rounds. "
        f"{size['train']:,} training images ({results['C3']['images']:,} for C3), batch "
        f"{size['batch_size']}, {size['epochs']} epochs a run, {size['test']:,} test images after "
        f"each epoch on both sides. Images: {results['images']}.",
        "",
        f"The table of C1 takes {spread(c1['seconds']['fill'], ' s')} to fill for the "
        f"{c1['pairs']:,} pairs of image and view that a run of {size['epochs']} epochs shows: "
        f"cheaper than a live teacher from {pays_after(results):.2f} students on.",
        "",
        "DataLoader workers that served the usual loop best in a warm-up, of 0, 1 and 2: "
        f"{workers}.",
        "",
        f"{m['processor']}, {m['cores']} cores, {m['threads']} threads, {m['capability']}; Python "
        f"{m['python']}, torch {m['torch']}, torchvision {m['torchvision']}; {m['date']}, commit "
        f"{m['commit']}; load before the start {m['load_before']:.1f}; "
        f"{results['seconds'] / 60:.1f} minutes in all.",
    ]


def profile_table(results):
    """Markdown: shares of the time of one training epoch of ours, and what they imply."""
    shares = results["profile"]
    lines = [
        f"| part of a training step | {' | '.join(shares)} |",
        "|---" * (len(shares) + 1) + "|",
    ]
    for part in next(iter(shares.values())):
        cells = " | ".join(f"{100 * share[part]:.1f} %" for share in shares.values())
        lines.append(f"| {part} | {cells} |")
    plain, live = shares["labels only"], shares["live teacher"]
    convolutions = sum(share for part, share in plain.items() if part.startswith("convolution"))
    lines += [
        "",
        f"A step on labels would be {1 / (1 - plain['batch norm'] - plain['ReLU']):.2f} times as "
        f"fast if batch norm and ReLU were free, {1 / (1 - convolutions / 2):.2f} times if "
        f"convolutions took half as long, and {1 / (1 - plain['data path']):.2f} times if the data "
        f"path were free; a distillation step would be {1 / (1 - live['teacher']):.2f} times as "
        "fast without its teacher.",
    ]
    return "\n".join(lines) + "\n"


def ladder(results):
    """[(rung, median seconds)] of C1, one epoch: each rung gives up one more of the habits."""
    return [(rung, median(seconds)) for rung, seconds in results["C1"]["ladder"].items()]


def ladder_table(results):
    """Markdown of the ladder."""
    lines = [
        "| one switch at a time | s (range) | times the rung before | times the usual loop |",
        "|---|---|---|---|",
    ]
    rungs = ladder(results)
    usual = before = rungs[0][1]
    for rung, seconds in rungs:
        measured = spread(results["C1"]["ladder"][rung])
        lines.append(f"| {rung} | {measured} | {before / seconds:.2f} | {usual / seconds:.2f} |")
        before = seconds
    return "\n".join(lines) + "\n"


SECTIONS = {"cpu": table, "ladder": ladder_table, "profile": profile_table}


def filled(text, results):
    """The text with every section between <!-- name:start --> and <!-- name:end --> anew."""
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

    measured = {"marker": "o", "color": "#0072B2", "markersize": 7}
    must = {"marker": "|", "color": "#D55E00", "markersize": 16, "markeredgewidth": 2}
    aim = {"marker": "d", "color": "#444444", "markersize": 7, "markerfacecolor": "white"}
    whole = Figure(figsize=(9.2, 3.6))
    left, right = whole.subplots(1, 2, width_ratios=(1.15, 1))
    for y, row in enumerate(ROWS):
        ratio = ratios(results, row)
        names = ("measured: median and range", "must", "aim") if y == 0 else (None, None, None)
        left.plot([min(ratio), max(ratio)], [y, y], color="#0072B2", linewidth=3, alpha=0.5)
        left.plot(median(ratio), y, linestyle="none", label=names[0], **measured)
        left.plot(row.must, y, linestyle="none", label=names[1], **must)
        left.plot(row.aim, y, linestyle="none", label=names[2], zorder=1, **aim)
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
    colours = ["#767676"] + ["#9ecae1"] * (len(rungs) - 2) + ["#0072B2"]
    right.barh(range(len(rungs)), seconds, color=colours)
    beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
    for y, s in enumerate(seconds):
        right.annotate(f"{seconds[0] / s:.2f}x", (s, y), **beside)
    names = [rungs[0][0], *(f"+ {name}" for name, _ in rungs[1:-1]), rungs[-1][0]]
    right.set_yticks(range(len(rungs)), names, fontsize=9)
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
    with matplotlib.style.context(str(HERE.parent / "kdlib/pages/paper.mplstyle")):
        figure(results).savefig(folder / "cpu.svg", metadata={"Date": None, "Creator": None})
    if folder.resolve() == HERE / "results":
        readme = HERE / "README.md"
        readme.write_text(filled(readme.read_text(), results))
