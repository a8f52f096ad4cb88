"""Draw the reconstructions of two runs of the same images side by side, and measure both by one distance.

    python -m reproduction.render.reconstructions RUN RUN [--network NAME] [--data SOURCE] [--out PICTURE.png]

The runs need G and E, and images of the same size and channels, such as BiGAN and BigBiGAN in the blog's
Figure 7. The distance is between features of x and of G(E(x)), by the feature extractor that --network names (see
`bigbigan feature-extractor`), or between pixels without one. It is given relative to mismatched pairs, x and the
reconstruction of another image: 1 means that E has learned nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bigbigan.apps.visualize import shown_split
from bigbigan.errors import UserError
from bigbigan.evaluation.image_quality.feature_extractors import open_extractor
from bigbigan.evaluation.records import Measurement
from bigbigan.evaluation.targets import Target, open_target
from bigbigan.image import to_uint8
from bigbigan.image.grid import grid
from reproduction.common import Script, as_seen

Features = Callable[[Tensor], Tensor]  # of images [N, C, R, R] in [-1, 1]: [N, d]


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/reconstructions.jsonl")
    add = script.parser.add_argument
    add("runs", type=Path, nargs=2, metavar="RUN")
    add("--network", metavar="NAME", help="feature extractor; default: pixels")
    add("--data", metavar="SOURCE", help="default: the first run's own; its test images")
    add("--count", type=int, default=1000, metavar="N", help="images to measure (default 1000)")
    add("--columns", type=int, default=14, metavar="N", help="images to draw (default 14)")
    add("--out", type=Path, default=Path("docs/pictures/reconstructions.png"), metavar="PICTURE")
    return script.run(compare, arguments)


def compare(script: Script, options: argparse.Namespace) -> None:
    targets = [open_target(str(run)) for run in options.runs]
    forms = [_form(target) for target in targets]
    if forms[0] != forms[1]:
        raise UserError(
            f"{options.runs[0]} has images of {_in_words(forms[0])}, {options.runs[1]} of {_in_words(forms[1])}; "
            "expected runs of the same size and channels"
        )
    source = targets[0].source(options.data, None, "reconstructions", needs_labels=False)
    split = shown_split(source)
    name, features = features_of(options.network, source.name, forms[0][0])
    drawn: list[tuple[str, Tensor, Tensor]] = []
    for target in targets:
        assert target.model is not None
        pixels, x = as_seen(target.model, source, split, options.count)
        x_hat = target.model.reconstruct(pixels)
        matched, mismatched = distances(features(x), features(x_hat))
        protocol = {"network": name, "mismatched": round(mismatched, 4), "distance": round(matched, 4)}
        measured = {f"reconstruction_ratio_{name}": Measurement(matched / mismatched, protocol=protocol)}
        script.append(script.target_lines(target, measured, source=source, split=split.name, n=len(x)))
        title = f"{target.experiment}, {target.steps:,} steps: {matched / mismatched:.3f}"
        drawn.append((title, x[: options.columns], x_hat[: options.columns]))
    draw(drawn, name, options.out)


def _form(target: Target) -> tuple[int, int]:
    """Return side and channels of a run's images; raise UserError if it has no G or no E."""
    model = target.model
    if model is None:
        raise UserError(f"{target.experiment} is an external encoder; expected a run with G and E")
    _ = model.generator, model.encoder
    return model.config.generator.resolution, model.config.data.channels


def _in_words(form: tuple[int, int]) -> str:
    return f"{form[0]} px, {'grey' if form[1] == 1 else 'colour'}"


def features_of(network: str | None, dataset: str, side: int) -> tuple[str, Features]:
    """Return the name of a feature space, "pixels" without a network, and the map into it."""
    if network is None:
        return "pixels", lambda x: x.flatten(1) / 2
    if network == "encoder":
        raise UserError("--network encoder: each run has its own, and distances in two spaces do not compare")
    extractor = open_extractor(network, dataset, None, side, torch.device("cpu"))
    return network, lambda x: extractor(to_uint8(x))[0]


def distances(f: Tensor, f_hat: Tensor) -> tuple[float, float]:
    """Return the mean Euclidean distance of rows of f and f_hat [N, d], and that of mismatched rows."""
    matched = (f - f_hat).norm(dim=1).mean()
    order = torch.randperm(len(f), generator=torch.Generator().manual_seed(0))  # neighbours may be of one class
    return float(matched), float((f[order] - f_hat[order].roll(1, 0)).norm(dim=1).mean())


def draw(drawn: Sequence[tuple[str, Tensor, Tensor]], name: str, out: Path) -> None:
    """Draw x above G(E(x)) of each run, under a title."""
    columns = len(drawn[0][1])
    figure = Figure(figsize=(columns * 0.72 + 0.9, 4.2), layout="constrained")
    figure.suptitle(f"distance of x and G(E(x)) in {name} features, matched / mismatched" if name != "pixels" else
                    "distance of x and G(E(x)) in pixels, matched / mismatched", fontsize=11)  # fmt: skip
    for axes, (title, x, x_hat) in zip(figure.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True):
        picture = np.asarray(grid(torch.cat([x, x_hat]), columns))
        axes.imshow(picture)
        axes.set_title(title, fontsize=11)
        axes.set_yticks([picture.shape[0] * share for share in (0.25, 0.75)], ["x", "G(E(x))"])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    sys.exit(main())
