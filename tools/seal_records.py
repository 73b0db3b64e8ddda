"""Seal the records that an older version wrote: python tools/seal_records.py FOLDER

Each JSON file gets its seal, each .pt file becomes .safetensors. It is proved of each that no fact
and no weight changed; what is damaged is named and stays as it was."""

import os
import sys
from pathlib import Path

import torch

from kdlib.config import Config, KdlibError
from kdlib.models import build
from kdlib.study import records, weights
from kdlib.study.facts import SEAL, laid_out, parsed, sealed
from kdlib.study.files import read_file, whole_file

ROOM = 2**26  # bytes of a JSON file


def seal(path):
    """Seal one JSON file, unless it is sealed: whether it was written."""
    old = parsed(read_file(path, ROOM))
    if SEAL in old:
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
        records.read(Config.from_dict(old["config"]), path.parent)
    except KdlibError:
        with whole_file(path) as temporary:
            temporary.write_bytes(before)
        raise
    return True


def convert(path):
    """Write the weights of a .pt file as safetensors and remove it: whether it was one of ours."""
    facts = parsed(read_file(path.with_suffix(".json"), ROOM))
    cfg, sha256 = Config.from_dict(facts["config"]), facts["weights_sha256"]
    model = build(cfg.student, len(facts["class_names"]), cfg.seed)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    weights.write(cfg.key(), model)
    weights.read_into(build(cfg.student, len(facts["class_names"]), cfg.seed), cfg.key(), sha256)
    path.unlink()
    return True


def main(folder):
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
                print(f"{path}: left as it was: {error}", file=sys.stderr)
        print(f"{done} of {len(paths)} {what}")
    return min(wrong, 1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
