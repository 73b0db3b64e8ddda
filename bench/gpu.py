"""The GPU part: checks of the engine, then images/s of training; on random images.

Results are written one by one, so that a run that is cut short keeps what it has."""

import argparse
import json
import statistics
from pathlib import Path

import torch

from bench import checks, inputs
from kdlib import cuda

NETWORKS = ("resnet20", "resnet56")
EPOCHS = 3  # of a timed run; the first warms up


def pace(data, network, count):
    """Images/s of `count` runs side by side on labels."""
    cfgs = [inputs.config(network, epochs=EPOCHS, seed=seed) for seed in range(count)]
    _, ends = inputs.engine(data, cfgs)
    seconds = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    return count * len(data.train) / statistics.median(seconds)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    add = parser.add_argument
    out = Path(__file__).with_name("results") / "gpu.json"
    add("--out", type=Path, default=out, metavar="FILE")
    add("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: a rehearsal")
    add("--quick", action="store_true", help="few images; the numbers mean nothing")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch cannot use a GPU here")
    if args.device == "cuda":
        cuda.settings()  # before anything is computed there
    data = inputs.images(*((8, 16) if args.quick else ())).to(args.device)
    speeds = {network: {} for network in NETWORKS}
    results = inputs.machine(args.device) | {"E": {}, "pace": {"images/s": speeds}}

    def say(line):
        print(line, flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")

    checks.run_all(args.device, say, results["E"])
    for network in NETWORKS:
        for count in (1, 8):
            speeds[network][count] = pace(data, network, count)
            say(f"{network}, {count} at once: {speeds[network][count]:,.0f} images/s")
    return int(not all(check["passed"] for check in results["E"].values()))
