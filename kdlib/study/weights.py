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
    try:
        held = safetensors.load(read_file(path))
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from None
    # safetensors and torch raise many classes on damaged bytes
    except Exception as error:
        raise _refused(path, f"not weights ({str(error).partition(chr(10))[0]})") from None
    try:
        model.load_state_dict(held)
    except RuntimeError:
        raise _refused(path, "of another network") from None
    if weights_sha256(model) != sha256:
        raise _refused(path, "not the weights of its record")


def _refused(path, why):
    return WeightsError(
        f"{path}: {why}; put the right file back, or delete it and the run is done again, which "
        "makes the same weights on the same kind of machine."
    )
