"""Where the numbers of a study's pages come from."""

import hashlib
from collections import Counter

from kdlib.config import HIDDEN, count_of
from kdlib.study import records
from kdlib.study.done import baselines
from kdlib.study.grids import study
from kdlib.study.machine import git_sha
from kdlib.study.pace import in_words
from kdlib.study.studies import told

DATA_FROM = {  # source of each data set
    "digits": "digits (Alpaydin and Kaynak 1998, from scikit-learn)",
    "cifar10": "CIFAR-10 (Krizhevsky 2009)",
    **dict.fromkeys(("cifar100", "cifar20", *HIDDEN), "CIFAR-100 (Krizhevsky 2009)"),
    "adult": "Adult (Becker and Kohavi 1996, from the UCI repository)",
}


def provenance(chosen, seeds):
    """{label: value} of the pages of the first `seeds` seeds of a study, or of its name."""
    chosen = study(chosen)
    configs = chosen(seeds)
    of_seeds = count_of(len(configs), "planned run")
    lacking = len(configs) - sum(map(records.exists, configs))
    for pair in chosen.pairs:  # whose pages depend on every baseline
        for setting in chosen.settings:
            configs += baselines(chosen, pair, setting)
    configs = [cfg for cfg in dict.fromkeys(configs) if records.exists(cfg)]
    facts = [records.read(cfg).facts for cfg in configs]
    keys = [cfg.key() for cfg in configs]
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode() + (records.folder() / f"{key}.json").read_bytes())
    versions = {f"{of} {version}" for f in facts for of, version in f["versions"].items()}
    return {
        **marked(chosen.overrides),
        **of_code(),
        "commit of the runs": sorted({f["git"] for f in facts}),
        "command": f"python -m kdlib report {chosen.name} --seeds {seeds}",
        "configs sha256": hashlib.sha256(" ".join(keys).encode()).hexdigest(),
        "records sha256": digest.hexdigest(),
        "data": sorted({DATA_FROM[cfg.dataset] for cfg in configs}),
        "data sha256": sorted({f["data_sha256"] for f in facts}),
        "seeds": f"{seeds} of {chosen.seeds} planned",
        **({"not on record": f"{lacking} of {of_seeds} of these seeds"} if lacking else {}),
        "versions": sorted(versions),
        "hardware": _machines(configs, facts),
        "number of runs": len(configs),
        "wall time of the runs": in_words(sum(f["seconds"] for f in facts)),
    }


def of_code():
    """{label: value}: the state of the code."""
    commit = git_sha()
    changed = "yes" if commit.endswith("+") else "no"
    return {"commit": commit.rstrip("+"), "uncommitted changes": changed}


def marked(overrides):
    """{label: value} that tells a page of overrides, fields or text, from others; {} without."""
    words = told(overrides) if isinstance(overrides, dict) else str(overrides or "")
    return {"exploratory, counted nowhere": words} if words else {}


def _machines(configs, facts):
    """Each machine with how many runs of each method it did: a comparison may hang on it."""
    runs = Counter((_hardware(f), cfg.method) for cfg, f in zip(configs, facts, strict=True))
    found = {}
    for (machine, method), count in sorted(runs.items()):
        found.setdefault(machine, []).append(f"{count} {method}")
    return [f"{machine} ({', '.join(methods)})" for machine, methods in found.items()]


def _hardware(facts):
    """Where a run was done, as far as its last bits depend on it.

    Older records name the processor alone."""
    of = facts.get("processor")
    if not of or of["name"] != facts["device"]:
        return facts["device"]
    return f"{of['name']}, family {of['family']}, model {of['model']}, {of['capability']}"
