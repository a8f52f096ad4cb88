"""Measure the image quality that a generator can reach on a data set, and check that the metrics rank images sensibly.

    bigbigan feature-extractor mnist-cnn --data mnist
    python -m reproduction.measure.reference_quality --data mnist --network mnist-cnn

Writes FID, KID, precision and recall against the training images for three kinds of "samples": the test images (the
best value to expect), the test images blurred, and noise.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bigbigan.data import open_source
from bigbigan.evaluation.image_quality.feature_extractors import channels_of, open_extractor
from bigbigan.evaluation.image_quality.sampling import compare, reference
from bigbigan.evaluation.splits import View, read_split
from bigbigan.training.devices import default_device
from reproduction.common import Script, split_of

MEASURES = ("fid", "kid", "precision", "recall")


def blurred(pixels: Tensor, sigma: float = 1.5) -> Tensor:
    """Blur uint8 images [N, C, R, R] by a Gaussian of `sigma` pixels."""
    place = torch.arange(-4, 5, dtype=torch.float32)
    line = torch.exp(-(place**2) / (2 * sigma**2))
    line = (line / line.sum()).expand(pixels.shape[1], 1, 1, -1)
    x = F.pad(pixels.float(), (4, 4, 4, 4), mode="reflect")
    x = F.conv2d(F.conv2d(x, line, groups=pixels.shape[1]), line.transpose(2, 3), groups=pixels.shape[1])
    return x.round().to(torch.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/quality.jsonl")
    script.parser.add_argument("--data", required=True, metavar="SOURCE")
    script.parser.add_argument("--network", required=True, metavar="NAME")
    script.parser.add_argument("--resolution", type=int, default=32, metavar="R")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    device = default_device()
    source = open_source(options.data)
    test_split = split_of(source, "test")
    view = View(options.resolution, channels_of(source))
    network = open_extractor(options.network, source.name, None, options.resolution, device)
    real = reference(source, "train", view, network)
    test = torch.from_numpy(read_split(source, test_split, view).pixels)[:10_000]
    noise = torch.randint(0, 256, test.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    count = f"{len(test) // 1000}k" if len(test) >= 1000 else str(len(test))
    for name, pixels in (("test_images", test), ("blurred_test_images", blurred(test)), ("noise", noise)):
        start = time.perf_counter()
        found = compare(real, network(pixels)[0], set(MEASURES))
        measured = {
            f"{measure}{count}_train_{network.name}": m._replace(
                protocol={"network": network.digest, **(m.protocol or {})}
            )
            for measure, m in found.items()
        }
        script.append(
            script.result_lines(
                measured,
                subject="images",
                experiment=f"reference/{name}",
                dataset=source.name,
                split="train",
                n=len(pixels),
                seconds=time.perf_counter() - start,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
