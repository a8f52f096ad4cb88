"""Passes in bfloat16, compiled passes, batches in chunks: what they change, and what they must not."""

from __future__ import annotations

import functools

import pytest
import torch

from bigbigan.config import Config, override
from bigbigan.data import batches as of_data
from bigbigan.data.batches import Batches
from bigbigan.errors import RunError, UserError
from bigbigan.experiments import find
from bigbigan.methods import BigBiGAN
from bigbigan.models.batch_norm import batch_norms
from bigbigan.models.layers import SpectralNorm
from bigbigan.training import checkpoint as ck
from bigbigan.training import loop, step
from bigbigan.training.precision import check_devices
from bigbigan.training.state import TrainingState
from bigbigan.training.step import check_finite, training_step
from tiny import ADDITIONS, tiny_config

CPU = torch.device("cpu")
BF16, COMPILED = "training.precision=bf16", "training.compile=true"
NARROW = ["generator.channels=[16,16]", "discriminator.channels=[16,16]", "encoder.widths=[16,16]",
          "training.batch_size=16", "log.every=1", "log.standing_batches=2"]  # fmt: skip


@pytest.fixture(autouse=True)
def quick_compiler(request, monkeypatch):
    """Capture graphs as ever, but run them without the minutes that the C++ compiler takes."""
    torch.compiler.reset()
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def float64(monkeypatch):
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(of_data, "to_float", lambda pixels: pixels.double() / 127.5 - 1)
    yield
    torch.set_default_dtype(torch.float32)


def bigan(name: str, *settings: str) -> Config:
    return override(find(f"bigan/{name}").config(), [*NARROW, *settings])


def images(config: Config) -> Batches:
    c, r = config.data.channels, config.encoder.resolution
    pixels = torch.randint(0, 256, (40, c, r, r), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batches(pixels, config.training.batch_size, config.training.seed, "flip")


def trained(config: Config, steps: int, state: TrainingState | None = None) -> tuple[TrainingState, list[dict]]:
    state = state or TrainingState(config, CPU)
    values = [{k: float(v) for k, v in training_step(state, images(config)).items()} for _ in range(steps)]
    return state, values


def everything(state: TrainingState) -> dict[str, torch.Tensor]:
    return {**state.weights(), **state.moments()}


def largest_difference(a: TrainingState, b: TrainingState) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a.weights().values(), b.weights().values(), strict=True))


# -- bfloat16 and compiled passes ---------------------------------------------------------------------------

CONFIGS = {
    "bigbigan": lambda *s: tiny_config(*s),
    "reversible": lambda *s: tiny_config("encoder.block=reversible", *s),
    "gan": lambda *s: tiny_config("loss.s_z=false", "loss.s_xz=false", "discriminator.channels=[8]", *s),
    "bigan": lambda *s: bigan("mnist", *s),
    "joint latent regressor": lambda *s: bigan("joint_latent_regressor", *s),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_stays_near_float32_and_keeps_float32_state(name):
    plain, expected = trained(CONFIGS[name](), 3)
    state, values = trained(CONFIGS[name](BF16), 3)
    assert largest_difference(state, plain) > 0
    assert {t.dtype for t in everything(state).values()} <= {torch.float32, torch.int64}
    for ours, theirs in zip(values, expected, strict=True):
        for loss in (k for k in theirs if k.startswith("loss_")):
            assert ours[loss] == pytest.approx(theirs[loss], abs=0.05)


def test_power_iteration_is_float32_under_bf16():
    vectors = [
        {k: u for k, u in trained(tiny_config("training.d_steps=1", *s), 1)[0].weights().items() if k.endswith(".u")}
        for s in ([], [BF16])
    ]
    assert len(vectors[0]) > 10
    assert all(torch.equal(u, vectors[1][k]) for k, u in vectors[0].items())


@pytest.mark.parametrize("name", ["gan", "bigan"])
def test_graphs_give_what_eager_passes_give(name):
    plain, expected = trained(CONFIGS[name](), 3)
    state, values = trained(CONFIGS[name](COMPILED), 3)
    assert largest_difference(state, plain) < 1e-5
    assert all(ours[k] == pytest.approx(theirs[k], abs=1e-5) for ours, theirs in zip(values, expected, strict=True)
               for k in theirs if k.startswith("loss_"))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_compiled_steps_equal_eager_ones(name):
    """To rounding. With Adam's usual epsilon a gradient near zero would move its weight by the whole rate, whichever
    sign it is rounded to; with a large one steps are smooth in the gradient."""
    smooth = ["optimizer.eps=1", "optimizer.lr_g=0.05", "optimizer.lr_d=0.05"]
    plain, expected = trained(CONFIGS[name](*smooth), 5)
    state, values = trained(CONFIGS[name](*smooth, COMPILED), 5)
    moved = largest_difference(plain, TrainingState(CONFIGS[name](*smooth), CPU))
    assert moved > 1e-3
    assert largest_difference(state, plain) < 1e-3 * moved
    for ours, theirs in zip(values, expected, strict=True):
        assert all(ours[k] == pytest.approx(theirs[k], rel=1e-3, abs=1e-4) for k in theirs if k.startswith("loss_"))


@pytest.mark.parametrize(
    "settings", [[BF16], ["training.accumulate=2"], [COMPILED, BF16], [*ADDITIONS, BF16]], ids=" ".join
)
def test_a_resumed_run_is_bit_identical(settings, tmp_path):
    make = (lambda *s: bigan("mnist", *s)) if COMPILED in settings else tiny_config
    config = make(*settings)
    straight, _ = trained(config, 4)
    ck.save_checkpoint(trained(config, 2)[0], tmp_path, {}, keep=1)
    state = TrainingState(config, CPU)
    ck.load_state(state, ck.newest_checkpoint(tmp_path))
    trained(config, 2, state)
    assert all(torch.equal(t, everything(state)[k]) for k, t in everything(straight).items())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[COMPILED], [COMPILED, BF16]], ids=" ".join)
