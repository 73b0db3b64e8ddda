"""The training step on images that may lie on disk, in one process or several."""

import functools

import numpy as np
import torch

from kdlib.data import crop_and_flip, normalise
from kdlib.distilling import processes
from kdlib.distilling.views import Pictures
from kdlib.step import Stepper


class Source:
    """The training images of runs in lockstep, which are read, cut and normalised once for all."""

    def __init__(self, data, told):
        """told(images): hears of each batch how many images it has, in all processes."""
        self.data = data
        self.told = told
        self.device = data.train.x.device
        self.read = isinstance(data.train.x, Pictures)
        self.x = data.train.x if self.read else Stepper.held(data)
        self.epoch = self.at = self.images = None

    def begin(self, epoch, batches):
        """Begin an epoch: batches (index (B,), view (B,)) that will be asked for in order."""
        if self.read and epoch != self.epoch:  # the first of several runs begins it for all
            self.x.begin(batches)
        self.epoch = epoch

    def normalised(self, at, index, view, size):
        """(B, channels, H, W) float32 of the batch at (epoch, number): `size` in all processes."""
        if at != self.at:
            self.told(size)
            self.images = normalise(self._cut(index, view), self.data)
            self.at = at
        return self.images

    def _cut(self, index, view):
        if self.read:
            return self.x.batch()
        return crop_and_flip(self.x, index, view, self.data.pad)


def once(teacher):
    """A live teacher that is asked once about images which several students are shown."""
    # tensors are the same if they are one; the last one is held
    ask = functools.lru_cache(maxsize=1)(lambda images: teacher(images, None, None))
    return lambda images, index, view: ask(images)


class Shared(Stepper):
    """A Stepper whose batch is dealt out among processes, and its images shared by all runs."""

    def __init__(self, run, x):
        super().__init__(run, x)
        self.net = processes.parallel(run.model)

    def begin(self, epoch):
        self.run.model.train()
        whole = [t.split(self.run.cfg.batch_size) for t in self.schedule(epoch)]
        self.sizes = [len(index) for index in whole[0]]
        parts = ([processes.part_of(rows) for rows in of] for of in whole)
        own = list(zip(*parts, strict=True))
        self.x.begin(epoch, own)
        self.batches = [(index.to(self.device), view.to(self.device)) for index, view in own]
        self.first = epoch * self.steps_per_epoch

    def step(self, number):
        # dropout and the like: the same for all runs, and after a stop the same again
        place = (self.run.cfg.seed, self.first + number, processes.rank())
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed other GPUs too
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        self.number = number
        super().step(number)

    def images(self, index, view):
        return self.x.normalised((self.epoch, self.number), index, view, self.sizes[self.number])

    def mean(self, values):
        if processes.count() == 1:
            return values.mean()
        # gradients are averaged over processes, whose parts of the batch may differ in size
        return values.sum() * processes.count() / self.sizes[self.number]

    def end(self, epoch):
        self.sums.copy_(processes.summed(self.sums))
        super().end(epoch)


def shared(told):
    """The class Shared whose Source tells of its batches; see there."""

    class Told(Shared):
        @staticmethod
        def held(data):
            return Source(data, told)

    return Told
