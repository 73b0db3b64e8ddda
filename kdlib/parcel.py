"""Parcels between machines: the images of a study as a pack (see pack.py), its records and teachers as one tar file."""

import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kdlib import data as datasets
from kdlib import pack, readers, records
from kdlib.config import Config, KdlibError
from kdlib.models import build
from kdlib.studies import study
from kdlib.teacher import weights_sha256

SUFFIXES = (".pt", ".npz", ".json")   # of a run, in the order they are put in place: the record is there when its JSON is
MEMBER = re.compile(r"\w[\w.-]*")     # no path, nothing hidden
SHA256 = "KDLIB.sha256"               # in the header of each member, since a JSON file names no hash of its own


class ParcelError(KdlibError):
    """A parcel that cannot be made, or of which nothing can be used."""


# ---------------------------------------------------------------- images

def pack_images(name, to, data=None):
    """Pack the images that the Configs of a study use: (Path of the file, how many, of which published data set).

    `to`: a file, or a folder that gets <data set>-<study>.pack. `data`: see readers.load_images."""
    configs = {(c.draw_seed, c.imbalance, c.profile): c for c in study(name)()}   # one for each draw
    dataset = datasets.PUBLISHED.get(next(iter(configs.values())).dataset)
    if dataset is None:
        raise ParcelError(f"study {name} needs no pack: its images come with scikit-learn.")
    images = readers.load_images(dataset, data)
    numbers = np.arange(len(images.y))[:, None, None, None]   # in the place of pixels, to see which are used
    used = [split.x.flatten() for cfg in configs.values()
            for split in datasets.load(cfg, images._replace(x=numbers)).splits().values()]
    held = np.zeros(len(images.y), bool)
    held[torch.cat(used)] = True
    to = Path(to) / f"{dataset}-{name}.pack" if Path(to).is_dir() else Path(to)
    with records.whole_file(to) as temporary:
        pack.write(temporary, dataset, name, held, images.x[np.flatnonzero(held)])
    return to, int(held.sum()), dataset


# ---------------------------------------------------------------- records out

def pack_records(name, to):
    """Write the records of a study, and the weights of its teachers that are there: (Path of the file, how many records).

    `to`: a file, or a folder that gets <study>.tar. Every record is checked first; the same records give the same bytes."""
    where, configs = records.folder(), [cfg for cfg in study(name)() if records.exists(cfg)]
    if not configs:
        raise ParcelError(f"study {name} has no record in {where}; `python -m kdlib run {name}` makes them.")
    teachers = {c.key() for cfg in configs for c in cfg.dependencies()}
    files = []
    for cfg in configs:
        _check(cfg, where, cfg.key() in teachers)
        suffixes = SUFFIXES if cfg.key() in teachers else (".npz", ".json")
        files += [path for suffix in suffixes if (path := where / f"{cfg.key()}{suffix}").exists()]
    to = Path(to) / f"{name}.tar" if Path(to).is_dir() else Path(to)
    with records.whole_file(to) as temporary, open(temporary, "wb") as opened:
        write_tar(sorted(files), opened)
    return to, len(configs)


