"""Measure what a training step costs on this machine: time by part, images and FLOPs per second, memory.

Images are random and in memory at the size that E sees, so that nothing waits for a disk. Each measurement runs in a
process of its own, for its peak of memory. The machine's own matrix product is timed too, because machines differ and
rates compare best as a share of it. Under torchrun all ranks step together, each with its part of the batch.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from bigbigan.compute import AUTO, chosen_device, computing, reuse_freed_memory
from bigbigan.config import Config
from bigbigan.data.batches import Batches
from bigbigan.evaluation import records
from bigbigan.evaluation.records import ResultLine
from bigbigan.image.crop_sizes import STORED
from bigbigan.image.grid import SOFTWARE
from bigbigan.io import writing
from bigbigan.methods import Outcome, Update
from bigbigan.training import distributed
from bigbigan.training.devices import default_device, device_name, peak_memory, synchronize
from bigbigan.training.flops import step_cost
from bigbigan.training.run_folder import changed_settings
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step

__all__ = ["Cost", "bench", "chart", "matmul_tflops", "measure", "peak_memory_mib", "random_batches", "result_lines"]

T = TypeVar("T")
BATCHES = 4  # batches of images in memory


@dataclass(frozen=True)
class Cost:
    """Hold the cost of a step: of the timed steps, the one of median length.

    Attributes:
        seconds: of the whole step.
        parts: seconds by part: data; each kind of update with its backward pass and optimizer step; averages; and
            `rest`, which is logging and the loop itself.
        images_per_second: real images that the networks see.
        flops: FLOPs of a step, counted; a multiply-add is 2.
        tflops: TFLOPs per second; `matmul_tflops` is the machine's own matrix product, and `share` their ratio.
        peak_memory_mib: of the device, or resident memory of the process on a CPU; of several ranks, of this one.
        before_mib: the same before the networks were built.
        ranks: processes that stepped together.
    """

    seconds: float
    parts: dict[str, float]
    images_per_second: float
    flops: int
    tflops: float
    matmul_tflops: float
    peak_memory_mib: float
    before_mib: float
    ranks: int = 1

    @property
    def share(self) -> float:
        """The rate of a step as a share of the machine's own matrix product."""
        return self.tflops / (self.ranks * self.matmul_tflops)


def bench(config: Config, steps: int = 5) -> Cost:
    """Measure `steps` training steps, after two steps of warm-up, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=reuse_freed_memory) as other:
        return other.submit(measure, config, steps, next(_measurements), chosen_device()).result()


_measurements = itertools.count()


def measure(config: Config, steps: int, number: int = 0, device: str = AUTO) -> Cost:
    """Measure in this process, on the device of this name; `number` counts the measurements of this command."""
    with computing(device), distributed.process_group(f"bench {number}"):
        return _measure(config, steps, default_device())


def _measure(config: Config, steps: int, device: torch.device) -> Cost:
    peak, before = matmul_tflops(device), peak_memory_mib(device)
    flops = step_cost(config)["flops_per_step"]
    state, batches = TrainingState(config, device), random_batches(config, device)
    parts = Parts(device)
    parts.attach(state, batches)
    for _ in range(2):
        training_step(state, batches)
    timed = []
    for _ in range(steps):
        parts.seconds.clear()
        start = parts.now()
        training_step(state, batches)
        whole = parts.now() - start
        timed.append((whole, {**parts.seconds, "rest": whole - sum(parts.seconds.values())}))
    seconds, parts_of_step = sorted(timed, key=lambda step: step[0])[len(timed) // 2]
    images = config.training.batch_size * len(state.system.updates)
    return Cost(
        seconds=seconds,
        parts=parts_of_step,
        images_per_second=images / seconds,
        flops=flops,
        tflops=flops / seconds / 1e12,
        matmul_tflops=peak,
        peak_memory_mib=peak_memory_mib(device),
        before_mib=before,
        ranks=distributed.world_size(),
    )


def random_batches(config: Config, device: torch.device) -> Batches:
    """Return batches of random images in memory, at the size that training stores them at."""
    n, side = config.training.batch_size, config.encoder.resolution
    stored = round(STORED.get(config.data.augment, 1) * side)  # as for photographs that are large enough
    pixels = torch.randint(
        0, 256, (BATCHES * n, config.data.channels, stored, stored), dtype=torch.uint8, device=device
    )
    labelled = config.data.labels == "classes"
    labels = torch.randint(config.data.classes, (len(pixels),), device=device) if labelled else None
    return Batches(
        pixels, n, config.training.seed, config.data.augment, side, labels=labels, mirror=config.data.mirrors
    )


def now(device: torch.device) -> float:
    """Return the time in seconds, once the device is idle.

    On a CPU with one thread it is the processor time of this process, which other programs on the machine do not change
    much; with more threads, and on a GPU, it is the time on the clock.
    """
    synchronize(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1 and distributed.world_size() == 1
    return time.process_time() if alone else time.perf_counter()


class Parts:
    """Measure the seconds of a step by part. A call while another part is timed counts for that part only."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.part = device, defaultdict[str, float](float), ""
        self.running = False

    def now(self) -> float:
        """Return the time in seconds, once the device is idle; see `now`."""
        return now(self.device)

    def timed(self, work: Callable[..., T], part: str = "") -> Callable[..., T]:
        """Return `work` timed as part `part`, or as the part that was entered last."""

        def run(*args: Any, **kwargs: Any) -> T:
            if self.running:  # as a part of another
                return work(*args, **kwargs)
            self.running, self.part = True, part or self.part
            start = self.now()
            try:
                return work(*args, **kwargs)
            finally:
                self.running = False
                self.seconds[self.part] += self.now() - start

        return run

    def timed_terms(self, update: Update, part: str) -> Update:
        """Return an update whose terms, which it computes one by one, are timed."""

        def terms(*args: Any, **kwargs: Any) -> Iterator[Outcome]:
            work = iter(update(*args, **kwargs))
            yield from iter(self.timed(lambda: next(work, None), part), None)

        return terms

    def attach(self, state: TrainingState, batches: Batches) -> None:
        """Time the parts of training steps from now on."""
        system: Any = state.system
        batches.batch = self.timed(batches.batch, "data")  # type: ignore[method-assign]
        for update in dict.fromkeys(system.updates):
            setattr(system, update.__name__, self.timed_terms(update, update.__name__))
        system.backward = self.timed(system.backward)
        for optimizer in state.optimizers.values():
            optimizer.step = self.timed(optimizer.step)  # type: ignore[method-assign]
        state.update_averages = self.timed(state.update_averages, "averages")  # type: ignore[method-assign]


