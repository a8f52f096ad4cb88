"""Many devices, under torchrun: which rows of a batch are whose, and what all ranks share.

Each rank holds all weights and computes the gradient of its own rows; gradients are averaged, and all take the same
step. Batch norm is over the rows of all ranks. So R ranks do what one does with the same `training.batch_size`, and a
checkpoint knows nothing of R. Rank 0 alone reads and writes the run folder. Without torchrun there is one rank, and
nothing here does anything.
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
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from bigbigan.models.batch_norm import batch_norms

if TYPE_CHECKING:
    from bigbigan.training.state import TrainingState

__all__ = [
    "Heartbeat",
    "average",
    "busy",
    "is_first",
    "joined",
    "largest",
    "parts",
    "ranks",
    "same",
    "share",
    "synchronise",
]

# Ranks wait for rank 0 while it evaluates. That a process has died torchrun sees by itself, long before.
PATIENCE = timedelta(hours=12)
SAY_AFTER = 60.0  # seconds of waiting after which a line names the rank that is waited for
EVERY = 5.0  # seconds between two looks at the other ranks


def is_first() -> bool:
    """Whether this is rank 0, which reads and writes the run folder."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


def ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined(name: str = "", patience: float = 0) -> Iterator[None]:
    """Within it, the processes that torchrun started know each other; they leave it together. Who joins more than once
    gives each time a name of its own. A process ends when it waits for another one for more than `patience` seconds
    (see `Heartbeat`; 0 is never)."""
    global _heartbeat
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(dist.rendezvous("env://"))
    heartbeat = Heartbeat(dist.PrefixStore(f"heartbeat {name}", store.clone()), rank, size, patience)
    # torchrun keeps its store over restarts: without a name of its own a restarted group finds addresses of the dead.
    store = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']} {name}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    _heartbeat = heartbeat
    heartbeat.start()
    try:
        yield
        largest(0)  # nobody leaves before rank 0 has saved: torchrun would end it
    finally:
        _heartbeat = None
        heartbeat.stop()
    dist.destroy_process_group()


class Heartbeat:
    """Says which rank keeps the others waiting, and ends the process when that takes too long.

    Every rank counts the exchanges it has come to. A thread of each tells the others its count, and that it lives,
    through `store`. A rank that hangs is one whose count stays below that of those who wait for it, or whose thread
    has stopped too. Of the waiting ranks the first one speaks, and ends; torchrun then ends the others.

    Args:
        store: a store of torch.distributed that all ranks have; not used by another thread.
        rank, size: of this process, and of all.
        patience: seconds until the end; 0 is never.
    """

    def __init__(self, store: Any, rank: int, size: int, patience: float) -> None:
        self.store, self.rank, self.size, self.patience = store, rank, size, patience
        self.count, self.doing = 0, ""  # exchanges come to; what this rank may take long for
        self._beats, self._ended = 0, threading.Event()
        self._waiting_at, self._since, self._say_at = -1, 0.0, SAY_AFTER
        self._alive: dict[int, tuple[str, float]] = {}  # of each rank its last beat, and when it came
        self._tell()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="heartbeat").start()

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                line, too_long = self.look(time.monotonic())
            except Exception:  # the store is gone, and with it torchrun: it ends the processes itself
                return
            if line:
                print(f"bigbigan: {line}", file=sys.stderr, flush=True)
            if too_long:
                os._exit(1)  # the main thread waits in an exchange that nothing can interrupt

    def _tell(self) -> None:
        self._beats += 1
        self.store.set(str(self.rank), f"{self.count} {self._beats} {self.doing}")

    def look(self, now: float) -> tuple[str, bool]:
        """(what is to be said at this time, in seconds, or nothing; whether this process is to end)."""
        self._tell()
        counts, doing = {}, {}
        for rank in set(range(self.size)) - {self.rank}:
            count, beat, what = self.store.get(str(rank)).decode().split(" ", 2)
            counts[rank], doing[rank] = int(count), what
            if self._alive.get(rank, ("", 0.0))[0] != beat:
                self._alive[rank] = beat, now
        if self.count != self._waiting_at:
            self._waiting_at, self._since, self._say_at = self.count, now, SAY_AFTER
        waited = now - self._since
        silent = {rank for rank in counts if now - self._alive[rank][1] >= SAY_AFTER}
        behind = {rank for rank, count in counts.items() if count < self.count} or silent
        first = min(set(range(self.size)) - behind)
        if not behind or first != self.rank or waited < SAY_AFTER:
            return "", False
        excused = any(doing[rank] for rank in behind - silent)
        too_long = 0 < self.patience <= waited and not excused
        if not too_long and waited < self._say_at:
            return "", False
        self._say_at = 2 * waited
        names = ", ".join(f"{rank} ({doing[rank]})" if doing[rank] else str(rank) for rank in sorted(behind))
        line = f"rank {names} of {self.size} has kept the others waiting for {waited:.0f} s"
        if too_long:
            line += "; this run ends (log.hang_minutes), its last checkpoint is good"
        return line, too_long


