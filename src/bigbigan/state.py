"""All that a training run is: weights, averages, optimisers, step. What is not here does not survive a crash.

Random numbers and the data order need no entry: they are functions of the seed and the step
(`bigbigan.randomness`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bigbigan.averaging import standing_statistics, update_average
from bigbigan.config import Config
from bigbigan.data.batches import Batches
from bigbigan.models import build
from bigbigan.randomness import keyed_generator
from bigbigan.system import BigBiGAN

__all__ = ["TrainingState"]


class TrainingState:
    """Networks, their averages, optimisers and the step counter of one run."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.step = 0
        self.networks = build(config, device)
        G, E, D = self.networks
        self.G_ema = copy.deepcopy(G).requires_grad_(False)
        self.E_ema = None if E is None else copy.deepcopy(E).requires_grad_(False)
        self.system = BigBiGAN(config, self.networks)
        o = config.optimizer
        self.optimizer_d = torch.optim.Adam(D.parameters(), betas=o.betas, eps=o.eps, foreach=True)
        self.optimizer_eg = torch.optim.Adam(
            [{"params": list(G.parameters())}, *([{"params": list(E.parameters())}] if E is not None else [])],
            betas=o.betas,
            eps=o.eps,
            foreach=True,
        )
        self.set_learning_rates()

    @property
    def images_seen(self) -> int:
        """Images drawn from the data so far, counted once for each step of D and of G and E."""
        t = self.config.training
        return self.step * t.batch_size * (t.d_steps + 1)

    def set_learning_rates(self) -> None:
        """Those of the step about to be taken: constant for half the steps, then falling by an equal factor each
        step towards `lr_final` of where they began."""
        o, progress = self.config.optimizer, self.step / self.config.training.steps
        factor = o.lr_final ** max(0.0, 2 * progress - 1)
        generator, *encoder = self.optimizer_eg.param_groups
        generator["lr"] = factor * o.lr_g
        for group in encoder:
            group["lr"] = factor * o.lr_g * self.config.encoder.lr_multiplier
        self.optimizer_d.param_groups[0]["lr"] = factor * o.lr_d

    def update_averages(self) -> None:
        G, E, _ = self.networks
        update_average(self.G_ema, G, self.config.training.ema_decay, self.step)
        if E is not None and self.E_ema is not None:
            update_average(self.E_ema, E, self.config.training.ema_decay, self.step)

    def fill_standing_statistics(self, batches: Batches) -> None:
        """Make G_ema and E_ema ready for use: a function of the weights and the step, nothing else."""
        noise = keyed_generator(self.config.training.seed, "standing", self.step, str(self.device))
        G, E, _ = self.networks
        count, size = self.config.log.standing_batches, max(self.config.training.batch_size, 128)

        def images() -> Tensor:
            picks = torch.randint(len(batches.pixels), (size,), generator=noise, device=self.device)
            return batches.images(picks)

        standing_statistics(
            self.G_ema, G, (lambda: self.G_ema(self.system.sample_prior(size, noise)) for _ in range(count))
        )
        if E is not None and (E_ema := self.E_ema) is not None:
            standing_statistics(E_ema, E, (lambda: E_ema.all_outputs(images()) for _ in range(count)))

    # -- to and from named tensors ---------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        G, E, D = self.networks
        modules = {"G": G, "E": E, "D": D, "G_ema": self.G_ema, "E_ema": self.E_ema}
        return {name: module for name, module in modules.items() if module is not None}

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer of the five networks by name, the live tensors themselves."""
        return {f"{m}.{n}": t for m, module in self.modules().items() for n, t in module.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        """Adam's state by parameter name, for example "D.head_x.weight.exp_avg"."""
        return {f"{name}.{key}": value for name, slot in self._slots() for key, value in slot.items()}

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        for name, optimizer, parameter in self._parameters():
            slot = {key: moments[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                "step": slot["step"].clone(),
                "exp_avg": torch.empty_like(parameter, requires_grad=False).copy_(slot["exp_avg"]),
                "exp_avg_sq": torch.empty_like(parameter, requires_grad=False).copy_(slot["exp_avg_sq"]),
            }

    def _parameters(self) -> Iterator[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        for letter, network in self.networks._asdict().items():
            if network is None:
                continue
            optimizer = self.optimizer_d if letter == "D" else self.optimizer_eg
            for name, parameter in network.named_parameters():
                yield f"{letter}.{name}", optimizer, parameter

    def _slots(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for name, optimizer, parameter in self._parameters():
            yield name, optimizer.state.get(parameter, {})
