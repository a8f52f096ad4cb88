"""Batches, averages, standing statistics, logs and pictures."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import bigbigan
from bigbigan.apps.train import train
from bigbigan.config import Config, config_from_dict, override
from bigbigan.data.batches import Batches
from bigbigan.errors import RunError, UserError
from bigbigan.experiments import EXPERIMENTS
from bigbigan.image import pool_to, to_float, to_uint8
from bigbigan.image.grid import grid, pairs_grid
from bigbigan.methods.bigbigan import frozen
from bigbigan.models.batch_norm import batch_statistics, standing_statistics
from bigbigan.randomness import keyed_generator
from bigbigan.training import validation
from bigbigan.training.diagnostics import reconstruction_errors
from bigbigan.training.ema import update_average
from bigbigan.training.monitor import Monitor, read_metrics
from bigbigan.training.run_folder import changed_settings
from bigbigan.training.state import TrainingState, rate_factor
from bigbigan.training.step import training_step
from tiny import tiny_config, write_npz


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()


# -- data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(10, 3), (10, 10), (7, 16), (50, 8)])
def test_every_image_comes_once_an_epoch_in_an_order_of_its_own(count, size):
    batches = Batches(numbered(count), size, seed=0, augment="none")
    stream = torch.cat([batches.indices(i) for i in range(math.ceil(3 * count / size))])
    epochs = [stream[i * count : (i + 1) * count] for i in range(3)]
    assert all(sorted(e.tolist()) == list(range(count)) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_batches_do_not_depend_on_what_was_asked_before():
    a, b = (Batches(numbered(20), 6, seed=3, augment="flip") for _ in range(2))
    for i in range(9):
        a.batch(i)
    assert torch.equal(a.batch(7), b.batch(7))
    assert not torch.equal(Batches(numbered(20), 6, seed=4, augment="flip").indices(0), b.indices(0))


def test_flip_mirrors_about_half_of_the_images_left_to_right():
    pixels = torch.zeros(200, 1, 2, 4, dtype=torch.uint8)
    pixels[:, :, 0, 0] = 255
    x = Batches(pixels, 200, seed=0, augment="flip").batch(0)
    left, right = x[:, 0, 0, 0] == 1, x[:, 0, 0, 3] == 1
    assert torch.equal(left, ~right)
    assert 70 < int(right.sum()) < 130


def test_value_range_and_pooling():
    x = to_float(torch.tensor([0, 127, 255], dtype=torch.uint8))
    torch.testing.assert_close(x, torch.tensor([-1.0, -1 / 255, 1.0]))
    assert torch.equal(to_uint8(torch.tensor([-1.0, 0.0, 1.0])), torch.tensor([0, 128, 255], dtype=torch.uint8))
    y = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(pool_to(y, 4)[0, 0, 0, 0], y[0, 0, :2, :2].mean())
    assert pool_to(y, 8) is y


def test_keyed_generators_differ_by_every_key():
    draws = {
        torch.rand(1, generator=keyed_generator(*key)).item()
        for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    }
    assert len(draws) == 4
    assert torch.rand(1, generator=keyed_generator(0, "a", 0)).item() in draws


# -- averages -----------------------------------------------------------------------------------------------


def test_average_follows_its_recurrence_with_a_growing_decay():
    network, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(average.weight)
    expected = 0.0
    for step in range(1, 40):
        nn.init.constant_(network.weight, step)
        update_average(average, network, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_standing_statistics_are_those_of_all_passes_together():
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(99)
    batches = [torch.randn(50, 3, generator=torch.Generator().manual_seed(i)) * 2 + 5 for i in range(40)]
    standing_statistics(norm, norm, (lambda b=b: norm(b) for b in batches))
    assert not norm.training
    assert norm.momentum == 0.1
    everything = torch.cat(batches)
    torch.testing.assert_close(norm.running_mean, everything.mean(0))
    torch.testing.assert_close(norm.running_var, everything.var(0), rtol=0.02, atol=0)


def test_batch_statistics_leave_no_trace():
    norm = nn.BatchNorm1d(3)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.randn(20, 3) * 4
    with batch_statistics(norm):
        y = norm(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    norm(x)
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_batch_statistics_restore_what_was():
    norms = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    with batch_statistics(norms):
        with batch_statistics(norms[0]):
            pass
        assert not norms[0].track_running_stats
    assert [m.track_running_stats for m in norms] == [True, False]


# -- the step -----------------------------------------------------------------------------------------------


def test_a_step_updates_each_network_by_its_own_optimizer():
    state = TrainingState(tiny_config("training.d_steps=3"), torch.device("cpu"))
    batches = Batches(torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8), 16, 0, augment="none")
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in state.networks]
    values = training_step(state, batches)
    for network, old in zip(state.networks, before, strict=True):
        changed = [k for k, p in network.named_parameters() if not torch.equal(p, old[k])]
        assert len(changed) > 0.9 * len(list(network.parameters()))
    steps = (
        {float(s["step"]) for s in state.optimizers["d"].state.values()},
        {float(s["step"]) for s in state.optimizers["eg"].state.values()},
    )
    assert steps == ({3.0}, {1.0})
    assert state.images_seen == 4 * 16
    assert all(math.isfinite(float(v)) for v in values.values())


def test_encoder_learning_rate_is_a_multiple_of_the_generators():
    state = TrainingState(tiny_config("optimizer.lr_g=0.001", "encoder.lr_multiplier=10"), torch.device("cpu"))
    rates = [(len(g["params"]), g["lr"]) for g in state.optimizers["eg"].param_groups]
    counts = [len(list(n.parameters())) for n in (state.networks.G, state.networks.E)]
    assert rates == [(counts[0], pytest.approx(0.001)), (counts[1], pytest.approx(0.01))]


def test_learning_rates_fall_geometrically_over_the_second_half():
    settings = ("optimizer.lr_final=0.01", "optimizer.lr_d=1", "optimizer.lr_g=2", "encoder.lr_multiplier=3")
    state = TrainingState(tiny_config(*settings, "training.steps=100"), torch.device("cpu"))
    for state.step, factor in [(0, 1), (50, 1), (75, 0.1), (100, 0.01)]:
        state.set_learning_rates()
        groups = [*state.optimizers["d"].param_groups, *state.optimizers["eg"].param_groups]
        assert [g["lr"] for g in groups] == pytest.approx([factor, 2 * factor, 6 * factor])


def test_steps_may_change_only_if_rates_do_not_depend_on_them(tmp_path):
    data = str(write_npz(tmp_path / "rows.npz"))
    for final, run in ((1, tmp_path / "constant"), (0.1, tmp_path / "falling")):
        train(tiny_config(f"optimizer.lr_final={final}", "training.steps=2"), data, run, progress=False)
    train(tiny_config("training.steps=3"), data, tmp_path / "constant", progress=False)
    with pytest.raises(UserError, match=r"training\.steps was 2, now 3"):
        train(tiny_config("optimizer.lr_final=0.1", "training.steps=3"), data, tmp_path / "falling", progress=False)


def test_reconstruction_errors_of_perfect_and_constant_g():
    state = TrainingState(tiny_config(), torch.device("cpu"))
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    class Fixed(nn.Module):
        def __init__(self, output):
            super().__init__()
            self.output = output

        def forward(self, z):
            return self.output

    D, E = state.networks.D, state.networks.E
    state.networks = type(state.networks)(Fixed(x), E, D)
    assert reconstruction_errors(state, x, x)["reconstruction_ratio"] == 0
    state.networks = type(state.networks)(Fixed(torch.zeros_like(x)), E, D)
    assert reconstruction_errors(state, x, x)["reconstruction_ratio"] == pytest.approx(1)


@pytest.mark.slow
def test_digits_are_learned(tmp_path):
    """The real experiment, shortened: the ratio falls well below 1 and the spread of z approaches the prior's."""
    from bigbigan.config import override

    config = override(EXPERIMENTS["small/digits"].config(), ["training.steps=400", "log.every=400"])
    train(config, "digits", tmp_path / "run", progress=False)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["reconstruction_ratio"] < 0.9
    assert 0.4 < last["z_mean_spread"] < 1.5


