"""The trained weights of a run, in a file beside its record: equal weights are equal bytes."""

import torch
from safetensors import torch as safetensors

from kdlib.config import KdlibError
from kdlib.study.files import folder, read_file, write_whole
from kdlib.teacher import weights_sha256

SUFFIX = ".safetensors"


class WeightsError(KdlibError):
    """Weights that are not those of their record."""


def path_of(key):
    """Where the weights of a run are, if they were kept."""
    return folder() / f"{key}{SUFFIX}"


def write_to(path, model, metadata=None):
    """Write weights, whole or not at all. metadata: {name: text}, of one name at most, since their
    order would differ from file to file."""
    whole = {"memory_format": torch.contiguous_format}
    held = {name: of.detach().cpu().clone(**whole) for name, of in model.state_dict().items()}
    write_whole(path, safetensors.save(held, metadata))


def read_into(model, key, sha256):
    """Load the weights of a run into a model. WeightsError unless their hash is `sha256`."""
    path = path_of(key)
    why = "not the weights of its record"
    try:
        model.load_state_dict(safetensors.load(read_file(path)))
        same = weights_sha256(model) == sha256
    except OSError as error:
        same, why = False, f"cannot be read ({error.strerror})"
    except Exception as error:  # safetensors and torch raise many classes on damaged bytes
        same, why = False, f"{why} ({' '.join(str(error).split())[:200]})"
    if not same:
        raise WeightsError(
            f"{path}: {why}; put the right file back, or delete it and the run is done again, "
            "which makes the same weights on the same kind of machine."
        )
