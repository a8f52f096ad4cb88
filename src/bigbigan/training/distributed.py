"""Train on many devices under torchrun: each rank's rows of a batch, and what ranks exchange.

Each rank has all weights and computes the gradient of its own rows; gradients are averaged, and all ranks take the same
step. Batch norm is over the rows of all ranks (`bigbigan.training.sync_batch_norm`). So R ranks compute what one does
with the same `training.batch_size`, and a checkpoint does not depend on R. Only rank 0 reads and writes the run folder.
Without torchrun there is one rank, and the functions here do nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bigbigan.training.devices import default_device

__all__ = [
    "Heartbeat",
    "average",
    "broadcast",
    "busy",
    "count_exchange",
    "is_first_rank",
    "maximum",
    "process_group",
    "rows_of_rank",
    "same_on_all_ranks",
    "world_size",
]

# Ranks wait for rank 0 while it evaluates. torchrun itself detects dead processes long before.
TIMEOUT = timedelta(hours=12)
REPORT_AFTER = 60.0  # seconds of waiting after which a line names the rank that the others wait for
EVERY = 5.0  # seconds between two checks of the other ranks
STOP_WITHIN = 10.0  # seconds that a process waits at its end for a check in progress


def is_first_rank() -> bool:
    """Return whether this is rank 0, which reads and writes the run folder."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


def world_size() -> int:
    """Return the number of ranks, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(name: str = "", patience: float = 0) -> Iterator[None]:
    """Join the processes that torchrun started for as long as the context lasts; they leave it together.

    Args:
        name: a different one each time the context is entered.
        patience: seconds after which a process that waits for another one ends (see `Heartbeat`); 0 is never.
    """
    global _heartbeat
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    backend = "gloo"
    if default_device().type == "cuda":  # an NVIDIA or AMD GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(dist.rendezvous("env://"))
    heartbeat = Heartbeat(dist.PrefixStore(f"heartbeat {name}", store.clone()), rank, size, patience)
    # torchrun keeps its store over restarts: without a name of its own, a restarted group finds outdated addresses.
    store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} {name}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    _heartbeat = heartbeat
    heartbeat.start()
    try:
        yield
        maximum(0)  # no rank leaves before rank 0 has saved: torchrun would end it
    finally:
        _heartbeat = None
        heartbeat.stop()
    dist.destroy_process_group()


class Heartbeat:
    """Report which rank keeps the others waiting, and end the process if that takes too long.

    Every rank counts the exchanges it has reached. A thread of each rank publishes the count, and that the rank is
    alive, through `store`. A rank hangs if its count stays below the count of the ranks that wait for it, or if its
    thread has stopped too. The first of the waiting ranks prints the message and ends; torchrun then ends the others.

    Args:
        store: a store of torch.distributed that all ranks share; not used by another thread.
        rank, size: the number of this process, and of all processes.
        patience: seconds until the process ends; 0 is never.
    """

    def __init__(self, store: Any, rank: int, size: int, patience: float) -> None:
        self.store, self.rank, self.size, self.patience = store, rank, size, patience
        self.count, self.doing = 0, ""  # exchanges reached; what this rank may take long for
        self._beats, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._waiting_at, self._since, self._report_at = -1, 0.0, REPORT_AFTER
        self._alive: dict[int, tuple[str, float]] = {}  # the last beat of each rank, and its time
        self._publish()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it: in the store's C++ code when Python ends, it would abort the process."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_WITHIN)

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                line, too_long = self.check(time.monotonic())
            except Exception:  # the store has gone with torchrun, which ends the processes itself
                return
            if line:
                print(f"bigbigan: {line}", file=sys.stderr, flush=True)
            if too_long:
                os._exit(1)  # the main thread waits in an exchange that nothing can interrupt

    def _publish(self) -> None:
        self._beats += 1
        self.store.set(str(self.rank), f"{self.count} {self._beats} {self.doing}")

    def check(self, now: float) -> tuple[str, bool]:
        """Return the message to print at time `now`, in seconds, or ""; and whether this process must end."""
        self._publish()
        counts, doing = {}, {}
        for rank in set(range(self.size)) - {self.rank}:
            count, beat, what = self.store.get(str(rank)).decode().split(" ", 2)
            counts[rank], doing[rank] = int(count), what
            if self._alive.get(rank, ("", 0.0))[0] != beat:
                self._alive[rank] = beat, now
        if self.count != self._waiting_at:
            self._waiting_at, self._since, self._report_at = self.count, now, REPORT_AFTER
        waited = now - self._since
        silent = {rank for rank in counts if now - self._alive[rank][1] >= REPORT_AFTER}
        behind = {rank for rank, count in counts.items() if count < self.count} or silent
        first = min(set(range(self.size)) - behind)
        if not behind or first != self.rank or waited < REPORT_AFTER:
            return "", False
        excused = any(doing[rank] for rank in behind - silent)
        too_long = 0 < self.patience <= waited and not excused
        if not too_long and waited < self._report_at:
            return "", False
        self._report_at = 2 * waited
        names = ", ".join(f"{rank} ({doing[rank]})" if doing[rank] else str(rank) for rank in sorted(behind))
        line = f"rank {names} of {self.size} has kept the others waiting for {waited:.0f} s"
        if too_long:
            line += "; this run ends (log.hang_minutes), its last checkpoint is good"
        return line, too_long


_heartbeat: Heartbeat | None = None


def count_exchange() -> None:
    """Count an exchange that this rank has reached."""
    if _heartbeat is not None:
        _heartbeat.count += 1


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Let this rank keep the others waiting; the line that reports the wait gives the reason."""
    if _heartbeat is None:
        yield
        return
    _heartbeat.doing = what
    try:
        yield
    finally:
        _heartbeat.doing = ""


def rows_of_rank(count: int, chunks: int = 1, rank: int | None = None, of: int | None = None) -> list[slice]:
    """Return this rank's rows of a batch of `count`, or the rows of `rank` among `of` ranks: a slice for each chunk."""
    of = of or world_size()
    rank = rank if rank is not None else dist.get_rank() if dist.is_initialized() else 0
    cuts = [count * i // (chunks * of) for i in range(chunks * of + 1)]
    return [slice(cuts[c * of + rank], cuts[c * of + rank + 1]) for c in range(chunks)]


def average(tensors: list[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over all ranks, the same bits on all, in one exchange."""
    if world_size() == 1:
        return tensors
    flat = torch.cat([t.detach().reshape(-1) for t in tensors])
    count_exchange()
    dist.all_reduce(flat)
    parts = flat.div_(world_size()).split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def maximum(number: int) -> int:
    """Return the largest of the ranks' numbers. The exchange is between hosts, without a device sync."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number)
    count_exchange()
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def same_on_all_ranks(text: str) -> bool:
    """Return whether all ranks have the same text."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
    return maximum(number) == -maximum(-number)


def broadcast(tensor: Tensor) -> Tensor:
    """Overwrite a contiguous tensor with rank 0's, and return it."""
    count_exchange()
    dist.broadcast(tensor, 0)
    return tensor