_heartbeat: Heartbeat | None = None


def _arrive() -> None:
    """Count an exchange that this rank has come to."""
    if _heartbeat is not None:
        _heartbeat.count += 1


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Within it, this rank may keep the others waiting for long, and a line that says so has the reason."""
    if _heartbeat is None:
        yield
        return
    _heartbeat.doing = what
    try:
        yield
    finally:
        _heartbeat.doing = ""


def parts(count: int, chunks: int = 1, rank: int | None = None, of: int | None = None) -> list[slice]:
    """The rows of a batch of `count` that are this rank's, or those of `rank` of so many: one slice of each chunk."""
    of = of or ranks()
    rank = rank if rank is not None else dist.get_rank() if dist.is_initialized() else 0
    cuts = [count * i // (chunks * of) for i in range(chunks * of + 1)]
    return [slice(cuts[c * of + rank], cuts[c * of + rank + 1]) for c in range(chunks)]


def average(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of each tensor over all ranks, which all get bit by bit the same; all in one exchange."""
    if ranks() == 1:
        return tensors
    flat = torch.cat([t.detach().reshape(-1) for t in tensors])
    _arrive()
    dist.all_reduce(flat)
    parts = flat.div_(ranks()).split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def largest(number: int) -> int:
    """The largest of the ranks' numbers. Goes between the hosts: the devices are not waited for."""
    if ranks() == 1:
        return number
    tensor = torch.tensor(number)
    _arrive()
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def same(text: str) -> bool:
    """Whether all ranks have the same text."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
    return largest(number) == -largest(-number)


def share(state: TrainingState) -> None:
    """Give all ranks the state of rank 0, as it was drawn or loaded there."""
    if ranks() == 1:
        return
    state.step = largest(state.step)
    if state.step and not is_first():
        state.load_moments(state.empty_moments())
    with torch.no_grad():
        for tensor in [*state.weights().values(), *state.moments().values()]:
            there = tensor.to(state.device, copy=True).contiguous()
            _arrive()
            dist.broadcast(there, 0)
            tensor.copy_(there)


# -- batch norm over all ranks --------------------------------------------------------------------------------


def synchronise(network: nn.Module) -> None:
    """Make batch norms in training mode take the mean and variance of the batches of all ranks together."""
    if ranks() > 1:
        for norm in batch_norms(network):
            norm.forward = partial(_batch_norm, norm)  # type: ignore[method-assign]


@torch.compiler.disable
def _batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    y, mean, variance, count = _Normalise.apply(x, norm.eps)
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            factor = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, factor)  # type: ignore[union-attr]
            norm.running_var.lerp_(variance * (count / (count - 1)), factor)  # type: ignore[union-attr]
    if not norm.affine:
        return y
    gain, bias = (p.view(-1, *[1] * (x.ndim - 2)) for p in (norm.weight, norm.bias))
    return torch.addcmul(bias, y, gain).to(x.dtype)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) by channel, moments of all ranks in float32 or better. torch's own
    SyncBatchNorm refuses CPUs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = torch.promote_types(x.dtype, torch.float32)
        ctx.dims = [0, *range(2, x.ndim)]
        ctx.shape = [1, -1, *[1] * (x.ndim - 2)]
        # On CPUs much faster than torch.var_mean over a batch of maps
        mean, variance = torch.batch_norm_update_stats(x.to(exact), None, None, 0.0)
        mine = torch.stack([mean, variance, torch.full_like(mean, x.numel() // x.shape[1])])
        everyones = [torch.empty_like(mine) for _ in range(ranks())]
        _arrive()
        dist.all_gather(everyones, mine)
        means, variances, counts = torch.stack(everyones, dim=1)  # [ranks, C] each
        count = counts.sum(0)
        weights = counts / count
        mean = (weights * means).sum(0)
        variance = (weights * (variances + (means - mean).square())).sum(0)
        scale = (variance + eps).rsqrt()
        y = torch.addcmul((-mean * scale).view(ctx.shape), x, scale.view(ctx.shape)).to(x.dtype)
        ctx.save_for_backward(y, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        y, scale, count = ctx.saved_tensors
        g, y = grad.to(scale.dtype), y.to(scale.dtype)
        sums = torch.stack([g.sum(ctx.dims), (g * y).sum(ctx.dims)])
        _arrive()
        dist.all_reduce(sums)
        of_mean, of_scale = (s.view(ctx.shape) for s in sums / count)
        return ((g - of_mean - y * of_scale) * scale.view(ctx.shape)).to(grad.dtype), None
