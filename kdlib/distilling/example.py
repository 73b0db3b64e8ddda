"""Images to try a distillation on before your own are at hand: scikit-learn's digits."""

from pathlib import Path

from PIL import Image

from kdlib.config import Config
from kdlib.study.datasets import digits

TIMES = 2  # pixels of a side for each of the 8
RARER = 20  # the first class has so many times the training images of the last
SAID = (
    "This is the example on scikit-learn's handwritten digits. It shows how such a page looks; its "
    "images are far too few to say anything about distillation."
)
# networks, and a recipe by which they learn in a minute on one core; a digit in the mirror is none
RECIPE = {"teacher": "kdlib:resnet8x2", "student": "kdlib:resnet8", "size": 8 * TIMES}
RECIPE |= {"epochs": 20, "batch_size": 64, "lr": 0.1, "augment": "none", "seeds": 3}


def example_folder(where):
    """Write the digits as PNG into the folder `where`: train, val and test, each with ten classes.

    Training images become rarer from 0 to 9. Test images are also those that no network of the
    studies has seen. Written again, they are the same bytes. Returns the folder as a Path."""
    data = digits(Config(dataset="digits", imbalance=RARER))
    parts = {"train": [data.train], "val": [data.val], "test": [data.test, data.left_out]}
    for part, splits in parts.items():
        for number, split in enumerate(splits):
            _write(Path(where) / part, f"{number}-", split, data.class_names)
    return Path(where)


def _write(folder, begins, split, class_names):
    """The images x (N, 8, 8, 1) uint8 of a Split as FOLDER/CLASS/BEGINS0000.png and so on."""
    for name in class_names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    larger = split.x[..., 0].repeat_interleave(TIMES, 1).repeat_interleave(TIMES, 2)
    for i, (pixels, c) in enumerate(zip(larger.numpy(), split.y.tolist(), strict=True)):
        Image.fromarray(pixels).save(folder / class_names[c] / f"{begins}{i:04}.png")
