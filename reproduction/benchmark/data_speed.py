"""Time reading and decoding photographs against what a training step consumes, as result lines.

    python tools/bench_data.py --data SOURCE [--results FILE] [--rounds N] [--images N]

The images are laid out as a folder, as shards of the files and as shards of R×R PNG, and read from each in turn, as
training does before it crops: decoded, cut to their middle square, resized to the side that table1/base stores. The
folder is also read at the side that evaluation sees, and crops are cut from pixels of either side. What a
step of small/cifar10 takes an image is timed beside; what one of table1/base takes, which no CPU finishes, is its
counted FLOPs over this core's own matrix product.

One thread does all, and CPU time is counted: images a second are those of one core. Other work on the machine still
disturbs them; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bigbigan.config import override
from bigbigan.data import ImageSet, open_source, write_shards
from bigbigan.data.batches import Batches
from bigbigan.data.image_set import FileStore
from bigbigan.data.loading import read_pixels, stored_side, viewed_side
from bigbigan.evaluation.records import ResultLine, append_results
from bigbigan.experiments import find
from bigbigan.training.flops import step_cost
from bigbigan.training.run_folder import commit, device_name
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step

LARGE, SMALL = "table1/base", "small/cifar10"
CROP = "resnet_crop"  # table1/base's


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, metavar="SOURCE")
    parser.add_argument("--results", type=Path, default=Path("results/data_speed.jsonl"), metavar="FILE")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=200, help="of a round")
    options = parser.parse_args()
    began, code = time.perf_counter(), commit()
    torch.set_num_threads(1)
    large, source = find(LARGE).config(), open_source(options.data)
    per_image = step_cost(large)["flops_per_step"] / images_of(large.training.batch_size, large.training.d_steps)
    with tempfile.TemporaryDirectory() as folder:
        sets, side = layouts(source.splits["train"], Path(folder), options.images)
        viewed = viewed_side(sets["folder"], 128, CROP)
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
    draws = {f"images_per_core_second_{way.replace('/', '_')}": [1 / r[way] for r in rounds] for way in rounds[0]}
    for way in ("shards", f"shards_{side}px"):
        draws[f"speed_of_{way.replace(str(side), 'R')}_over_folder"] = [r["folder"] / r[way] for r in rounds]
    for way in ("folder", "crops"):
        other = {"folder": "folder_at_viewed_side", "crops": "crops_of_viewed_side"}[way]
        draws[f"speed_of_{way}_over_viewed_side"] = [r[other] / r[way] for r in rounds]
    draws["stored_kib"] = [3 * side**2 / 1024]
    draws["stored_over_viewed_side"] = [side**2 / viewed**2]
    for name in (SMALL, LARGE):
        draws[f"speed_of_folder_over_{name.replace('/', '_')}"] = [r[name] / r["folder"] for r in rounds]
    # 100e12 / per_image images a second are what a device consumes that does 100 TFLOP/s in all
    draws["cores_for_100_tflops_folder"] = [100e12 / per_image * r["folder"] for r in rounds]
    draws["cores_for_100_tflops_shards_Rpx"] = [100e12 / per_image * r[f"shards_{side}px"] for r in rounds]
    sizes = [source.splits["train"].load(i).shape for i in range(100)]
    protocol = {"side": side, "median_height": statistics.median(s[0] for s in sizes),
                "median_width": statistics.median(s[1] for s in sizes)}  # fmt: skip
    lines = [
        ResultLine(
            experiment="bench/data", scale=0, settings={}, table_row=None, dataset=source.name, split="train",
            metric=metric, value=float(f"{statistics.median(values):.4g}"),
            std=float(f"{statistics.stdev(values):.3g}") if len(values) > 1 else None,
            draws=[float(f"{v:.4g}") for v in values], protocol=protocol,
            n=options.images, seed=0, steps=0, images_seen=0, device=device_name(),
            seconds=round(time.perf_counter() - began, 1), commit=code,
            command=shlex.join(["python", "tools/bench_data.py", *sys.argv[1:]]),
        )
        for metric, values in draws.items()
    ]  # fmt: skip
    append_results(options.results, lines)
    for line in lines:
        print(f"{line.metric}: {line.value} ± {line.std}")


def layouts(images: ImageSet, folder: Path, count: int) -> tuple[dict[str, ImageSet], int]:
    """`count` of the images, spread evenly, as a folder and as shards; and the side that table1/base keeps."""
    store = images.store
    assert isinstance(store, FileStore), "the source is one of arrays; there is nothing to decode"
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
    return lambda: [read_pixels(images, i, 3, side) for i in range(len(images))]


CROPPED = 64  # images of a batch


def cropper(side: int) -> Callable[[], object]:
    """Crops of 128 px for a batch, from pixels of S = `side`."""
    pixels = torch.randint(0, 256, (2 * CROPPED, 3, side, side), dtype=torch.uint8)
    batches = Batches(pixels, CROPPED, 0, CROP, 128)
    return lambda: batches.batch(0)


def small_step() -> tuple[Callable[[], object], int]:
    """A training step of small/cifar10, and how many images it takes."""
    config = override(find(SMALL).config(), ["log.every=1000000"])
    pixels = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
    state, batches = TrainingState(config, torch.device("cpu")), Batches(pixels, config.training.batch_size, 0)
    return lambda: training_step(state, batches), images_of(config.training.batch_size, config.training.d_steps)


def images_of(batch: int, d_steps: int) -> int:
    return batch * (d_steps + 1)


def matmul_flops() -> float:
    """FLOPs a CPU second of a large float32 matrix product."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / min(cpu_seconds(lambda: a @ a) for _ in range(3))


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
