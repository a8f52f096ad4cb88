"""Draw the views that each pretext task makes of images of several classes: docs/pictures/pretext_TASK.png.

python -m reproduction.render.pretext_inputs --data SOURCE [--count 4]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from bigbigan.apps.sheet import sheet, tiles_of
from bigbigan.data import load_view, open_source
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.image import to_float
from bigbigan.image.grid import save_image
from bigbigan.methods import make_system
from bigbigan.models import build
from bigbigan.randomness import keyed_generator
from reproduction.common import ROOT, Script

# Names of the views of each task.
METHODS = {
    "rotation": ["0°", "90°", "180°", "270°"],
    "relative_position": [f"patch {k}" for k in (*range(1, 5), "5, middle", *range(6, 10))],
    "exemplar": [f"view {k}" for k in range(1, 9)],
    "colorization": ["crop", "input", "colours to predict"],
    "efficient_cpc": [],
}
SCALE, SIDE = 64, 96  # of the images that methods see; of a tile, in pixels
PICTURES = ROOT / "docs" / "pictures"


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("--data", required=True, metavar="SOURCE")
    script.parser.add_argument("--count", type=int, default=4, metavar="N", help="images, each of another class")
    return script.run(draw, arguments)


def draw(script: Script, options: argparse.Namespace) -> None:
    source = open_source(options.data)
    train = source.splits["train"]
    if train.labels is None:
        raise UserError(f"{source.name} has no labels to choose images of several classes by; give --data with labels")
    classes, first = np.unique(train.labels, return_index=True)
    places = (np.arange(options.count) + 0.5) / options.count * len(classes)
    images = train.subset(first[places.astype(int)])
    for method, names in METHODS.items():
        config = find(f"pretext/{method}").config(SCALE)
        pixels, _ = load_view(images, SCALE, config.data.channels, config.data.augment, source)
        system = make_system(config, build(config))
        x = to_float(torch.from_numpy(pixels))
        for views in system.input_pictures(x, system.sample_noise(len(x), keyed_generator(0, "inputs"))).values():
            if names:
                views = torch.stack([F.interpolate(v, size=x.shape[2:]) for v in views])  # enlarges patches
                rows = [[a, *row] for a, row in zip(tiles_of(x), map(tiles_of, views), strict=True)]
                drawn = sheet(rows, column_names=["image", *names], apart=1, side=SIDE)
            else:  # the patches of one image, placed as in the image
                tiles, side = tiles_of(views[0]), round(views.shape[1] ** 0.5)
                rows = [tiles[k : k + side] for k in range(0, len(tiles), side)]
                drawn = sheet(rows, title=f"{len(tiles)} patches of one image, at their places", side=SIDE // 2)
            save_image(drawn, PICTURES / f"pretext_{method}.png")


if __name__ == "__main__":
    sys.exit(main())
