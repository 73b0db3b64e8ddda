"""The images of a split, read and cut by worker processes: what training and prediction look at.

What an image looks like in training is decided by the number of its view alone, which the schedule
draws: the same for every method of a seed, and however many processes there are. N examples, B of
them in a batch, images of S x S pixels."""

import contextlib
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional

from kdlib.asking.images import collated
from kdlib.asking.models import with_progress
from kdlib.config import KdlibError
from kdlib.data import Data, Split, crop_and_flip, padded, view_count
from kdlib.distilling import processes
from kdlib.reading.sentences import reason
from kdlib.study import stopping

MIDDLE = -1  # in place of the number of a view: the image as it is shown to a trained network
PAD = 4  # pixels, of "padded" views
RANDOM_VIEWS = 2**31  # numbers of "resized" views; each seeds a crop of its own
AUGMENTATIONS = {
    "resized": "a random part of at least 8 % of the image, resized, and its mirror image",
    "padded": f"the image moved by at most {PAD} pixels, and its mirror image",
    "none": "the image as it is",
}
EVALUATED = 256  # images in a batch at most, in prediction
NO_WORKER = "DataLoader worker"  # how torch begins to tell, wherever we are, of one that died
HEARD = 1.0  # seconds after which torch has heard of it
SLOW = 5.0  # seconds after which a bar shows how far reading is
VIEWS = {"resized": RANDOM_VIEWS, "padded": view_count(PAD), "none": 1}


@dataclass(frozen=True)
class OwnData(Data):
    """The Data of own images; the x of its splits are Pictures, or tensors where all fit."""

    augment: str = "none"

    @property
    def views(self):
        return VIEWS[self.augment]


class Views(Dataset):
    """(S, S, 3) uint8 of an image and the number of a view; or the KdlibError of one that cannot be
    read, since a worker would wrap it into a traceback."""

    def __init__(self, examples, size, augment):
        self.examples, self.size, self.augment = examples, size, augment

    def __getitem__(self, at):
        index, view = at
        try:
            image = self.examples.open(index)
        except KdlibError as error:
            return error
        if view == MIDDLE or self.augment != "resized":
            image = middle(image, self.size, whole=self.augment != "resized")
        else:
            image = random_part(image, self.size, view)
        pixels = torch.from_numpy(np.array(image))  # (S, S, 3)
        if view == MIDDLE or self.augment != "padded":
            return pixels
        at = torch.zeros(1, dtype=torch.int64), torch.tensor([view])
        return crop_and_flip(padded(pixels[None], PAD), *at, PAD)[0]


def middle(image, size, whole=False):
    """The square in the middle of an image, its shorter side resized to size, or to 8/7 of it as is
    usual unless the `whole` of it is wanted."""
    shorter = size if whole else round(size * 256 / 224)
    if min(image.size) != shorter:
        image = functional.resize(image, shorter)
    return functional.center_crop(image, size)


def random_part(image, size, view):
    """What torchvision's RandomResizedCrop and a flip make of an image, by the number of a view."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(view)  # torch.manual_seed takes ten times as long
        part = transforms.RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3))
        mirrored = torch.rand(()) < 0.5
    image = functional.resized_crop(image, *part, (size, size))
    return functional.hflip(image) if mirrored else image


class Pictures:
    """The x of a Split: images that are read when they are wanted, by `workers` processes."""

    def __init__(self, examples, size, augment, workers, device="cpu"):
        self.examples, self.size, self.augment, self.workers = examples, size, augment, workers
        self.device = torch.device(device)
        self.batches = []  # of (index, view), which the loader goes through
        self.loader = None  # of training, kept over the epochs
        self.coming = None

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, rows):
        """Pictures of some rows."""
        some = self.examples[np.asarray(rows)]
        return Pictures(some, self.size, self.augment, self.workers, self.device)

    def to(self, device):
        return Pictures(self.examples, self.size, self.augment, self.workers, device)

    def split(self, size):
        """Yield batches (B, S, S, 3) uint8 on the device, in order: the middles of all images."""
        rows = np.array_split(np.arange(len(self)), -(-len(self) // min(size, EVALUATED)) or 1)
        batches = [[(int(row), MIDDLE) for row in some] for some in rows if len(some)]
        read = self._read(self._loader(batches, keep=False))
        if not processes.rank():
            shown = {"desc": "images read", "unit": "batch", "total": len(batches)}
            read = with_progress(read, **shown, delay=SLOW, leave=False)
        yield from map(self._here, read)

    def begin(self, batches):
        """Start to read the batches of an epoch: a list of (index (B,), view (B,))."""
        pairs = (zip(index.tolist(), view.tolist(), strict=True) for index, view in batches)
        self.batches[:] = map(list, pairs)
        if self.loader is None:
            self.loader = self._loader(self.batches, keep=True)
        self.coming = self._read(self.loader)

    def batch(self):
        """(B, S, S, 3) uint8 on the device: the next batch of the epoch."""
        return self._here(next(self.coming))

    def _read(self, loader):
        """Yield the batches of a loader."""
        with stopping.held():  # else a worker might begin with a signal that is for this process
            batches = iter(loader)
        try:
            yield from batches
        except (OSError, EOFError) as error:  # of the pipe: images that are none are returned
            if not loader.num_workers:
                raise
            time.sleep(HEARD)  # torch raises an error of its own when it hears of it
            raise died(error) from None

    def _here(self, images):
        if isinstance(images, KdlibError):
            raise images
        return images.to(self.device, non_blocking=True)

    def _loader(self, batches, keep):
        workers = self.workers if len(self) > EVALUATED or keep else 0
        return DataLoader(
            Views(self.examples, self.size, self.augment),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collated,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=stopping.led,
            persistent_workers=keep and workers > 0,
        )


@contextlib.contextmanager
def reading(x):
    """A block in which batches of Pictures, or of a tensor, are read; then no worker is left."""
    try:
        yield
    finally:
        if isinstance(x, Pictures):
            with stopping.held():  # what is raised while a loader is deleted would be lost
                x.coming = x.loader = None


def died(error):
    """The KdlibError of a worker that died, of which torch or a pipe tells."""
    return KdlibError(
        f"--workers: a process that reads images has died ({reason(error)}); memory may be short, "
        "or shared memory (/dev/shm): fewer workers need less, and --workers 0 needs none. The "
        "same command goes on."
    )


def in_memory(split):
    """The Split with all its Pictures read: a tensor (N, S, S, 3) uint8."""
    return Split(torch.cat(list(split.x.split(EVALUATED))), split.y, split.group)
