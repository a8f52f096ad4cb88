"""Draw BiGAN's Figure 2 for a run: rows of G(z), of images x, and of their reconstructions G(E(x)).

python -m reproduction.render.bigan_rows RUN OUT.png [--data SOURCE] [--columns N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bigbigan.apps.sheet import tiles_of
from bigbigan.apps.visualize import shown_split
from bigbigan.image.grid import save_image
from bigbigan.inference.loading import load
from bigbigan.training.run_folder import open_data
from reproduction.common import Script, as_seen
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
    images = shown_split(source)
    pixels, x = as_seen(model, source, images, options.columns)
    rows = [model.generate(len(x)), x, model.reconstruct(pixels)]
    title = f"{c.experiment} after {model.step:,} steps: samples, {images.name} images, reconstructions"
    tiles = [tiles_of(row) for row in rows]
    save_image(labelled(tiles, ("G(z)", "x", "G(E(x))"), title, columns=10, enlarge=84), options.out)


if __name__ == "__main__":
    sys.exit(main())
