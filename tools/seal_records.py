"""Seal the records that an older version wrote: python tools/seal_records.py FOLDER

Each JSON file gets its seal, each .pt file becomes .safetensors, and nothing else changes: facts
and weights are compared before and after. What is damaged is named and stays as it is."""

import io
import os
import sys
from pathlib import Path

import torch

from kdlib.config import Config, KdlibError
from kdlib.models import build
from kdlib.study import records, weights
from kdlib.study.facts import SEAL, laid_out, parsed, sealed
from kdlib.study.files import read_file, whole_file
from kdlib.teacher import weights_sha256


def facts_of(path):
    """(facts, Config) of a JSON file. ValueError or KdlibError for what is none of ours."""
    facts = parsed(read_file(path, records.LARGEST[".json"]))
    if type(facts.get("config")) is not dict:
        raise ValueError("it has no config")
    cfg = Config.from_dict(facts["config"])
    if cfg.key() != path.stem:
        raise ValueError(f"it is of the run {cfg.key()}, whose name it does not bear")
    return facts, cfg


def seal(path):
    """Seal one JSON file, unless it is sealed: whether it was written."""
    old, cfg = facts_of(path)
    if SEAL in old:
        records.read(cfg, path.parent)
        return False
    content = laid_out(sealed(old)).encode()
    new = parsed(content)
    new.pop(SEAL)
    if list(new.items()) != list(old.items()):
        raise ValueError("the sealed facts would be others")
    before = path.read_bytes()
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    try:
        records.read(cfg, path.parent)
    except KdlibError:
        with whole_file(path) as temporary:
            temporary.write_bytes(before)
        raise
    return True


def convert(path):
    """Write the weights of a .pt file as safetensors and remove it."""
    facts, cfg = facts_of(path.with_suffix(".json"))
    model = build(cfg.student, len(facts["class_names"]), cfg.seed)
    content = io.BytesIO(read_file(path, weights.LARGEST))
    model.load_state_dict(torch.load(content, map_location="cpu", weights_only=True))
    if weights_sha256(model) != facts["weights_sha256"]:
        raise ValueError("not the weights of its record")
    weights.write_to(weights.path_of(cfg.key()), model)
    weights.read_into(model, cfg.key(), facts["weights_sha256"])
    path.unlink()
    return True


def main(folder):
    if not Path(folder).is_dir():
        sys.exit(f"{folder}: not a folder")
    os.environ["KDLIB_RECORDS"] = folder
    wrong = 0
    for what, work, paths in (
        ("records sealed", seal, records.paths()),
        ("weights converted", convert, sorted(Path(folder).glob("[!.]*.pt"))),
    ):
        done = 0
        for path in paths:
            try:
                done += work(path)
            except Exception as error:  # whatever is wrong with one file, the others go on
                wrong += 1
                print(f"{path}: stays as it is ({type(error).__name__}: {error})", file=sys.stderr)
        print(f"{done} of {len(paths)} {what}")
    return min(wrong, 1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
