"""What image quality a generator can reach on a data set, and that the measures order what they should.

    bigbigan feature-network mnist-cnn --data mnist
    python tools/reference_quality.py --data mnist --network mnist-cnn

Writes FID, KID, precision and recall against the training images, for three kinds of "samples": the test images (the
floor), the test images blurred, and noise. Lines go to results/quality.jsonl.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bigbigan.data import open_source
from bigbigan.evaluation.image_quality.feature_networks import channels_of, open_network
from bigbigan.evaluation.image_quality.sampling import compare, reference
from bigbigan.evaluation.records import append_results
from bigbigan.evaluation.splits import View, read_split
from bigbigan.evaluation.targets import Subject, result_lines
from bigbigan.training.run_folder import default_device

MEASURES = ("fid", "kid", "precision", "recall")


def blurred(pixels: Tensor, sigma: float = 1.5) -> Tensor:
    """uint8 [N, C, R, R] through a Gaussian of `sigma` pixels."""
    place = torch.arange(-4, 5, dtype=torch.float32)
    line = torch.exp(-(place**2) / (2 * sigma**2))
    line = (line / line.sum()).expand(pixels.shape[1], 1, 1, -1)
    x = F.pad(pixels.float(), (4, 4, 4, 4), mode="reflect")
    x = F.conv2d(F.conv2d(x, line, groups=pixels.shape[1]), line.transpose(2, 3), groups=pixels.shape[1])
    return x.round().to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--network", required=True, metavar="NAME")
    parser.add_argument("--resolution", type=int, default=32, metavar="R")
    options = parser.parse_args()
    device = default_device()
    source = open_source(options.data)
    view = View(options.resolution, channels_of(source))
    network = open_network(options.network, source.name, None, options.resolution, device)
    real = reference(source, "train", view, network)
    test = torch.from_numpy(read_split(source, source.splits["test"], view).pixels)[:10_000]
    noise = torch.randint(0, 256, test.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    command = f"python {shlex.join(sys.argv)}"
    for name, pixels in (("test_images", test), ("blurred_test_images", blurred(test)), ("noise", noise)):
        start = time.perf_counter()
        found = compare(real, network(pixels)[0], set(MEASURES))
        subject = Subject(f"reference/{name}", view, device)
        figures = {
            f"{measure}10k_train_{network.name}": figure._replace(
                protocol={"network": network.digest, **(figure.protocol or {})}
            )
            for measure, figure in found.items()
        }
        append_results(
            Path("results/quality.jsonl"),
            result_lines(subject, source, "train", len(pixels), figures, False, start, command),
        )
        print(name, {measure: round(figure.value, 4) for measure, figure in found.items()})


if __name__ == "__main__":
    main()
