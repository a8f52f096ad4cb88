"""Draw the views that each pretext task makes of some images: docs/pictures/pretext_TASK.png, a row for each image.

python -m reproduction.render.pretext_inputs --data SOURCE [--count 4]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch

from bigbigan.data import load_view, open_source
from bigbigan.experiments import find
from bigbigan.image import to_float
from bigbigan.methods import make_system
from bigbigan.models import build
from bigbigan.randomness import keyed_generator
from bigbigan.training.image_grid import grid, save_image
from reproduction.common import ROOT, Script

METHODS = ("rotation", "relative_position", "exemplar", "colorization", "efficient_cpc")
PICTURES = ROOT / "docs" / "pictures"


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("--data", required=True, metavar="SOURCE")
    script.parser.add_argument("--count", type=int, default=4, metavar="N")
    return script.run(draw, arguments)


def draw(script: Script, options: argparse.Namespace) -> None:
    source = open_source(options.data)
    images = source.splits["train"].subset(np.arange(options.count))
    for method in METHODS:
        config = find(f"pretext/{method}").config(32)
        pixels, _ = load_view(images, 32, config.data.channels, config.data.augment, source)
        system = make_system(config, build(config))
        x = to_float(torch.from_numpy(pixels))
        for views in system.input_pictures(x, system.sample_noise(len(x), keyed_generator(0, "inputs"))).values():
            columns = views.shape[1]
            if columns > 12:  # arrange the patches of one image as in the image
                views, columns = views[:1], math.isqrt(columns)
            save_image(grid(views.flatten(0, 1), columns, min_side=64), PICTURES / f"pretext_{method}.png")


if __name__ == "__main__":
    sys.exit(main())
