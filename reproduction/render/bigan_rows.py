"""Draw BiGAN's Figure 2 for a run: rows of G(z), of images x, and of their reconstructions G(E(x)).

python -m reproduction.render.bigan_rows RUN OUT.png [--data SOURCE] [--columns N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bigbigan.apps.sheet import tiles_of
from bigbigan.data import load_view
from bigbigan.image import pool_to
from bigbigan.image.grid import save_image
from bigbigan.inference.loading import load
from bigbigan.training.run_folder import open_data
from reproduction.common import Script
from reproduction.render.label_grid import labelled


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("run", type=Path)
    script.parser.add_argument("out", type=Path)
    script.parser.add_argument("--data", metavar="SOURCE", help="default: the run's own; its test images")
    script.parser.add_argument("--columns", type=int, default=20)
    return script.run(draw, arguments)


def draw(script: Script, options: argparse.Namespace) -> None:
    model = load(options.run)
    c = model.config
    source = open_data(options.run, options.data, None, model.config)
    images = source.splits.get("test", source.splits["train"])
    n = min(options.columns, len(images))
    pixels, _ = load_view(images.subset(range(n)), c.encoder.resolution, c.data.channels, c.data.augment)
    x = torch.from_numpy(pixels)
    rows = [model.generate(n), pool_to(model.prepare(x), c.generator.resolution), model.reconstruct(x)]
    title = f"{c.experiment} after {model.step:,} steps: samples, {images.name} images, reconstructions"
    tiles = [tiles_of(row) for row in rows]
    save_image(labelled(tiles, ("G(z)", "x", "G(E(x))"), title, columns=10, enlarge=84), options.out)


if __name__ == "__main__":
    sys.exit(main())