# -- what is written ----------------------------------------------------------------------------------------


def test_monitor_drops_torn_lines_and_those_after_the_resume(tmp_path):
    lines = [json.dumps({"step": s, "loss_d": 1.0}) for s in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo')
    monitor = Monitor(tmp_path, step=4, steps=10, progress=False)
    monitor.log(6, {"loss_d": 2.0})
    monitor.close()
    assert [(m["step"], m["loss_d"]) for m in read_metrics(tmp_path)] == [(2, 1.0), (4, 1.0), (6, 2.0)]


def test_grid_places_and_enlarges():
    images = torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 0.0, 1.0)])
    picture = np.array(grid(images, columns=2))
    assert picture.shape == (2 * 34 - 2, 2 * 34 - 2, 3)
    assert (picture[0, 0] == 0).all()
    assert (picture[0, 34] == 128).all()
    assert (picture[34, 34] == 255).all()  # an empty cell is white


def test_pairs_stand_above_each_other_even_in_a_short_last_row():
    above = torch.stack([torch.full((1, 8, 8), v / 5) for v in range(5)])
    picture = np.array(pairs_grid(above, -above, columns=3))
    for i in range(5):
        row, column = divmod(i, 3)
        top, bottom = picture[2 * row * 34, column * 34, 0], picture[(2 * row + 1) * 34, column * 34, 0]
        assert (top, bottom) == (min(255, int(128 * (1 + i / 5))), int(128 * (1 - i / 5)))