def test_a_resumed_compiled_run_is_bit_identical(settings, tmp_path):
    test_a_resumed_run_is_bit_identical(settings, tmp_path)


def test_a_missing_compiler_is_said_before_training(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"training.compile=true needs a C\+\+ compiler"):
        check_devices(tiny_config(COMPILED), CPU)


# -- batches in chunks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunks", "settings"), [(2, []), (8, []), (4, ADDITIONS)])
def test_chunks_equal_one_batch_with_fixed_batch_norm(chunks, settings, float64):
    states = []
    for accumulate in (1, chunks):
        config = tiny_config(f"training.accumulate={accumulate}", "discriminator.augment=[translation]", *settings)
        state = TrainingState(config, CPU)
        for network in state.networks[:2]:
            for norm in batch_norms(network):
                norm.eval()
        values = trained(config, 3, state)[1]
        states.append((state, values))
    assert largest_difference(states[0][0], states[1][0]) < 1e-9
    for ours, theirs in zip(states[0][1], states[1][1], strict=True):
        for name in ("loss_d", "loss_eg", "s_xz_enc", "s_x_gen", "grad_norm_d", "grad_norm_e"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-9)


def test_power_iteration_runs_once_an_update_for_any_chunks(monkeypatch):
    config = tiny_config("training.accumulate=4", "training.d_steps=1")
    state, plain = TrainingState(config, CPU), TrainingState(tiny_config("training.d_steps=1"), CPU)
    for s in (state, plain):
        training_step(s, images(config))
    layers = [[m for m in s.networks.D.modules() if isinstance(m, SpectralNorm)] for s in (state, plain)]
    assert all(torch.equal(a.u, b.u) and not a.reuse_vectors for a, b in zip(*layers, strict=True))


def test_batch_norm_counts_each_chunk():
    state, _ = trained(tiny_config("training.accumulate=4", "training.d_steps=1"), 1)
    assert {int(n.num_batches_tracked) for n in batch_norms(state.networks.G)} == {8}  # 4 per update


# -- numbers that are not finite, seen late -----------------------------------------------------------------


def test_nonfinite_update_is_skipped_and_reported_later(monkeypatch):
    """As on a GPU, where the value is read only when there is something to log or to save."""
    monkeypatch.setattr(step, "check_finite", lambda state: None)
    config = tiny_config("log.every=1000")
    state, batches = TrainingState(config, CPU), images(config)
    training_step(state, batches)
    D = state.networks.D
    before = {k: t.clone() for k, t in everything(state).items() if k.startswith("D.") and not k.endswith(".u")}
    broken = D.head_xz.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    training_step(state, batches)
    broken.remove()
    assert all(torch.equal(t, everything(state)[k]) for k, t in before.items())
    training_step(state, batches)
    assert not any(torch.equal(t, everything(state)[k]) for k, t in before.items() if k.endswith("weight"))
    assert all(torch.isfinite(t).all() for t in everything(state).values())
    with pytest.raises(RunError, match=r"step 2: not finite: loss_d nan.*skipped"):
        check_finite(state)
    check_finite(state)  # it is reported once


def test_nothing_is_saved_after_a_skipped_update(monkeypatch, tmp_path):
    from tiny import write_npz

    monkeypatch.setattr(BigBiGAN, "encoder_generator_update", _broken_once(BigBiGAN.encoder_generator_update))
    monkeypatch.setattr(loop, "training_step", _without_check(loop.training_step, monkeypatch))
    with pytest.raises(RunError, match="step 2: not finite: loss_eg nan"):
        loop.train(tiny_config("training.steps=8", "log.every=1000"), str(write_npz(tmp_path / "rows.npz")),
                   tmp_path / "run", progress=False)  # fmt: skip
    assert not ck.checkpoints(tmp_path / "run")


def _broken_once(update):
    calls = []

    def broken(*arguments):
        calls.append(1)
        for outcome in update(*arguments):
            if len(calls) == 2:
                outcome.losses = {name: loss * float("nan") for name, loss in outcome.losses.items()}
            yield outcome

    return broken


def _without_check(real_step, monkeypatch):
    def stepping(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(step, "check_finite", lambda state: None)
            return real_step(*arguments)

    return stepping
