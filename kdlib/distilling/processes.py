"""One process of several that train together, as torchrun starts them; or the only one.

Every process has the same data, and takes its part of each batch."""

import contextlib
import datetime
import functools
import os
import warnings

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdlib.config import KdlibError, count_of
from kdlib.reading.sentences import reason
from kdlib.train import predict

# others wait so long while the first one writes or evaluates
PATIENCE = datetime.timedelta(hours=2)
AT_ONCE = datetime.timedelta(seconds=5)  # in which torchrun says whether another one has spoken


def count():
    """Processes that train together."""
    return distributed.get_world_size() if _joined() else 1


def rank():
    """Which of them this one is; the first one, 0, is the one that writes and prints."""
    return distributed.get_rank() if _joined() else 0


def local_count():
    """Those of them that share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if _joined() else 1


def _joined():
    return distributed.is_available() and distributed.is_initialized()


def _several():
    """Whether torchrun, or who sets the same variables, has started this process with others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@functools.cache
def speaks():
    """Whether this process says why all of them end: the first one that asks."""
    try:
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.TCPStore(*where, is_master=False, timeout=AT_ONCE)
        return store.add(f"kdlib ends {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1
    except Exception:  # without torchrun, or it has ended: said twice is better than never
        return True


@contextlib.contextmanager
def joined(device):
    """A block in which the processes of torchrun, if any, work together; yields the device.

    KdlibError where they cannot, or where another one has ended before its time."""
    check_device(device)
    if not _several():
        yield device
        return
    try:
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise KdlibError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: the processes do not find each other "
            f"({reason(error)}); start them by torchrun, or unset WORLD_SIZE for one alone."
        ) from None
    try:
        yield device
    except BaseException as error:
        speaks()  # before the others miss this one
        if isinstance(error, RuntimeError) and _is_of_another(error):
            raise KdlibError(
                f"Another of the {count()} processes has ended, and none can go on without it "
                f"({reason(error)}); the same command goes on from what is kept."
            ) from None
        raise
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def untouched(device):
    """A block after which torch's random numbers, and filters of warnings, are the caller's own."""
    gpus = [torch.cuda.current_device()] if device == "cuda" else []  # others need no context
    with torch.random.fork_rng(gpus), warnings.catch_warnings():
        yield


def _is_of_another(error):
    """Whether a RuntimeError tells of a process that is no longer there."""
    lost = isinstance(error, distributed.DistError)
    return lost or "gloo" in str(error) or "Connection" in str(error)


def check_device(device):
    """KdlibError for a GPU that is not there; else this process works on its own from here on."""
    if device != "cuda":
        return
    there = torch.cuda.device_count()
    if not there:
        raise KdlibError(
            "--device cuda: torch cannot use a GPU here; `python -m kdlib doctor` says why."
        )
    if _several():
        own = int(os.environ.get("LOCAL_RANK", 0))
        if own >= there:
            raise KdlibError(
                f"--nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', own + 1)}: this machine has "
                f"{count_of(there, 'GPU')}, one for each process; start no more than that."
            )
        torch.cuda.set_device(own)


@contextlib.contextmanager
def first_alone():
    """A block that the first process runs before all others, which then find what it has made."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def wait():
    """Go on when all processes are here."""
    if count() > 1:
        distributed.barrier()


def part_of(rows):
    """This process's part of the rows of a batch, in order."""
    return rows.tensor_split(count())[rank()]


def summed(values):
    """The sum of a tensor over all processes."""
    if count() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def gathered(value):
    """What each process has, as a list in the order of their ranks."""
    parts = [value] * count()
    if count() > 1:
        distributed.all_gather_object(parts, value)
    return parts


def predicted(model, x, data):
    """train.predict, of which each process does a part; all are given the whole of it."""
    if count() == 1:
        return predict(model, x, data)
    rows = np.array_split(np.arange(len(x)), count())[rank()]
    return torch.cat(gathered(predict(model, x[rows], data)))


# ---------------------------------------------------------------- a network that all have


def parallel(model):
    """The model as it is called in a training step: all processes average their gradients, and a
    batch norm is one over the whole batch. Its parameters are those of the model."""
    if count() == 1:
        return model
    if not next(model.parameters()).is_cuda:
        _synchronised(model)
    elif any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        model = _converted(model)
    # of 1 x 1 convolutions the layout of the memory has two names
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # its new name, of torch 2.15, is unknown to older ones
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
    return DistributedDataParallel(model, broadcast_buffers=False)


def _converted(model):
    """The model with the batch norms of torch, or of timm, that several GPUs share."""
    if type(model).__module__.startswith("timm."):
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _synchronised(model):
    """Give the batch norms of a model the same on CPUs, for which torch has none."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not isinstance(part, Synced):
            part.__class__ = type("Synced", (Synced, type(part)), {})


class _Sum(torch.autograd.Function):
    """`summed`, through which gradients go."""

    @staticmethod
    def forward(ctx, values):
        return summed(values)

    @staticmethod
    def backward(ctx, gradient):
        return summed(gradient)


class Synced:
    """A batch norm that in training counts with the examples of all processes."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        across = [0, *range(2, x.ndim)]
        n = x.new_tensor([x.numel() / x.shape[1]], dtype=torch.float64)
        wide = x.double()
        sums = torch.cat([wide.sum(across), (wide * wide).sum(across), n])
        sums = _Sum.apply(sums)
        total = sums[-1].detach()
        mean, square = (sums[:-1] / total).split(x.shape[1])
        variance = (square - mean**2).clamp(min=0)
        self._remember(mean.detach(), variance.detach() * total / (total - 1))
        shape = [1, -1] + [1] * (x.ndim - 2)
        out = (wide - mean.view(shape)) / (variance + self.eps).sqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        out = out.to(x.dtype)
        # timm's have an activation
        return self.act(self.drop(out)) if hasattr(self, "act") else out

    @torch.no_grad()
    def _remember(self, mean, variance):
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)