def test_colour_and_higher_resolution_of_e_train_end_to_end(tmp_path):
    data = write_npz(tmp_path / "colour.npz", side=16, channels=3)
    config = tiny_config("data.channels=3", "encoder.resolution=16", "data.augment=flip", "training.steps=2")
    train(config, str(data), tmp_path / "run", progress=False)
    assert Image.open(tmp_path / "run" / "samples" / "reconstructions-00000002.png").mode == "RGB"


# -- experiments --------------------------------------------------------------------------------------------


def test_config_round_trip_of_defaults():
    assert config_from_dict(Config().to_dict(), "test") == Config()


def test_an_older_config_gets_todays_defaults():
    tree = Config().to_dict()
    del tree["discriminator"]["pair_norm"], tree["log"]
    assert config_from_dict(tree, "test") == Config()


# -- the training step ----------------------------------------------------------------------------------------


def test_step_trains_every_player_of_an_update():
    """An update that yields D's loss and then G's and E's must step both, in every chunk."""
    config = tiny_config("training.accumulate=2", "training.d_steps=1")
    state = TrainingState(config, torch.device("cpu"))
    pixels = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    system = state.system

    class OneUpdate(type(system)):
        @property
        def updates(self):
            return [self.both]

        def both(self, x, noise):
            yield from self.discriminator_update(x, noise)
            yield from self.encoder_generator_update(x, noise)

    state.system = OneUpdate(config, state.networks)
    before = {name: weight.clone() for name, weight in state.weights().items()}
    metrics = training_step(state, Batches(pixels, 16, 0))
    for network, weight in (("D", "D.head_x.weight"), ("G", "G.seed.weight"), ("E", "E.latent.weight")):
        assert not torch.equal(before[weight], state.weights()[weight]), network
    assert {"loss_d", "loss_eg", "grad_norm_d", "grad_norm_g", "grad_norm_e"} <= metrics.keys()


def test_frozen_discriminator_thaws_after_an_error():
    D = nn.Linear(2, 1)
    with pytest.raises(RuntimeError), frozen(D):
        raise RuntimeError
    assert D.training
    assert D.weight.requires_grad


