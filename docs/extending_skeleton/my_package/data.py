"""A data set: a map-style Dataset of (image, label), the same each time."""

import numpy as np
from PIL import Image, ImageDraw
from torch.utils.data import Dataset


class Shapes(Dataset):
    """Squares and discs of random colours, drawn when they are asked for.

    Args:
        count: number of images.
        seed: of their positions, sizes and colours.
    """

    classes = ("square", "disc")

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.targets = [i % 2 for i in range(count)]  # saves reading all items for their labels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        rng = np.random.default_rng((self.seed, i))  # depends on i alone
        image = Image.new("RGB", (32, 32), tuple(rng.integers(0, 80, 3).tolist()))
        x, y, side = rng.integers(2, 12), rng.integers(2, 12), rng.integers(8, 18)
        draw = ImageDraw.Draw(image)
        shape = draw.ellipse if self.targets[i] else draw.rectangle
        shape((int(x), int(y), int(x + side), int(y + side)), fill=tuple(rng.integers(120, 256, 3).tolist()))
        return image, self.targets[i]


def shapes() -> dict[str, Dataset]:
    """Return the splits; --data python:my_package.data:shapes calls this."""
    return {"train": Shapes(200, seed=0), "test": Shapes(60, seed=1)}
