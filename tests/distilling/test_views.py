"""What an image looks like in training and prediction: as torchvision does, by a number."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from kdlib.config import KdlibError
from kdlib.distilling import views
from kdlib.distilling.listing import listing
from kdlib.distilling.views import PAD, Pictures, Split, in_memory


def pixels(image):
    return torch.from_numpy(np.array(image))


@pytest.fixture
def photo():
    values = np.random.default_rng(1).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("view", [0, 5, 2**31 - 1])
def test_a_resized_view_is_what_torchvision_draws_from_that_seed(photo, view):
    usual = [transforms.RandomResizedCrop(48), transforms.RandomHorizontalFlip()]
    torch.manual_seed(view)
    expected = transforms.Compose(usual)(photo)
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    assert torch.equal(pixels(views.random_part(photo, 48, view)), pixels(expected))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_trained_network_is_shown_the_middle_as_torchvision_cuts_it(photo):
    usual = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    assert torch.equal(pixels(views.middle(photo, 224)), pixels(usual(photo)))
    whole = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32)])
    assert torch.equal(pixels(views.middle(photo, 32, whole=True)), pixels(whole(photo)))


@pytest.mark.parametrize(("flip", "top", "left"), [(0, 0, 0), (1, 3, 8), (0, 8, 2)])
def test_a_padded_view_is_torchvision_s_pad_crop_and_flip(pictures, flip, top, left):
    examples = listing(pictures).train
    view = flip * (2 * PAD + 1) ** 2 + top * (2 * PAD + 1) + left
    image = transforms.CenterCrop(20)(examples.open(3))
    moved = functional.crop(functional.pad(image, PAD), top, left, 20, 20)
    expected = functional.hflip(moved) if flip else moved
    assert torch.equal(views.Views(examples, 20, "padded")[3, view], pixels(expected))


@pytest.mark.parametrize("augment", views.AUGMENTATIONS)
def test_batches_are_the_same_in_every_epoch_and_with_any_number_of_workers(pictures, augment):
    examples = listing(pictures).train
    rng = np.random.default_rng(0)
    drawn = torch.from_numpy(rng.integers(views.VIEWS[augment], size=len(examples)))
    batches = list(zip(torch.randperm(54).split(20), drawn.split(20), strict=True))
    seen = []
    for workers in (0, 2):
        x = Pictures(examples, 16, augment, workers)
        for _ in range(2):
            x.begin(batches)
            own = [x.batch() for _ in batches]
        seen.append(torch.cat(own))
    assert torch.equal(*seen)
    order = torch.cat([index for index, _ in batches])
    alone = views.Views(examples, 16, augment)
    assert torch.equal(seen[0][7], alone[int(order[7]), int(drawn[7])])


def test_prediction_sees_every_image_once_and_in_order(pictures):
    examples = listing(pictures).test
    x = Pictures(examples, 16, "padded", 0)
    held = in_memory(Split(x, *map(torch.from_numpy, (examples.y, examples.group))))
    assert held.x.shape == (30, 16, 16, 3)
    assert torch.equal(torch.cat(list(x.split(7))), held.x)
    some = x[np.arange(3, 30, 4)]
    assert torch.equal(torch.cat(list(some.split(100))), held.x[3::4])
    assert list(x[np.arange(0)].split(5)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_from_any_process(tmp_path, workers, pictures):
    examples = listing(pictures).train
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")

    class Damaged:
        def open(self, i):
            if i == 1:
                raise KdlibError(f"{broken}: is no image.")
            return examples.open(i)

        def __len__(self):
            return 54

    x = Pictures(Damaged(), 16, "none", workers)
    index = torch.arange(4)
    x.begin([(index, torch.zeros(4, dtype=torch.int64))])
    with pytest.raises(KdlibError, match="broken.png: is no image"):
        x.batch()
