"""Images as lists of where they are and what they show; opened one at a time, in RGB.

No image is held, but for the encoded bytes of Parquet files. Needs Pillow.
"""

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdlib.reading.sentences import AuditError, reason


@dataclass(frozen=True)
class Files:
    """Images that are files below a folder, called by their paths there."""

    folder: Path

    def path(self, name):
        return self.folder / name

    def opened(self, name):
        """The bytes of an image, as an open file."""
        return open(self.path(name), "rb")

    def size(self, name):
        """Bytes of an image, -1 where it is gone."""
        try:
            return os.stat(os.path.join(self.folder, name)).st_size
        except OSError:
            return -1


@dataclass(frozen=True)
class Shards:
    """Images that are rows of Parquet files below a folder, called FILE#ROW; rows count from 0."""

    folder: Path
    content: object  # pyarrow.ChunkedArray of the encoded bytes of all images
    first: dict  # file: place of its first row in content

    def path(self, name):
        return None

    def _bytes(self, name):
        file, _, row = name.rpartition("#")
        return self.content[self.first[file] + int(row)].as_buffer()

    def opened(self, name):
        return io.BytesIO(self._bytes(name))

    def size(self, name):
        return self._bytes(name).size


@dataclass(frozen=True, eq=False)
class Examples:
    """N images, their labels and groups."""

    names: np.ndarray  # (N,) of str: path below the folder with "/"; of Parquet "FILE#ROW"
    y: np.ndarray  # (N,) int64, class
    group: np.ndarray  # (N,) int64, subgroup
    home: Files | Shards

    def __len__(self):
        return len(self.names)

    def __getitem__(self, rows):
        """The Examples of these rows, an array of their numbers or of N booleans."""
        rows = np.asarray(rows)
        return replace(self, names=self.names[rows], y=self.y[rows], group=self.group[rows])

    def path(self, i):
        """Path of the file of image i; None of an image in Parquet."""
        return self.home.path(str(self.names[i]))

    def open(self, i):
        """Image i as PIL has it, 8-bit RGB, decoded; AuditError that names what is none."""
        name = str(self.names[i])
        try:
            with self.home.opened(name) as file:
                return rgb(Image.open(file))
        except Exception as error:  # PIL raises a dozen classes on damaged bytes
            unknown = isinstance(error, UnidentifiedImageError)  # which prints its file's address
            why = "no format that Pillow knows" if unknown else reason(error)
            raise AuditError(
                f"{self.home.folder / name}: is no readable image ({why}); --skip-corrupt leaves "
                "such images out."
            ) from None

    def fault(self, i):
        """What is wrong with image i, or None. It is decoded."""
        try:
            self.open(i)
        except AuditError as error:
            return str(error)
        return None

    def sizes(self):
        """(N,) int64, bytes of each image as it is encoded."""
        return np.array([self.home.size(name) for name in self.names.tolist()], dtype=np.int64)


def rgb(image):
    """An image of PIL in 8-bit RGB, decoded; ValueError for pixels whose range nobody knows.

    As torchvision's ImageFolder loads it: pixels as they are stored, so that the orientation that
    EXIF notes is not applied, and transparency dropped. But grey of 16 bits, which convert would
    clip to white above 255, is scaled: 65,535 is white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits, mode {image.mode}; save it with 8 or 16")
    elif image.mode == "P":
        image = image.convert("RGBA")  # which does not warn of transparency, as "RGB" would
    return image.convert("RGB")