def write_tar(files, to):
    """Write files, with their hashes, into a tar file, the binary file object `to`.

    The same files in the same order give the same bytes."""
    with tarfile.open(fileobj=to, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            content, member = path.read_bytes(), tarfile.TarInfo(path.name)
            member.size, member.pax_headers = len(content), {SHA256: hashlib.sha256(content).hexdigest()}
            tar.addfile(member, io.BytesIO(content))


# ---------------------------------------------------------------- records in

class Taken(NamedTuple):
    """What became of a parcel of records."""

    taken: int
    here: int         # were in the records folder already, identical
    refused: list     # a sentence for each
    damage: str       # a sentence; empty if the file is whole


def take_records(file):
    """Bring the records of a tar file into the records folder: Taken. Nothing that is there is ever overwritten."""
    taken, here, refused = 0, 0, []
    with tempfile.TemporaryDirectory() as staging:
        staging = Path(staging)
        damage = _unpack(file, staging, refused)
        configs = {}
        for key in sorted({path.stem for path in staging.iterdir()}):
            try:
                configs[key] = _config(staging / f"{key}.json")
            except KdlibError as error:
                refused.append(_reason(error, staging))
        for cfg in sorted(configs.values(), key=lambda cfg: (cfg.teacher is not None, cfg.key())):   # teachers first
            try:
                if _take(cfg, staging):
                    taken += 1
                else:
                    here += 1
            except KdlibError as error:
                refused.append(_reason(error, staging))
    return Taken(taken, here, refused, damage)


def _unpack(file, staging, refused):
    """Write the files of records to `staging`; "" or a sentence on damage. What else is in there is added to `refused`."""
    count, end = 0, 0
    try:
        with open(file, "rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            try:
                for member in tar:
                    content = tar.extractfile(member).read() if member.isreg() else b""
                    count, end = count + 1, member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if objection := _objection(member, content, staging):
                        refused.append(f"{member.name!r} {objection}")
                    else:
                        (staging / member.name).write_bytes(content)
                raw.seek(end)   # tarfile ends quietly at a header that is cut or damaged; behind a whole file comes an empty one
                whole = raw.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
            except tarfile.TarError:
                whole = False
    except (OSError, tarfile.TarError) as error:
        raise ParcelError(f"{file} is not a tar file of records ({error}).") from error
    return "" if whole else f"{file} is truncated or damaged behind its first {count} files; what was whole was taken"


def _objection(member, content, staging):
    """Why a member of a tar file is refused; "" if it is not."""
    if not (member.isreg() and MEMBER.fullmatch(member.name) and Path(member.name).suffix in SUFFIXES):
        return "is not a file of a record"
    if (staging / member.name).exists():
        return "is there twice"
    if member.pax_headers.get(SHA256, found := hashlib.sha256(content).hexdigest()) != found:
        return "was changed on the way: its sha256 is not the one it was packed with"
    return ""


def _config(path):
    """The Config of a JSON file; RecordError unless it is a record that answers to its own name."""
    try:
        cfg = Config.from_dict(json.loads(path.read_text())["config"])
    except FileNotFoundError:
        raise records.RecordError(f"{path.stem}: files without the JSON file of a record") from None
    except (ValueError, TypeError, KeyError) as error:
        raise records.RecordError(f"{path}: not a record ({type(error).__name__}: {error})") from None
    except KdlibError as error:
        raise records.RecordError(f"{path}: {error}") from None
    if cfg.key() != path.stem:
        raise records.RecordError(f"{path}: is the record of {cfg.key()}")
    return cfg


def _check(cfg, where, weights=True):
    """The record of a Config in a folder, with the weights beside it if there are any; RecordError naming what is wrong."""
    record, path = records.read(cfg, where), where / f"{cfg.key()}.pt"
    needed = ("data_sha256", "weights_sha256", "class_names", *(("teacher_key", "teacher_sha256") if cfg.teacher else ()))
    if absent := [fact for fact in needed if fact not in record.facts]:
        raise records.RecordError(f"{cfg.key()}.json: has no {absent[0]}")
    if cfg.teacher and record.facts["teacher_key"] != cfg.teacher_config().key():
        raise records.RecordError(f"{cfg.key()}.json: names another teacher than its Config does")
    if weights and path.exists():
        try:
            model = build(cfg.student, len(record.facts["class_names"]), cfg.seed)
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:   # torch says in a dozen ways that a file is none of its own
            raise records.RecordError(f"{path}: not the weights of a {cfg.student} ({type(error).__name__})") from error
        if weights_sha256(model) != record.facts["weights_sha256"]:
            raise records.RecordError(f"{path}: not the weights of its record")
    return record


def _take(cfg, staging):
    """Put a run of the staging folder into the records folder: whether anything was missing there. RecordError: refused."""
    record, where, key = _check(cfg, staging), records.folder(), cfg.key()
    with records.claim(key):
        missing = [s for s in SUFFIXES if (staging / f"{key}{s}").exists()]
        if records.exists(cfg):
            if not all(_same(where / f"{key}{s}", staging / f"{key}{s}") for s in (".npz", ".json")):
                raise records.RecordError(f"{key}: another record of this run is in {where} already and was left as it is")
            missing = [s for s in missing if not (where / f"{key}{s}").exists()]
        else:
            _check_pairs(record)
        for suffix in missing:
            with records.whole_file(where / f"{key}{suffix}") as temporary:
                shutil.copyfile(staging / f"{key}{suffix}", temporary)
    return bool(missing)


def _same(here, new):
    return here.exists() and here.read_bytes() == new.read_bytes()


def _check_pairs(record):
    """RecordError unless a new record fits its teacher, or its students, in the records folder."""
    for cfg in record.config.dependencies()[:1]:
        if records.exists(cfg):
            records.check_pair(record, records.read(cfg))
    for path in records.folder().glob("*.json"):
        if f'"teacher_key": "{record.config.key()}"' in path.read_text():
            records.check_pair(records.read(_config(path)), record)


def _reason(error, staging):
    """Why a record was refused, without the folder that is gone by then and the advice for those who trained it."""
    return str(error).replace(f"{staging}/", "").partition("; delete ")[0]
