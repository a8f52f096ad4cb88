"""The experiments: each builds, differs from its base as its name says, and trains; published parameter counts."""

import json
import math
from argparse import Namespace

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bigbigan.config import config_from_dict, flat, override
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.evaluation.records import read_results
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.experiments.biggan import biggan_discriminator, biggan_generator, pytorch_32, studiogan_32
from bigbigan.models import Discriminator, Generator, construct
from bigbigan.models.discriminator import ImageTrunk
from bigbigan.models.resnet import Bottleneck, ResNetV2
from bigbigan.models.revnet import RevNet
from bigbigan.training.flops import step_cost
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from reproduction.benchmark import full_size
from reproduction.common import Script
from reproduction.train import table as train_table

TABLE1 = [name for name in EXPERIMENTS if name.startswith("table1/")]
SIZES = [(name, scale) for name, e in EXPERIMENTS.items() for scale in (0, *e.scales)]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "scale"), SIZES, ids=[f"{n}@{s}" for n, s in SIZES])
@torch.no_grad()
def test_every_experiment_builds_and_survives_json(name, scale):
    config = find(name).config(scale)
    assert (config.experiment, config.scale) == (name, scale)
    assert config_from_dict(json.loads(json.dumps(config.to_dict())), "test") == config
    with torch.device("meta"):
        networks = construct(config)
        z = torch.empty(2, config.latent.dim)
        x = torch.empty(2, config.data.channels, config.encoder.resolution, config.encoder.resolution)
    if networks.G is None:
        assert networks.E.features(x).shape == (2, networks.E.num_features)
        assert find(name).summary
        return
    y = {"y": torch.empty(2, dtype=torch.long, device="meta")} if config.data.classes > 1 else {}
    images = networks.G(z, **y)
    assert images.shape == (2, config.data.channels, config.generator.resolution, config.generator.resolution)
    assert networks.E is None or networks.E(x).mean.shape == z.shape
    if networks.D is not None:
        scores = networks.D(images, z if config.has_encoder else None, **y)
        assert set(scores) == {f"s_{s}" for s in config.loss.scores}
    assert find(name).summary


def test_table_1_has_its_19_rows():
    rows = [e for e in EXPERIMENTS.values() if e.table_row and e.table_row.startswith("Table 1, ")]
    assert len(rows) == 19
    assert [e.name for e in rows if len(e.published) != 3] == ["table1/no_encoder"]  # its Cls. is a dash
    assert find("table1/hinge_of_sum").table_row is None


# What each row changes, and nothing else; the rows below High Res E are compared with it.
GENERATOR = {"generator.channels"}
RESOLUTION = {
    "generator.channels", "generator.attention", "discriminator.channels", "discriminator.attention", "latent.dim",
}  # fmt: skip
DIFFERENCES = {
    "deterministic_encoder": ("base", {"encoder.stochastic"}),
    "uniform_prior": ("base", {"encoder.stochastic", "latent.prior"}),
    "x_unary_only": ("base", {"loss.s_z"}),
    "z_unary_only": ("base", {"loss.s_x"}),
    "no_unaries": ("base", {"loss.s_x", "loss.s_z"}),
    "small_g_32": ("base", GENERATOR),
    "small_g_64": ("base", GENERATOR),
    "no_encoder": ("base", {"loss.s_z", "loss.s_xz"}),
    "hinge_of_sum": ("base", {"loss.hinge"}),
    "high_res_e": ("base", {"encoder.resolution"}),
    "low_res_g": ("high_res_e", RESOLUTION),
    "high_res_g": ("high_res_e", RESOLUTION),
    "resnet101": ("high_res_e", {"encoder.blocks"}),
    "resnet_x2": ("high_res_e", {"encoder.widths"}),
    "revnet": ("high_res_e", {"encoder.block"}),
    "revnet_x2": ("revnet", {"encoder.widths"}),
    "revnet_x4": ("revnet", {"encoder.widths"}),
    "resnet_up_encoder_lr": ("high_res_e", {"encoder.lr_multiplier"}),
    "revnet_x4_up_encoder_lr": ("revnet_x4", {"encoder.lr_multiplier"}),
}


@pytest.mark.parametrize("scale", [0, 16, 32, 64])
@pytest.mark.parametrize("row", DIFFERENCES)
def test_a_row_differs_from_its_base_only_as_its_name_says(row, scale):
    base, expected = DIFFERENCES[row]
    ours, theirs = (flat(find(f"table1/{name}").config(scale).to_dict()) for name in (row, base))
    differing = {k for k in ours if ours[k] != theirs[k]} - {"experiment"}
    assert differing
    assert differing <= expected
    if not scale:  # G attends at 64 px in 64-px images too, and D in 256-px images
        assert differing >= expected - {"generator.attention", "discriminator.attention"}


