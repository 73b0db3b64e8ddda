"""The only part about GPUs: a training step captured as a CUDA graph and replayed, a stream a run.

A step of a small network is a few hundred short kernels whose launches cost more than their work; a
replay is one launch, and several runs replayed side by side fill the chip. Everything a step reads
is on the device, at a fixed place: the epoch's order and views, the rates of all steps, and a
counter that each replay moves on."""

import contextlib
import faulthandler
import functools
import os
import sys

import torch

from kdlib.config import KdlibError
from kdlib.step import Stepper, learning_rate

WARM_UP = 3  # steps before the capture: they choose algorithms and make the optimizer's state
CAPTURE_LIMIT = 180  # seconds for the warm-up and the captures of one run, a few in ordinary times


class CaptureError(KdlibError):
    """Steps that cannot be captured on this machine."""


def settings():
    """TF32 in convolutions and products; of each convolution the fastest that is deterministic."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True


def graphs_off():
    """From here on steps are taken one kernel at a time, in this process and in those it starts."""
    Captured.graphs = False
    os.environ["KDLIB_GRAPHS"] = "0"


@contextlib.contextmanager
def watchdog(seconds):
    """A block that takes longer ends the process (status 1) and says on stderr where it hung.

    The clock is the C library's: it also runs while the interpreter waits for a device."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Captured(Stepper):
    """A Stepper that replays its step. The last, shorter batch of an epoch is a graph of its own.

    `graphs = False` takes the same step without a graph: a CPU can test all but the capture."""

    graphs = os.environ.get("KDLIB_GRAPHS") != "0"  # the way out if captures fail on some machine

    def __init__(self, run, x):
        super().__init__(run, x)
        cfg = run.cfg
        n = len(run.data.train)
        device = x.device
        if x.is_cuda:
            settings()
        if self.graphs:
            self.stream = torch.cuda.Stream(device)
            self.pool = None
        steps = range(cfg.epochs * self.steps_per_epoch)
        rates = [learning_rate(cfg, step, self.steps_per_epoch) for step in steps]
        self.rates = torch.tensor(rates, device=device)
        # steps since the first epoch began
        self.done = torch.zeros(1, dtype=torch.int64, device=device)
        self.order, self.views = torch.zeros(2, n, dtype=torch.int64, device=device)
        whole, rest = divmod(n, cfg.batch_size)
        self.sizes = [cfg.batch_size] * whole + [rest] * (rest > 0)
        if self.graphs:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # for everything above
        with self.on_stream(), watchdog(CAPTURE_LIMIT) if self.graphs else contextlib.nullcontext():
            self.replay = self._prepared()

    def sgd(self, **more):
        """The rate is a tensor: a graph would keep a number for ever."""
        return super().sgd(lr=torch.zeros((), device=self.device), fused=True, **more)

    def on_stream(self):
        return torch.cuda.stream(self.stream) if self.graphs else contextlib.nullcontext()

    def begin(self, epoch):
        self.run.model.train()
        for place, values in zip((self.order, self.views), self.schedule(epoch), strict=True):
            place.copy_(values.pin_memory() if self.graphs else values, non_blocking=True)

    def resume(self, state):
        super().resume(state)
        self.done.fill_(self.epoch * self.steps_per_epoch)

    def step(self, number):
        self.replay[self.sizes[number]]()

    def _next(self, size):
        """The next step, of `size` images; nothing in it depends on the host."""
        self.optimizer.param_groups[0]["lr"].copy_(self.rates.index_select(0, self.done).squeeze(0))
        number = self.done % self.steps_per_epoch
        at = number * self.run.cfg.batch_size + torch.arange(size, device=self.device)
        sums = self.train_on(self.order[at], self.views[at])
        self.sums.index_copy_(0, number, sums[None])
        self.done += 1

    def _prepared(self):
        """{batch size: function that does the next step}. Warm-up steps leave no trace."""
        model = self.run.model.train()
        sizes = sorted(set(self.sizes), reverse=True)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = getattr(self.run.loss, "state", None)
        first = None if state is None else state.clone()
        for size in sizes * WARM_UP:
            self._next(size)
            self.done.zero_()
        # weights, batch-norm statistics and their count; momentum; the state of the loss
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(before[name])
            for memory in self.optimizer.state.values():
                memory["momentum_buffer"].zero_()
            if state is not None:
                state.copy_(first)
        return {size: self.captured(size) for size in sizes}

    def captured(self, size):
        """A function that does the next step of `size` images. CaptureError if it has no graph."""
        if not self.graphs:
            return functools.partial(self._next, size)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self._next(size)
        except RuntimeError as error:
            # memory that runs out spoils the capture too, and then torch complains of the capture
            if torch.OutOfMemoryError in (type(error), type(error.__context__)):
                raise torch.OutOfMemoryError(str(error)) from error
            reason = str(error.__context__ or error).partition("\n")[0]
            raise CaptureError(
                f"A training step cannot be captured as a CUDA graph here ({reason}); "
                "KDLIB_GRAPHS=0 takes the same steps one kernel at a time."
            ) from error
        # graphs of a run are never replayed at the same time: they share memory
        self.pool = graph.pool()
        return graph.replay
