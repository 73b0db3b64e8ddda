"""Small folders of images, of which a network can learn something."""

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def image(rng, k, side=20):
    """Noise with a bright square whose place tells the class."""
    pixels = rng.integers(0, 120, (side, side + 4, 3), dtype=np.uint8)
    pixels[5 * k : 5 * k + 6, 4:16, k] = 255
    return Image.fromarray(pixels)


def write_folder(root, counts, side=20, seed=0):
    """A folder with parts, each with a folder for each class; counts: {part: images by class}."""
    rng = np.random.default_rng(seed)
    for part, of in counts.items():
        for k, n in enumerate(of):
            folder = root / part / CLASSES[k]
            folder.mkdir(parents=True)
            for i in range(n):
                image(rng, k, side).save(folder / f"{i:03d}.png")
    return root
