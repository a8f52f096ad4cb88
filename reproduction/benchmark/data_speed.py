"""Time reading and decoding photographs, and compare with what a training step consumes.

    python -m reproduction.benchmark.data_speed --data SOURCE [--rounds N] [--images N]

The images are written as a folder, as shards of the files and as shards of R×R PNG, and read from each in turn, as
training does before it crops: decoded, cut to their central square, resized to the side that table1/base stores. The
folder is also read at the side that evaluation sees, and crops are cut from pixels of either side. The time that a step
of small/cifar10 takes for an image is measured too. A step of table1/base takes too long on a CPU: its time is its
counted FLOPs divided by the rate of this core's matrix product.

One thread does all the work, and CPU time is counted, so rates are images per second of one core. Other work on the
machine still disturbs them; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from bigbigan.config import override
from bigbigan.data import ImageSet, open_source, write_shards
from bigbigan.data.batches import Batches
from bigbigan.data.image_set import FileStore
from bigbigan.data.loading import read_noted, stored_side
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.image.crop_sizes import viewed_side
from bigbigan.training.flops import step_cost
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from reproduction.common import Script, measured

LARGE, SMALL = "table1/base", "small/cifar10"
CROP = "resnet_crop"  # table1/base's


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/data_speed.jsonl")
    script.parser.add_argument("--data", required=True, metavar="SOURCE")
    script.parser.add_argument("--rounds", type=int, default=7)
    script.parser.add_argument("--images", type=int, default=200, help="images in a round (default 200)")
    return script.run(measure, arguments)


def measure(script: Script, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    large, source = find(LARGE).config(), open_source(options.data)
    cost = step_cost(large)
    per_image = cost["flops_per_step"] / cost["images_per_step"]
    with tempfile.TemporaryDirectory() as folder:
        sets, side = layouts(source.splits["train"], Path(folder), options.images)
        viewed = viewed_side(128, CROP, sets["folder"].store.pads)
        step, taken = small_step()
        step()
        croppers = {"crops": cropper(side), "crops_of_viewed_side": cropper(viewed)}
        rounds = []
        for _ in range(options.rounds):
            seconds = {way: cpu_seconds(reader(images, side)) / len(images) for way, images in sets.items()}
            seconds["folder_at_viewed_side"] = cpu_seconds(reader(sets["folder"], viewed)) / len(sets["folder"])
            seconds |= {way: cpu_seconds(work) / CROPPED for way, work in croppers.items()}
            seconds[SMALL] = cpu_seconds(step) / taken
            seconds[LARGE] = per_image / matmul_flops()
            rounds.append(seconds)
    rates = {f"images_per_core_second_{way.replace('/', '_')}": [1 / r[way] for r in rounds] for way in rounds[0]}
    for way in ("shards", f"shards_{side}px"):
        rates[f"speed_of_{way.replace(str(side), 'R')}_over_folder"] = [r["folder"] / r[way] for r in rounds]
    for way in ("folder", "crops"):
        other = {"folder": "folder_at_viewed_side", "crops": "crops_of_viewed_side"}[way]
        rates[f"speed_of_{way}_over_viewed_side"] = [r[other] / r[way] for r in rounds]
    rates["stored_kib"] = [3 * side**2 / 1024]
    rates["stored_over_viewed_side"] = [side**2 / viewed**2]
    for name in (SMALL, LARGE):
        rates[f"speed_of_folder_over_{name.replace('/', '_')}"] = [r[name] / r["folder"] for r in rounds]
    # A device of 100 TFLOP/s consumes 100e12 / per_image images per second.
    rates["cores_for_100_tflops_folder"] = [100e12 / per_image * r["folder"] for r in rounds]
    rates["cores_for_100_tflops_shards_Rpx"] = [100e12 / per_image * r[f"shards_{side}px"] for r in rounds]
    sizes = [source.splits["train"].load(i).shape for i in range(min(100, len(source.splits["train"])))]
    protocol = {"side": side, "median_height": median(s[0] for s in sizes),
                "median_width": median(s[1] for s in sizes)}  # fmt: skip
    script.append(
        script.result_lines(
            {name: measured(values, protocol) for name, values in rates.items()},
            subject="program",
            experiment="bench/data",
            dataset=source.name,
            split="train",
            n=options.images,
            digits=4,
        )
    )


def layouts(images: ImageSet, folder: Path, count: int) -> tuple[dict[str, ImageSet], int]:
    """Return `count` of the images, spread evenly, as a folder and as shards; and the side that table1/base keeps."""
    store = images.store
    if not isinstance(store, FileStore):
        raise UserError("--data: the source has arrays; expected one of image files, which are decoded")
    (folder / "files").mkdir()
    for i in range(0, len(images), max(1, len(images) // count))[:count]:
        name = f"{i:08d}{Path(images.files[i]).suffix}"
        (folder / "files" / name).write_bytes(store.raw(int(images.index[i])))
    files = open_source(str(folder / "files"))
    side = stored_side(files.splits["train"], 128, CROP)
    write_shards(files, folder / "shards", size_mib=16)
    write_shards(files, folder / "small", size_mib=16, resolution=side)
    opened = {"folder": files, "shards": open_source(str(folder / "shards"))}
    opened[f"shards_{side}px"] = open_source(str(folder / "small"))
    return {way: source.splits["train"] for way, source in opened.items()}, side


def reader(images: ImageSet, side: int) -> Callable[[], object]:
    return lambda: [read_noted(images, i, side, 3)[0] for i in range(len(images))]


CROPPED = 64  # images of a batch


def cropper(side: int) -> Callable[[], object]:
    """Return a function that cuts crops of 128 px for a batch, from pixels of `side` px."""
    pixels = torch.randint(0, 256, (2 * CROPPED, 3, side, side), dtype=torch.uint8)
    batches = Batches(pixels, CROPPED, 0, CROP, 128)
    return lambda: batches.batch(0)


def small_step() -> tuple[Callable[[], object], int]:
    """Return a training step of small/cifar10, and how many images it takes."""
    config = override(find(SMALL).config(), ["log.every=1000000"])
    pixels = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
    state, batches = TrainingState(config, torch.device("cpu")), Batches(pixels, config.training.batch_size, 0)
    return lambda: training_step(state, batches), config.training.batch_size * len(state.system.updates)


def matmul_flops() -> float:
    """Return the FLOPs per CPU second of a large float32 matrix product."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(cpu_seconds(lambda: a @ a) for _ in range(3))


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