class Scripted:
    """A validation whose values are given."""

    lower_is_better = False
    possible = True
    metric = SimpleNamespace(name="auroc_linear_avepool_10perclass")

    def __init__(self, values):
        self.values = iter(values)

    def __call__(self, state):
        return next(self.values)


def test_a_value_that_is_not_a_number_is_never_the_best(tmp_path, monkeypatch):
    best = []
    monkeypatch.setattr(validation.ck, "best_record", lambda run: best[-1] if best else None)
    monkeypatch.setattr(validation.ck, "checkpoints", lambda run: [SimpleNamespace(step=step) for step in (1, 2, 3)])
    save = lambda run, step, metric, value: best.append({"step": step, "metric": metric, "value": value})  # noqa: E731
    monkeypatch.setattr(validation.ck, "save_best", save)
    script = Scripted([math.nan, 0.8, 0.9, math.nan])
    for step in range(1, 5):
        validation.validate(script, SimpleNamespace(step=step), SimpleNamespace(log=lambda *a: None), tmp_path)
    assert [record["step"] for record in best] == [2, 3]


class Partly(nn.Module):
    """A backbone with a parameter that nothing uses and a frozen one, as pretrained backbones have."""

    def __init__(self, channels, encoder):
        super().__init__()
        self.num_features = 8
        self.convolution = nn.Conv2d(channels, 8, 3, padding=1)
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.unused = nn.Linear(8, 3)

    def forward(self, x):
        return self.frozen(self.convolution(x)).mean((2, 3))


def test_backbones_with_unused_and_frozen_parameters_train_and_continue(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    data = str(write_npz(tmp_path / "rows.npz"))
    config = tiny_config("encoder.block=test_training:Partly", "log.checkpoint_every=2")
    for steps in (2, 4):
        longer = replace(config, training=replace(config.training, steps=steps))
        train(longer, data, tmp_path / "parts", progress=False)
    train(longer, data, tmp_path / "whole", progress=False)
    ends = [load_file(tmp_path / run / "checkpoints/step-00000004/weights.safetensors") for run in ("parts", "whole")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_rates_by_epoch_are_defined_for_short_runs(steps):
    factors = [rate_factor(step, steps, 0.01, 4) for step in range(steps + 2)]
    assert all(0 < factor <= 1 for factor in factors)


def test_a_run_that_failed_before_its_first_line_may_have_other_settings(tmp_path):
    data = str(write_npz(tmp_path / "rows.npz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigbigan.training.loop.training_step", lambda *a, **k: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises((MemoryError, RunError)):
            train(tiny_config("training.steps=2"), data, tmp_path / "run", progress=False)
    train(tiny_config("training.steps=2", "training.batch_size=8"), data, tmp_path / "run", progress=False)


def test_settings_of_own_experiments_are_recorded():
    config = override(Config(), ["optimizer.lr_g=0.5", "encoder.widths=[8,8]"])
    assert changed_settings(config) == {"optimizer.lr_g": 0.5, "encoder.widths": [8, 8]}


def test_a_folder_that_is_no_run_is_left_as_it_was(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run"):
        train(tiny_config("training.steps=2"), "digits", tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_an_experiment_is_trained_by_its_name(tmp_path):
    for config, message in (("small/digit", "small/digits"), ({"system": "bigbigan"}, "config is a dict; expected")):
        with pytest.raises(UserError, match=message):
            bigbigan.train(config, "digits", tmp_path / "run")
    assert {"load", "train", "Model"} <= set(dir(bigbigan))


def test_images_that_are_nearly_black_are_reported(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 16, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "dark.npz", images=images)
    with pytest.warns(UserWarning, match="40 of 40 images are nearly black"):
        train(tiny_config("training.steps=1"), str(tmp_path / "dark.npz"), tmp_path / "run", progress=False)