def matmul_tflops(device: torch.device) -> float:
    """Return the best rate of ten large float32 matrix products in TFLOP/s.

    A GPU that trains in bf16 would be better compared with bf16 products.
    """
    side = 1024 if device.type == "cpu" else 8192
    a = torch.randn(side, side, device=device)
    best = float("inf")
    for _ in range(10):
        start = now(device)
        a @ a
        best = min(best, now(device) - start)
    return 2 * side**3 / best / 1e12


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak so far of the GPU's memory, or of this process's resident memory, in MiB; NaN if unknown."""
    if (peak := peak_memory(device)) is not None:
        return peak / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage never reports less than the memory of the parent process
        (line,) = (line for line in status.read_text("ascii", "replace").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def result_lines(config: Config, cost: Cost, steps: int, command: str, study: str = "bench") -> list[ResultLine]:
    """Return a measurement as result lines; their `settings` say what was varied."""
    measured = {f"seconds_{part}": seconds for part, seconds in cost.parts.items()} | {
        "seconds_per_step": cost.seconds,
        "images_per_second": cost.images_per_second,
        "flops_per_step": float(cost.flops),
        "tflops": cost.tflops,
        "share_of_matmul": cost.share,
        "peak_memory_mib": cost.peak_memory_mib,
    }
    return records.result_lines(
        {name: value for name, value in measured.items() if not math.isnan(value)},
        study=study,
        subject="program",
        experiment=config.experiment,
        dataset="noise",
        split="train",
        n=steps,
        seconds=cost.seconds * steps,
        command=command,
        scale=config.scale,
        settings=changed_settings(config),
        seed=config.training.seed,
        device=None if cost.ranks == 1 else f"{cost.ranks} ranks, {device_name()} each",
        digits=5,
    )


def chart(costs: dict[str, Cost], setting: str, title: str, path: Path) -> None:
    """Draw seconds by part, images per second and memory for each value of a setting, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    figure.suptitle(title)
    axes, names = figure.subplots(1, 3), list(costs)
    bottom = [0.0] * len(names)
    for part in next(iter(costs.values())).parts:
        heights = [cost.parts.get(part, 0.0) for cost in costs.values()]
        axes[0].bar(names, heights, bottom=bottom, label=part.replace("_", " "))
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    axes[0].set_ylabel("seconds per step")
    axes[0].legend(fontsize=8)
    axes[1].plot(names, [cost.images_per_second for cost in costs.values()], "o-")
    axes[1].set_ylabel("images per second")
    axes[2].plot(names, [cost.peak_memory_mib for cost in costs.values()], "o-", label="peak")
    axes[2].set_ylabel("memory, MiB")
    for ax in axes:
        ax.set_xlabel(setting)
        ax.set_ylim(bottom=0)
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png", metadata={"Software": SOFTWARE})