@pytest.mark.parametrize("scale", [0, 16, 32, 64])
def test_rows_of_table_1_stop_by_its_own_classifier(scale):
    assert {find(name).config(scale).log.validation_metric for name in TABLE1} == {"top1_table1_avepool"}


def test_table_1_is_measured_by_its_own_classifier():
    """reproduction/train/table.py, with --quick too."""
    for quick in (False, True):
        options = Namespace(quick=quick, network=None)
        names = train_table.metrics("1", "table1/base", find("table1/base").config(32), options)
        assert "top1_table1_avepool" in names
        assert ("top1_table1_bn_crelu" in names) != quick
        assert "top1_table1_pixels" in names
        assert "top1_table1_pixels" not in train_table.metrics(
            "1", "table1/revnet", find("table1/revnet").config(32), options
        )


def test_every_row_but_base_is_in_the_table_of_differences():
    assert {f"table1/{row}" for row in DIFFERENCES} | {"table1/base"} == set(TABLE1)


@pytest.mark.parametrize("name", TABLE1)
def test_every_row_of_table_1_takes_a_step_at_scale_16(name):
    config = override(find(name).config(16), ["training.batch_size=4", "log.every=1"])
    state = TrainingState(config, torch.device("cpu"))
    r = config.encoder.resolution
    pixels = torch.randint(0, 256, (8, 3, r, r), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before = {k: v.clone() for k, v in state.weights().items()}
    values = training_step(state, Batches(pixels, 4, 0, config.data.augment))
    assert all(math.isfinite(float(v)) for v in values.values())
    assert ("reconstruction_ratio" in values) == config.has_encoder == any(k.startswith("E.") for k in before)
    after = state.weights()
    for network in ("G", "D") + (("E",) if config.has_encoder else ()):
        weights = [k for k in before if k.startswith(f"{network}.") and k.endswith("weight")]
        changed = sum(not torch.equal(before[k], after[k]) for k in weights)
        assert changed > 0.9 * len(weights), network


def test_scale_is_refused_where_there_is_none():
    with pytest.raises(UserError, match="has one size only"):
        find("small/mnist").config(32)
    with pytest.raises(UserError, match="scales to 16, 32, 64"):
        find("table1/base").config(48)


# -- parameter counts -----------------------------------------------------------------------------------------


def counts(resolution, classes, dim_z, ch=96):
    """Parameters of BigGAN's conditional G and D; D is F, the linear score and the class projection."""
    g, d = biggan_generator(resolution, ch), biggan_discriminator(resolution, ch)
    with torch.device("meta"):
        G = Generator(dim_z, g.channels, 3, g.shared_dim, g.attention, classes)
        F = ImageTrunk(3, d.channels, resolution, d.final_size, d.attention)
        return count(G), count(Discriminator(F, 1, 1, 2, ("x",), classes=classes))


def test_published_counts_of_biggan():
    """Those of ajbrock/BigGAN-PyTorch. DeepMind's D at 256 and 512 px are given as 98.64 and 98.80 million: without the
    1×1 convolution on the skip of blocks that keep their width."""
    assert counts(128, 1000, 120) == (70_433_988, 87_982_370)
    assert counts(128, 1, 120) == (70_306_116, 86_447_906)
    skip = lambda width: width * width + width  # noqa: E731
    G, D = counts(256, 1000, 140)
    assert (G, D, D - skip(768)) == (82_097_604, 99_225_890, 98_635_298)
    G, D = counts(512, 1000, 160)
    assert (G, D - skip(768) - skip(96)) == (82_468_068, 98_801_378)


@pytest.mark.parametrize("name", ["table1/high_res_g", "biggan/128", "biggan/256", "biggan/512"])
def test_d_attends_at_64_px_as_published(name):
    assert find(name).config().discriminator.attention == (64,)


FULL_SIZE = [name for name in EXPERIMENTS if name.startswith(("table1/", "table3/"))]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_rows_have_none_of_our_additions(name):
    experiment = find(name)
    c = experiment.config()
    assert (c.encoder.stdev_bias, c.discriminator.pair_norm, c.additions) == (0.0, False, {})
    assert c.log.standing_batches * c.training.batch_size == 204_800  # compare_gan's number of samples
    kept = {"discriminator.pair_norm": True} if c.has_encoder else {}  # measured to be needed: docs/deviations.md, 2
    assert experiment.additions == {0: {}} | dict.fromkeys(experiment.scales, kept)


def test_sigma_starts_at_softplus_of_its_bias():
    """log 2 where it is as published: sigma-hat's linear layer starts without an offset."""
    for name, expected in (("table1/base", math.log(2)), ("small/digits", math.log(1 + math.exp(-3)))):
        small = ["encoder.resolution=32", "encoder.widths=[8,8]", "encoder.blocks=1", "encoder.block=basic",
                 "encoder.head_width=8", "encoder.stem=small", "generator.channels=[8,8]", "generator.attention=[]",
                 "discriminator.channels=[8,8]", "discriminator.attention=[]", "discriminator.mlp_width=8",
                 "latent.dim=4"]  # fmt: skip
        E = construct(override(find(name).config(), small)).encoder
        torch.nn.init.zeros_(E.latent.weight)
        torch.nn.init.zeros_(E.latent.bias)
        x = torch.zeros(2, find(name).config().data.channels, 32, 32)
        torch.testing.assert_close(E.eval()(x).stdev, torch.full((2, 4), expected))


def test_e_has_the_epsilon_of_the_code_the_paper_cites():
    with torch.device("meta"):
        G, E, _ = construct(find("table1/base").config(32))
        pairs = construct(find("pretext/relative_position").config(32)).encoder
    epsilons = lambda network: {m.eps for m in network.modules() if isinstance(m, _BatchNorm)}  # noqa: E731
    assert epsilons(G) == {1e-4}
    assert all(epsilons(part) == {1e-3} for part in (E.trunk, E.head, pairs.trunk, pairs.heads))


def test_published_counts_of_the_32_px_variants():
    for classes, expected in ((10, (4_304_387, 4_207_361)), (1, (4_276_739, 4_205_057))):
        g, d = pytorch_32(64)
        with torch.device("meta"):
            G = Generator(128, g.channels, 3, g.shared_dim, g.attention, classes, g.skip_z)
            F = ImageTrunk(3, d.channels, 32, d.final_size, d.attention)
            assert (count(G), count(Discriminator(F, 1, 1, 2, ("x",), classes=classes))) == expected


def counted_by_layer(ch, attention):
    """Parameters of the networks in the slides' Table 4 with 1,000 classes, z of 128 and attention at one side.

    G: dense to 4×4×16·ch; ResBlocks up to 16, 8, 4, 2 and 1 times ch; BN, ReLU, 3×3 convolution. D: ResBlocks down to
    1, 2, 4, 8 and 16 times ch, ResBlock of 16·ch, Embed(y)·h + dense. A class-conditional batch norm has a gain and a
    bias for each class.
    """

    def conv(a, b, side):
        return a * b * side**2 + b

    def non_local(c):
        return 2 * c * (c // 8) + 2 * c * (c // 2) + 1

    def block(a, b):
        return conv(a, b, 3) + conv(b, b, 3)

    up = [(16, 16), (16, 8), (8, 4), (4, 2), (2, 1)]
    down = [(2, 4), (4, 8), (8, 16)]
    G = 129 * 16 * 16 * ch + sum(block(a * ch, b * ch) + conv(a * ch, b * ch, 1) for a, b in up)
    G += 2 * 1000 * sum(a * ch + b * ch for a, b in up) + 2 * ch + conv(ch, 3, 3)
    G += non_local(ch * 128 // attention)
    D = block(3, ch) + conv(3, ch, 1) + sum(block(a * ch, b * ch) + conv(a * ch, b * ch, 1) for a, b in [(1, 2), *down])
    D += block(16 * ch, 16 * ch) + 1001 * 16 * ch + 1 + non_local(ch * 64 // attention)
    return G, D


@pytest.mark.parametrize(("name", "ch", "attention"), [("128_first", 96, 64), ("sagan_128", 64, 32)])
def test_ancestors_of_biggan_have_the_layers_of_table_4(name, ch, attention):
    """The slides' Table 4, and the self-attention GAN: its blocks with ch 64, and attention at 32 px."""
    config = find(f"biggan/{name}").config()
    with torch.device("meta"):
        networks = construct(config)
    assert (count(networks.G), count(networks.D)) == counted_by_layer(ch, attention)
    assert networks.G.seed.in_features == config.latent.dim == 128
    assert (config.data.classes, config.generator.resolution, networks.E) == (1000, 128, None)


def test_the_first_biggan_has_the_published_discriminator():
    """G alone differs from ajbrock/BigGAN-PyTorch's 128-px networks, of 70,433,988 and 87,982,370 parameters."""
    first, second = (find(f"biggan/{name}").config() for name in ("128_first", "128"))
    with torch.device("meta"):
        assert count(construct(first).D) == count(construct(second).D) == 87_982_370
    differing = {k for k, v in flat(first.to_dict()).items() if v != flat(second.to_dict())[k]}
    assert differing == {"experiment", "latent.dim", "generator.skip_z", "generator.shared_dim"}


def test_the_32_px_variants_generate_and_judge():
    for (g, d), dim in ((pytorch_32(4), 128), (studiogan_32(4), 80)):
        G = Generator(dim, g.channels, 3, g.shared_dim, g.attention, 10, g.skip_z)
        y = torch.tensor([0, 3, 9])
        images = G(torch.randn(3, dim), y)
        assert images.shape == (3, 3, 32, 32)
        F = ImageTrunk(3, d.channels, 32, d.final_size, d.attention)
        assert F.blocks(images).shape[-1] == 8
        D = Discriminator(F, 1, 1, 2, ("x",), classes=10)
        s = D(images, None, y)["s_x"]
        assert s.shape == (3,)
        assert not torch.equal(s, D(images, None, y.flip(0))["s_x"])
        assert not torch.equal(images, G(torch.zeros(3, dim), y))


def test_published_counts_of_encoder_trunks():
    widths, blocks = (256, 512, 1024, 2048), (3, 4, 6, 3)
    with torch.device("meta"):
        assert count(ResNetV2(3, widths, blocks, Bottleneck, "imagenet")) == 23_500_352
        for m, expected in ((1, 5_408_640), (2, 21_505_792), (4, 85_765_632)):
            trunk = RevNet(3, tuple(m * w for w in widths), blocks, "imagenet")
            assert (count(trunk), trunk.num_features) == (expected, 2048 * m)


def test_base_has_the_paper_s_sizes():
    with torch.device("meta"):
        G, E, D = construct(find("table1/base").config())
    assert (D.F.out_features, E.num_features, E.latent.out_features) == (1536, 2048, 240)
    # 29.6, 36.7 and 59.7 million without the projections on skips (paper-facts)
    assert count(D.H) - 120 * 2048 == pytest.approx(29.6e6, rel=0.01)
    assert count(D.J) - (1536 + 2048) * 2048 == pytest.approx(36.7e6, rel=0.01)
    assert count(G) == 70_306_116


def kinds():
    """Return one experiment of each combination of system, networks and trunk: the others are counted the same way."""
    found = {}
    for name, experiment in EXPERIMENTS.items():
        c = experiment.config(min(experiment.scales, default=0))
        key = (c.system, c.networks, c.generator.network, c.encoder.block, c.discriminator.network, c.data.classes > 1)
        found.setdefault(key, name)
    return list(found.values())


@pytest.mark.parametrize("name", kinds())
def test_every_experiment_s_cost_is_counted_without_running_it(name):
    experiment = EXPERIMENTS[name]
    cost = step_cost(experiment.config(min(experiment.scales, default=0)))
    assert cost["flops_per_step"] > 0
    assert cost["memory_bytes"] > 4 * sum(n for part, n in cost["parameters"].items() if "." not in part)


def test_cost_of_a_full_size_step_is_found_without_doing_it():
    cost = step_cost(find("table1/base").config())
    assert cost["parameters"]["G"] == 70_306_116
    assert 5e14 < cost["flops_per_step"] < 1e15
    assert 200 * 2**30 < cost["memory_bytes"] < 300 * 2**30


def test_cost_of_what_is_done_once_for_a_chunk_does_not_grow_with_the_batch():
    """Orthogonal regularisation, and dividing weights by their spectral norm."""
    small, large = (step_cost(override(find("biggan/64").config(), [f"training.batch_size={n}"])) for n in (8, 16))
    plain = [
        step_cost(override(find("biggan/64").config(), [f"training.batch_size={n}", "loss.orthogonal=0"]))
        for n in (8, 16)
    ]
    penalty = [cost["flops_per_step"] - p["flops_per_step"] for cost, p in zip((small, large), plain, strict=True)]
    assert penalty[0] == penalty[1] > 0
    assert large["memory_bytes"] < 2 * small["memory_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1/base", "table1/revnet_x4_up_encoder_lr"])
def test_full_size_rows_take_a_real_step_on_photographs(name, shared, tmp_path):
    archive, results = shared / "caltech101" / "caltech101-128.tar.gz", tmp_path / "lines.jsonl"
    Script(full_size.__spec__, full_size.__doc__).in_subprocess("--data", str(archive), "--results", str(results), name)
    values = {line["metric"]: line["value"] for line in read_results(results)}
    assert values["peak_memory_mib"] < 16 * 1024
    assert all(math.isfinite(v) for v in values.values())
    assert values["reconstruction_error"] > 0
