"""The table of a teacher on disk, so that the students of one teacher share it, also over days."""

import contextlib
import hashlib
import json
import os

import numpy as np
import torch

from kdlib.config import KdlibError
from kdlib.study.files import cache_folder, claim, whole_file
from kdlib.teacher import Table, frozen, planned, view_logits, weights_sha256


def table_bytes(pairs, n, views, classes):
    """Bytes of a table of `pairs` views: fp16 logits, and their places if some are absent."""
    places = n * views * 4 if pairs < n * views else 0
    return pairs * classes * 2 + places


def teacher_of(model, data, data_sha256, cfg, say=print, warn=print):
    """The teacher of a run of cfg: its table, cached or filled now; live where there is no room.

    On a GPU the table is complete and serves all seeds; on a CPU it holds what the schedule of
    cfg.seed shows, and serves all methods of that seed. say(line) hears what memory it takes before
    it is taken; warn(line) why a cached file was refused, or why the teacher is live after all."""
    n = len(data.train)
    device = data.train.x.device
    plan = {"teacher": weights_sha256(model), "data": data_sha256, "pairs": "all", "layout": 2}
    codes = torch.arange(n * data.views)
    if device.type == "cpu":
        codes = planned(cfg.seed, cfg.epochs, n, data.views)
        plan["pairs"] = f"seed {cfg.seed}, {cfg.epochs} epochs"
    need = table_bytes(len(codes), n, data.views, data.classes)
    free = free_memory(device)
    say(f"teacher table: {len(codes)} views, {need / 1e6:.0f} MB of {free / 1e9:.1f} GB free")
    if need > 0.5 * free:
        said = f"{need / 1e6:.0f} MB do not fit into {free / 1e6:.0f} MB free"
        warn(f"teacher table: {said}; the teacher is asked live")
        return frozen(model)
    name = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]
    path = cache_folder() / f"teacher-{name}.npz"
    with contextlib.ExitStack() as held:
        try:
            # two processes that need it fill it once
            held.enter_context(claim(path.stem, path.parent))
        except (KdlibError, OSError) as error:
            warn(f"teacher table: {str(error).rstrip('.')}; it is filled for this run alone")
        logits = _read(path, plan, warn) if path.exists() else None
        if logits is None:
            logits = view_logits(model, data, codes)
            if not logits.isfinite().all():
                warn("teacher table: logits beyond the range of fp16; the teacher is asked live")
                return frozen(model)
            try:
                with whole_file(path) as temporary:
                    np.savez(temporary, logits=logits.cpu().numpy(), plan=json.dumps(plan))
            except (KdlibError, OSError) as error:
                warn(f"teacher table: not kept on disk ({error})")
    return Table(logits.to(device), codes, n, data.views)


def _read(path, plan, warn):
    """The logits of a file if it is whole, by zip's checksums, and of just this plan, else None."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = json.loads(str(file["plan"]))
            logits = file["logits"]
        wrong = next((f"of another {part}" for part in plan if found.get(part) != plan[part]), None)
    except Exception as error:  # zipfile, zlib, json and numpy raise a dozen classes
        wrong = f"damaged ({type(error).__name__})"
    if wrong:
        warn(f"{path}: {wrong}; filled again")
        return None
    return torch.from_numpy(logits)


def free_memory(device):
    """Bytes that can be allocated on a device; half of what is built in where nobody tells."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            available = next(line for line in lines if line.startswith("MemAvailable"))
            return int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
