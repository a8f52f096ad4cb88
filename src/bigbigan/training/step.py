"""Run one training step: the updates of a system, each on a fresh batch, then the moving averages."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bigbigan.data.batches import Batches
from bigbigan.errors import RunError
from bigbigan.methods import Noise, Outcome, Update
from bigbigan.models import Posterior
from bigbigan.models.layers import reused_vectors
from bigbigan.randomness import keyed_generator
from bigbigan.training import distributed
from bigbigan.training.diagnostics import encoder_health
from bigbigan.training.state import TrainingState

__all__ = ["check_finite", "is_due", "is_due_or_first", "training_step"]

FIRST_LOG = 10  # the step of the first log line and the first pictures, unless they are due earlier


def training_step(state: TrainingState, batches: Batches) -> dict[str, Tensor]:
    """Run every update of the system once, each on a fresh batch, then update the moving averages.

    Returns the metrics to log, by name. Each player that got a loss takes one step per update.

    Raises:
        RunError: a loss or gradient is not finite; the update was skipped.
    """
    config, updates = state.config, state.system.updates
    generator = keyed_generator(config.training.seed, "noise", state.step, str(state.device))
    if config.training.compile:
        torch.compiler.cudagraph_mark_step_begin()  # outputs of the last step may be overwritten from here on
    state.set_learning_rates(epoch=batches.steps_per_epoch(len(updates)))
    state.system.progress = state.step / config.training.steps
    metrics: dict[str, Tensor] = {}
    last_images: EncodedImages | None = None
    for i, update in enumerate(updates):
        noise = state.system.sample_noise(config.training.batch_size, generator)
        number = state.step * len(updates) + i
        players, sums, images = accumulate_gradients(state, update, batches, number, noise)
        sums = average_over_ranks(state, players, sums)
        metrics |= sums | apply_gradients(state, players, sums)
        last_images = images if last_images is None or images.posterior is not None else last_images
    state.step += 1
    state.update_averages()
    logs = is_due_or_first(config.log.every, state.step, config.training.steps)
    if logs or state.device.type == "cpu":  # on a GPU reading a value forces a device sync
        check_finite(state)
    if logs and last_images is not None and config.has_encoder and config.has_generator:
        health = encoder_health(state, *last_images)
        metrics |= dict(zip(health, distributed.average(list(health.values())), strict=True))
    return metrics


def is_due(every: int, step: int, steps: int) -> bool:
    """Return whether something done every `every` steps (0: never), and after the last one, is due after `step`."""
    return every > 0 and (step == steps or step % every == 0)


def is_due_or_first(every: int, step: int, steps: int) -> bool:
    """Return whether something is due, or done for the first time, early in the run so that results come soon."""
    return is_due(every, step, steps) or step == FIRST_LOG < every


class EncodedImages(NamedTuple):
    """Hold the images of an update's last chunk, with q(z|x) if E encoded them."""

    x: Tensor
    posterior: Posterior | None


def accumulate_gradients(
    state: TrainingState, update: Update, batches: Batches, number: int, noise: Noise
) -> tuple[list[str], dict[str, Tensor], EncodedImages]:
    """Add up the gradients of one update over the chunks of batch `number`.

    Returns the players that got a loss, the metrics summed over chunks, and the images of the last chunk.
    """
    t, system = state.config.training, state.system
    players: dict[str, None] = {}  # a set that keeps its order
    sums: dict[str, Tensor] = {}
    for chunk, rows in enumerate(distributed.rows_of_rank(t.batch_size, t.accumulate)):
        x, y = batches.batch(number, rows), batches.labels(number, rows)
        chunk_noise = {name: values[rows] for name, values in noise.items()}
        posterior: Posterior | None = None
        with reused_vectors(filter(None, state.networks), chunk > 0):
            for outcome in update(x, chunk_noise) if y is None else update(x, chunk_noise, y):
                losses = {player: loss / t.accumulate for player, loss in outcome.losses.items()}
                system.backward(losses)
                players |= dict.fromkeys(losses)
                for name, value in _chunk_metrics(losses, outcome, t.accumulate).items():
                    sums[name] = sums[name] + value if name in sums else value
                posterior = outcome.posterior or posterior
    return list(players), sums, EncodedImages(x, posterior)


def _chunk_metrics(losses: dict[str, Tensor], outcome: Outcome, chunks: int) -> dict[str, Tensor]:
    """Return one chunk's share of the losses, the other metrics, and the mean scores of both kinds of pairs.

    Mean scores are named s_xz_enc, s_xz_gen and so on.
    """
    metrics = {f"loss_{player}": loss.detach() for player, loss in losses.items()}
    metrics |= {name: value / chunks for name, value in outcome.metrics.items()}
    for kind, pairs in (("enc", outcome.enc), ("gen", outcome.gen)):
        metrics |= {f"{name}_{kind}": s.detach().mean() / chunks for name, s in pairs.items()}
    return metrics


def average_over_ranks(state: TrainingState, players: list[str], metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average the gradients of `players` in place, and return the averaged metrics; all in one exchange."""
    if distributed.world_size() == 1:
        return metrics
    gradients = [g for of_network in _gradients(state, players).values() for g in of_network]
    *averaged, averaged_metrics = distributed.average([*gradients, torch.stack(list(metrics.values()))])
    torch._foreach_copy_(gradients, averaged)
    return dict(zip(metrics, averaged_metrics, strict=True))


def apply_gradients(state: TrainingState, players: list[str], metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Step the optimizers of `players` and return the gradient norms by network, such as grad_norm_d.

    If a loss or gradient norm is not finite nothing is changed, and `check_finite` reports it.
    """
    gradients = _gradients(state, players)
    norms = {f"grad_norm_{letter.lower()}": torch.nn.utils.get_total_norm(g) for letter, g in gradients.items() if g}
    checked = {name: value for name, value in metrics.items() if name.startswith("loss_")} | norms
    finite = torch.isfinite(torch.stack(list(checked.values()))).all()
    for optimizer in (state.optimizers[player] for player in players):
        # The fused step leaves weights and moments alone if this is 1, without a device sync.
        optimizer.found_inf = 1 - finite.float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
    state.unchecked_updates.append((state.step + 1, checked, finite))
    return norms


def _gradients(state: TrainingState, players: list[str]) -> dict[str, list[Tensor]]:
    """Return the gradients of the players' networks by letter."""
    networks = {letter: n for player in players for letter, n in state.system.networks_of(player).items()}
    return {
        letter: [p.grad for p in network.parameters() if p.grad is not None] for letter, network in networks.items()
    }


def check_finite(state: TrainingState) -> None:
    """Stop the run if an update was skipped since the last call, before anything is saved.

    Raises:
        RunError: names the step and the values that were not finite.
    """
    unchecked, state.unchecked_updates = state.unchecked_updates, []
    all_finite = torch.stack([finite for *_, finite in unchecked]).tolist() if unchecked else []
    for (step, values, _), finite in zip(unchecked, all_finite, strict=True):
        if not finite:
            listed = ", ".join(f"{name} {value.item():.4g}" for name, value in values.items())
            raise RunError(
                f"step {step}: not finite: {listed}; the update was skipped before any weight was changed. The last "
                "checkpoint is good; train into another --out with a lower optimizer.lr_g, optimizer.lr_d or "
                "encoder.lr_multiplier"
            )
