"""Hold the state of a training run: weights, averages, optimizers, step. Only this state survives a crash.

Random numbers and the data order need no entry: they are functions of the seed and the step
(`bigbigan.randomness`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bigbigan.config import Config
from bigbigan.data.batches import Batches
from bigbigan.methods import generate, make_system, sample_labels
from bigbigan.models import build
from bigbigan.models.batch_norm import batch_norms, standing_statistics
from bigbigan.randomness import keyed_generator
from bigbigan.training import distributed
from bigbigan.training.ema import update_average
from bigbigan.training.precision import prepare
from bigbigan.training.sync_batch_norm import synchronise_batch_norms

__all__ = ["TrainingState", "rate_factor"]


def rate_factor(step: int, steps: int, final: float, epoch: int | None = None) -> float:
    """Return the factor on the initial learning rates in step `step` (0 to `steps` - 1).

    Rates are constant for half the steps, then fall by an equal factor each step; they would reach `final` after the
    last one. With `epoch`, the number of steps of an epoch, they are constant for half the epochs (rounded down, but at
    least one), then fall by an equal factor before each epoch, and the last epoch has `final` (`set_lr` in
    jeffdonahue/bigan's train_gan.py).
    """
    if epoch is None:
        return final ** max(0.0, 2 * step / steps - 1)
    epochs = -(-steps // epoch)
    constant = max(1, epochs // 2)
    falls = step // epoch - constant + 1
    return final ** (falls / max(1, epochs - constant)) if falls > 0 else 1.0


class TrainingState:
    """Hold the networks, their averages, the optimizers and the step counter of one run."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.step = 0
        self.networks = build(config, device)
        G, E, _ = self.networks
        self.G_ema = None if G is None else copy.deepcopy(G).requires_grad_(False)
        self.E_ema = None if E is None else copy.deepcopy(E).requires_grad_(False)
        t = config.training
        for network in filter(None, self.networks):
            prepare(network, t.precision, t.compile, device)
        for network in self.modules().values():
            synchronise_batch_norms(network)
        self.system = make_system(config, self.networks)
        self.unchecked_updates: list[tuple[int, dict[str, Tensor], Tensor]] = []  # see `step.check_finite`
        self.optimizers = {player: self._optimizer(player) for player in self.system.players}
        self.set_learning_rates()

    def _optimizer(self, player: str) -> torch.optim.Adam:
        o = self.config.optimizer
        groups = []
        for letter, network in self.system.networks_of(player).items():
            gains = {id(m.weight) for m in batch_norms(network) if m.affine} if o.weight_decay else set()
            for decay, spared in ((o.weight_decay, False), (0.0, True)):
                if parameters := [p for p in network.parameters() if (id(p) in gains) == spared]:
                    groups.append({"params": parameters, "weight_decay": decay, "network": letter})
        return torch.optim.Adam(groups, betas=o.betas, eps=o.eps, fused=True)

    @property
    def images_seen(self) -> int:
        """The number of images drawn from the data so far, counted once for each update."""
        return self.step * self.config.training.batch_size * len(self.system.updates)

    def set_learning_rates(self, epoch: int = 1) -> None:
        """Set the learning rates of the next step; an epoch has `epoch` steps. See `rate_factor`."""
        o, steps = self.config.optimizer, self.config.training.steps
        factor = rate_factor(self.step, steps, o.lr_final, epoch if o.lr_by_epoch else None)
        rates = {"G": o.lr_g, "E": o.lr_g * self.config.encoder.lr_multiplier, "D": o.lr_d}
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = factor * rates[group["network"]]

    def update_averages(self) -> None:
        """Update the moving averages of G's and E's weights."""
        for average, network in self._averaged():
            update_average(average, network, self.config.training.ema_decay, self.step)

    def _averaged(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Yield each averaged network with the network it averages."""
        G, E, _ = self.networks
        for average, network in ((self.G_ema, G), (self.E_ema, E)):
            if average is not None and network is not None:
                yield average, network

    def fill_standing_statistics(self, batches: Batches) -> None:
        """Fill the batch norm statistics of G_ema and E_ema, as a function of only the weights and the step."""
        generator = keyed_generator(self.config.training.seed, "standing", self.step, str(self.device))
        G, E, _ = self.networks
        t, count = self.config.training, self.config.log.standing_batches
        size = max(t.batch_size // t.accumulate, 128)
        (rows,) = distributed.rows_of_rank(size)

        def images() -> Tensor:
            return batches.images(batches.sample_indices(size, generator, self.step * len(self.system.updates))[rows])

        def fill_encoder() -> None:
            if E is not None and (E_ema := self.E_ema) is not None:
                standing_statistics(E_ema, E, (lambda: E_ema.all_outputs(images()) for _ in range(count)))

        def fill_generator() -> None:
            if G is not None and (G_ema := self.G_ema) is not None:

                def samples() -> Tensor:
                    if self.system.generator_is_decoder and self.E_ema is not None:
                        return G_ema(self.E_ema(images()).mean)
                    z = self.system.sample_prior(size, generator)
                    y = sample_labels(size, self.config.data, generator)
                    return generate(G_ema, z[rows], None if y is None else y[rows])

                standing_statistics(G_ema, G, (samples for _ in range(count)))

        fills = (fill_encoder, fill_generator) if self.system.generator_is_decoder else (fill_generator, fill_encoder)
        for fill in fills:
            fill()

    # -- to and from named tensors ---------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks and the averages by name; those that exist."""
        G, E, D = self.networks
        modules = {"G": G, "E": E, "D": D, "G_ema": self.G_ema, "E_ema": self.E_ema}
        return {name: module for name, module in modules.items() if module is not None}

    def weights(self) -> dict[str, Tensor]:
        """Return every parameter and buffer of the five networks by name, the live tensors themselves."""
        return {f"{m}.{n}": t for m, module in self.modules().items() for n, t in module.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        """Return Adam's state by parameter name, for example "D.head_x.weight.exp_avg"; empty before the first step.

        It is zero for parameters that are never updated.
        """
        slots = [(name, parameter, optimizer.state.get(parameter)) for name, optimizer, parameter in self._parameters()]
        if not any(slot for _, _, slot in slots):
            return {}
        return {
            f"{name}.{key}": value
            for name, parameter, slot in slots
            for key, value in (slot or _no_moments(parameter)).items()
        }

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Set Adam's state from tensors named as in `moments`."""
        for name, optimizer, parameter in self._parameters():
            slot = {key: moments[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                "step": slot["step"].to(parameter.device, copy=True),  # as the fused optimizer expects
                "exp_avg": torch.empty_like(parameter, requires_grad=False).copy_(slot["exp_avg"]),
                "exp_avg_sq": torch.empty_like(parameter, requires_grad=False).copy_(slot["exp_avg_sq"]),
            }

    def empty_moments(self, device: str | torch.device | None = None) -> dict[str, Tensor]:
        """Return `moments` as after a step, filled with zeros, on `device` or the parameters' devices."""
        return {
            f"{name}.{key}": value
            for name, _, parameter in self._parameters()
            for key, value in _no_moments(parameter, device).items()
        }

    def broadcast(self) -> None:
        """Copy the state of rank 0, as it was initialised or loaded there, to all ranks."""
        if distributed.world_size() == 1:
            return
        self.step = distributed.maximum(self.step)
        if self.step and not distributed.is_first_rank():
            self.load_moments(self.empty_moments())
        with torch.no_grad():
            for tensor in [*self.weights().values(), *self.moments().values()]:
                tensor.copy_(distributed.broadcast(tensor.to(self.device, copy=True).contiguous()))

    def _parameters(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        for player, letter, network in self.system.trained_networks():
            for name, parameter in network.named_parameters():
                yield f"{letter}.{name}", self.optimizers[player], parameter


def _no_moments(parameter: nn.Parameter, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """Return Adam's state of a parameter that was never updated."""
    target = device or parameter.device
    averages = {
        key: torch.zeros_like(parameter, device=target, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")
    }
    return {"step": torch.zeros((), device=target, dtype=torch.float32), **averages}
